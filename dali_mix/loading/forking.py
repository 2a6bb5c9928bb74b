"""DALI and ``os.fork``: the child has none of the threads that pipelines wait for."""

from __future__ import annotations

import os

from dali_mix.dali_private import forget_pipelines
from dali_mix.errors import ConfigError

_in_use = False
_forked = False


def require_own_dali() -> None:
    """Refuse to use pipelines in a process that was forked from one in which DALI has run.

    To be called before a pipeline is built and before one is used.  From the first call on, processes that are
    forked from this one end cleanly: they forget all pipelines that they inherit, whoever made them.

    Raises:
        ConfigError: in such a process.  The pipelines it inherits wait for threads that it does not have; new ones
            wait for the locks that one of those threads may have held at the time of the fork.
    """
    global _in_use
    if _forked:
        raise ConfigError(
            "this process was forked from one in which DALI has run, and lacks its threads: loaders made there do not "
            "work here, and new ones would hang; start it with multiprocessing's 'spawn', or before the first loader"
        )
    if not _in_use:
        _in_use = True
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    """Keep DALI from shutting inherited pipelines down: it would wait for ever."""
    global _forked
    _forked = True
    forget_pipelines()
