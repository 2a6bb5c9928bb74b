"""Files that are whole or absent, also after a crash or a loss of power, and that no planted link leads elsewhere."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file beside ``path`` and move it there, so that ``path`` is always a whole file.

    A link at ``path`` is replaced, and what it leads to left alone.

    Args:
        path: what becomes the file.
        write: fills the empty file that it is given.

    Raises:
        OSError: if it cannot be written; ``path`` is then as it was.
    """
    temporary = new_temporary(path)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Write a text file with :func:`replace_file`; names of files in it need not be text.

    Raises:
        OSError: if it cannot be written.
    """
    replace_file(path, lambda temporary: temporary.write_bytes(text.encode(errors="surrogateescape")))


def write_output(path: Path, text: str) -> None:
    """Write a file that a user has named: whole or not at all, but where the name is a link or a device, there.

    Raises:
        OSError: if it cannot be written.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        target.write_bytes(text.encode(errors="surrogateescape"))
    else:
        replace_text(target, text)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, in one write.

    Raises:
        OSError: if it cannot be written, or is a link or no file.
    """
    with open_own(path, os.O_WRONLY | os.O_APPEND) as file:
        file.write(f"{line}\n".encode(errors="surrogateescape"))


def open_own(path: Path, flags: int) -> IO[bytes]:
    """Open a file, made where it is missing, that is neither a link nor a device or the like.

    Args:
        path: the file.
        flags: of ``os.open``: O_WRONLY or O_RDWR, and O_APPEND.

    Raises:
        OSError: if it cannot be opened; ELOOP for a link.
    """
    # Without O_NONBLOCK, a FIFO would be waited for.
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, f"{path.name} is a link, remove it") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{path.name} is no regular file, remove it")
    return os.fdopen(descriptor, "r+b" if flags & os.O_RDWR else "wb", buffering=0)


def new_temporary(path: Path) -> Path:
    """Make an empty file beside ``path``, whose name nobody could foresee, with the mode that new files have.

    Raises:
        OSError: if it cannot be made.
    """
    # As long as the name itself may be: a temporary one must not be too long where that is not.
    stem = os.fsdecode(os.fsencode(path.name)[:200])
    temporary = path.with_name(f".{stem}.{secrets.token_hex(8)}.tmp")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
    return temporary


def remove_leftovers(folder: Path) -> None:
    """Remove the files of :func:`new_temporary` that a killed process has left; no other may be writing there."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if _TEMPORARY.fullmatch(name):
                with contextlib.suppress(OSError):
                    os.unlink(folder / name)


def write_synced(path: Path, content: bytes | memoryview) -> None:
    """Write a file, and return when it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Return when the names in a folder are on the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # a file system that does not open folders has no use for it either
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse it for folders
    finally:
        os.close(descriptor)
