"""Signals that ask a run to stop: it ends after the current update, with a checkpoint; before the first, at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

EXIT_STOPPED = 75
"""Exit code after the others (``EX_TEMPFAIL``): run the same command with ``--auto-resume`` to go on."""
EXIT_INTERRUPTED = 130
"""Exit code after SIGINT."""

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def _heeded() -> tuple[signal.Signals, ...]:
    """SIGHUP, of a terminal that is closed, too: but not under ``nohup``, which has it ignored."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return _SIGNALS if ignored else (*_SIGNALS, signal.SIGHUP)


class Stopped(BaseException):
    """The run has stopped because it was asked to; no error, so that nothing on the way handles it as one.

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
        """The signal's name; another rank has got it if this one has not."""
        return signal.Signals(self.signal).name if self.signal is not None else "a signal to another rank"

    @property
    def exit_code(self) -> int:
        """The exit code that the process ends with."""
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
            with suppress(OSError):  # the terminal may be what has gone
                os.write(2, f"\n{signal.Signals(number).name}: stopping after this update{again}\n".encode())

    before = {number: signal.signal(number, handle) for number in _heeded()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def starting_signals() -> Iterator[None]:
    """Let a signal end a run that does not train yet at once, in order: it frees what it holds, and exits as later.

    Of several ranks they end each as they did: one may be waiting for others in code that heeds no Python handler.

    Raises:
        Stopped: from wherever the run is, when a signal comes.
    """
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    if not alone or threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        raise Stopped(f"stopped by {name}, not in training; the same command with --auto-resume goes on", EXIT_STOPPED)

    numbers = [number for number in _heeded() if number != signal.SIGINT]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
