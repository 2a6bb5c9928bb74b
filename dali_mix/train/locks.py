"""Locks between processes, which end with the process that holds them, however it ends."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from dali_mix.files import open_own

_log = logging.getLogger(__name__)

_BETWEEN_S = 0.2


class BusyError(Exception):
    """Another process holds the lock; the message names it."""


class Lock:
    """A file that this process holds until :meth:`release`.

    Args:
        path: the file, made where it is missing; it names its holder.
        folder: hold this folder too, as the file may be removed from it by hand.
        wait_s: how long to wait for another holder.

    Raises:
        BusyError: if another process holds it all that time.
        OSError: if the file cannot be made or opened.
    """

    def __init__(self, path: Path, *, folder: Path | None = None, wait_s: float) -> None:
        self._path = path
        end = time.monotonic() + wait_s
        while not self._take(folder):
            if time.monotonic() > end:
                raise BusyError(_holder(path))
            time.sleep(_BETWEEN_S)
        self._name_holder()

    def release(self, *, remove: bool = False) -> None:
        """Let other processes have it.

        Args:
            remove: the file too; a process that waits for it makes another one.
        """
        if remove:
            with suppress(OSError):
                self._path.unlink()
        self._let_go()

    def _take(self, folder: Path | None) -> bool:
        """Try once."""
        self._file: IO[bytes] = open_own(self._path, os.O_RDWR)
        self._folder = -1 if folder is None else _open_folder(folder)
        taken = _flock(self._file.fileno(), self._path) and (self._folder < 0 or _flock(self._folder))
        # The file may have been removed since it was opened: then another process locks another one.
        if taken and _is_still(self._file, self._path):
            return True
        self._let_go()
        return False

    def _let_go(self) -> None:
        self._file.close()
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def _name_holder(self) -> None:
        # On a full disk it has no name; and the content of a hard link is not ours to change.
        with suppress(OSError):
            if os.fstat(self._file.fileno()).st_nlink == 1:
                self._file.truncate(0)
                self._file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())


def _open_folder(folder: Path) -> int:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1  # one that may be written to, but not read


def _flock(descriptor: int, path: Path | None = None) -> bool:
    """Whether no other process has it; without locks, as on some network drives, nobody knows.

    Args:
        descriptor: to lock.
        path: named in the warning; None for what need not be locked.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if path is not None:
            _log.warning(
                "%s cannot be locked (%s): see to it that no second run writes to that folder", path, error.strerror
            )
    return True


def _is_still(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path, follow_symlinks=False))
    except OSError:
        return False


def _holder(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        text = path.read_bytes()[:200].decode().strip()
        if text and text.isprintable():
            return text
    return "another process"
