"""Wall time and processor time of everything that a process does, in its threads and its worker processes."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from pathlib import Path
from typing import NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Elapsed(NamedTuple):
    """What a piece of work took.

    Fields:
        seconds: on the wall.
        cpu_seconds: of all cores together.
    """

    seconds: float
    cpu_seconds: float


class Stopwatch:
    """Runs from the moment it is made."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), cpu_seconds()

    def read(self) -> Elapsed:
        """What has passed since."""
        start, cpu_start = self._start
        return Elapsed(time.perf_counter() - start, cpu_seconds() - cpu_start)


def cpu_seconds() -> float:
    """Processor time used so far by this process with all its threads, and by its worker processes.

    Workers that still run count too, to a hundredth of a second each: the system adds a child's time to its
    parent's only when the child has ended, and a DataLoader's workers live as long as the loader.
    """
    living = sum(_cpu_seconds_of(child.pid) for child in multiprocessing.active_children() if child.pid)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + living + ended.ru_utime + ended.ru_stime


def _cpu_seconds_of(pid: int) -> float:
    # proc(5): the name in parentheses may hold spaces; utime and stime are the 12th and 13th field behind it.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
