"""What is printed: help as sentences, and standard output and error that may fail without harm to the work."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast


class _Nowhere(io.TextIOBase):
    """What stands in for ``sys.stderr`` where that is None, as after ``2>&-``."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        """Drop it."""
        return len(text)


class Forgiving:
    """A text stream whose writes never raise; once one has failed, what follows is dropped.

    Args:
        stream: where to write; None drops everything.

    Fields:
        error: why writing failed, None as long as it works.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = _Nowhere() if stream is None else stream
        self.error: OSError | None = None
        # A name that the locale's encoding lacks is shown escaped; it must not end a run.
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write as ``TextIO.write`` does."""
        if self.error is None:
            try:
                self._stream.write(text)
            except OSError as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Flush as ``TextIO.flush`` does."""
        if self.error is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._give_up(error)

    def isatty(self) -> bool:
        """Whether somebody may be looking."""
        return self.error is None and bool(self._stream.isatty())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self, error: OSError) -> None:
        self.error = error
        # The interpreter writes what is buffered when it ends, and would fail again.
        with suppress(OSError, ValueError):
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, self._stream.fileno())
            os.close(sink)


class HelpFormatter(argparse.HelpFormatter):
    """Tells a flag's default in a sentence of its own, where the value says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # What Python 3.11 adds to switches.
        text = (action.help or "").removesuffix(" (default: %(default)s)")
        default = action.default
        if default in (None, False, "", argparse.SUPPRESS) or default == [] or default == {} or not text:
            return text
        if default is True:
            return f"{text} Default: on."
        shown = " ".join(map(_plain, default)) if isinstance(default, (list, tuple)) else "%(default)s"
        return f"{text} Default: {shown}."


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def forgiving() -> Iterator[None]:
    """Let nothing that is printed fail while it lasts.

    At its end stderr is told if stdout could not be written; that a reader has left, as ``head`` does, is not worth a
    word.
    """
    _fill_descriptors()
    before = sys.stdout, sys.stderr
    out, err = Forgiving(sys.stdout), Forgiving(sys.stderr)
    sys.stdout, sys.stderr = cast(Any, out), cast(Any, err)
    try:
        yield
    finally:
        out.flush()
        if out.error is not None and out.error.errno != errno.EPIPE:
            err.write(f"standard output could not be written: {out.error.strerror}; its lines are lost\n")
        err.flush()
        sys.stdout, sys.stderr = before


def _fill_descriptors() -> None:
    """Let no file that is opened later become descriptor 1 or 2, where libraries write their messages."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor, which is this one
