"""Processes and files that help this one: no signal to its group ends them, and no temporary folder is needed."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO, Any

LAUNCHER = "DALI_MIX_LAUNCHER"
"""Environment variable: the process that a run shall not outlive."""

_SHARED_MEMORY = "/dev/shm"
_KEPT_AWAY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def start_helper(command: Sequence[str], **options: Any) -> subprocess.Popen:
    """Start a process that ends when this one closes its pipe, and not before.

    What a terminal, a launcher or a cluster sends asks this process to stop, which may still need the helper.  Signals
    are blocked from its first instruction on: a handler of its own would come too late by the time it takes to start.

    Args:
        command: program and arguments.
        options: of ``subprocess.Popen``.

    Raises:
        OSError: if it cannot be started.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _KEPT_AWAY)
    try:
        return subprocess.Popen(command, start_new_session=True, **options)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def require_temporary_folder() -> None:
    """See to it that there is one: without, as with ``docker run --read-only``, PyTorch cannot be imported.

    Raises:
        FileNotFoundError: if there is none, nor shared memory to take its place.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        if not os.access(_SHARED_MEMORY, os.W_OK | os.X_OK):
            raise FileNotFoundError(
                "no folder for temporary files can be written to, and PyTorch needs one: name one in TMPDIR, or give "
                "the container one with --tmpfs /tmp"
            ) from error
        tempfile.tempdir = os.environ["TMPDIR"] = _SHARED_MEMORY


def scratch_file() -> IO[bytes]:
    """Make a file without a name: in memory, as a temporary folder may be full, read-only or gone.

    Raises:
        OSError: where there is no such file on this system, nor a temporary folder.
    """
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("dali_mix"), "w+b")
    return tempfile.TemporaryFile()
