"""Signals that ask a run to stop: it ends after the current update, with a checkpoint."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_STOPPED = 75
"""Exit code after SIGTERM and SIGUSR1 (``EX_TEMPFAIL``): run the same command with ``--auto-resume`` to go on."""
EXIT_INTERRUPTED = 130
"""Exit code after SIGINT."""

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Stopped(Exception):
    """The run has stopped because it was asked to.

    Fields:
        exit_code: for the process.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StopRequest:
    """Whether a signal has come; SLURM sends SIGTERM, or SIGUSR1 with ``--signal``, before a job's time is over."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def name(self) -> str:
        """Of the signal; another rank has got it if this one has not."""
        return signal.Signals(self.signal).name if self.signal is not None else "a signal to another rank"

    @property
    def exit_code(self) -> int:
        """What the process ends with."""
        return EXIT_INTERRUPTED if self.signal == signal.SIGINT else EXIT_STOPPED

    def receive(self, number: int) -> None:
        """Note the first signal; a SIGINT after it ends the process at once."""
        if number == signal.SIGINT:
            # The system's own handling: Python's would wait for a collective or a kernel to return.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if self.signal is not None:
                signal.raise_signal(signal.SIGINT)
        if self.signal is None:
            self.signal = number


@contextmanager
def stop_signals(*, speak: bool) -> Iterator[StopRequest]:
    """Collect signals instead of dying of them, until the context ends.

    Args:
        speak: say at once that one has come.
    """
    request = StopRequest()

    def handle(number: int, _: FrameType | None) -> None:
        first = not request
        request.receive(number)
        if speak and first:
            again = ", once more to stop at once" if number == signal.SIGINT else ""
            # Not print: the signal may have come in the middle of one.
            os.write(2, f"\n{signal.Signals(number).name}: stopping after this update{again}\n".encode())

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
