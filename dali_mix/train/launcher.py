"""The process that started this one, where it is to end when that one has.

torchrun stops its ranks when it is stopped, but not when it is killed: they would train on, hold the run's folder, and
refuse it to whoever starts the run again.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from dali_mix.helpers import LAUNCHER as LAUNCHER

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
# Noted when the package is imported, which takes seconds.
_parent = os.getppid()


def _note_parent() -> None:
    global _parent
    _parent = os.getppid()


os.register_at_fork(after_in_child=_note_parent)


def follow_launcher() -> None:
    """Take the end of the launcher for a SIGTERM from now on; without torchrun there is none.

    Not by ``PR_SET_PDEATHSIG``: it signals the end of the thread that has started this process, not of its process.
    """
    lives = _launcher()
    if lives is not None:
        threading.Thread(target=_follow, args=(lives,), name="launcher", daemon=True).start()


def _launcher() -> Callable[[], bool] | None:
    """What tells whether it is there; None without one."""
    named = os.environ.get(LAUNCHER, "")
    if named.isdecimal():
        return lambda: _exists(int(named))
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None  # a shell may end before what it has started
    if _parent == 1 and not _first_process_is_python():
        return lambda: False  # it had ended before this process had a look
    parent = _parent
    return lambda: os.getppid() == parent


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _first_process_is_python() -> bool:
    """Whether process 1 is torchrun, as in some containers; else it adopts those whose parents have ended."""
    with suppress(OSError):
        return os.path.basename(os.readlink("/proc/1/exe")).startswith("python")
    return False


def _follow(lives: Callable[[], bool]) -> None:
    while lives():
        time.sleep(_LOOK_EVERY_S)
    _log.warning("the process that started this run has ended: stopping")
    os.kill(os.getpid(), signal.SIGTERM)
