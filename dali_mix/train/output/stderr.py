"""Messages of image decoders: each kind once, then counted.

nvImageCodec, libjpeg and their like write a line per image to file descriptor 2, tens of thousands a minute where a
data set or a driver displeases them, and the run's own lines drown.  They know no setting against it.  So descriptor 2
of this process becomes a pipe, and a small process at its other end passes on what comes, at once and unchanged,
but for messages of a decoder that it has passed on before.

A process and not a thread: a thread would die with the run, and with it the last words of what killed it; and it needs
Python's lock, which a thread that waits for a decoder may hold while that decoder waits for room in the pipe.

What Python writes to ``sys.stderr``, progress bars above all, does not go through the pipe.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, cast

_log = logging.getLogger(__name__)

_END = b"\0dali_mix: the run has ended"
"""A line, for the process at the other end: other holders of the pipe may outlive the run."""

_WAIT_S = 1.0
"""How long to wait for that process to end, at the end of a run."""


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Show a decoder's message once while it lasts, and at its end how often each came again.

    Nothing is done where nothing could be passed on: without a stderr (``2>&-``), and in process 1 of a container,
    whose death ends all others before they have passed on its last words (``docker run --init`` helps).
    """
    real = _start()
    if real is None:
        yield
        return
    with _python_stderr(real):
        try:
            yield
        finally:
            _stop(real)


class _Filter:
    """The process at the other end of the pipe, and the descriptor that the pipe has taken the place of."""

    def __init__(self, process: subprocess.Popen, descriptor: int) -> None:
        self.process, self.descriptor = process, descriptor


_outlived: list[subprocess.Popen] = []
"""The relays of runs that have ended while another process still held the pipe."""


def _start() -> _Filter | None:
    # With no stderr from the start, descriptor 2 may since have become any other file.
    if sys.__stderr__ is None or os.getpid() == 1 or not sys.executable or not os.path.isfile(__file__):
        return None
    try:
        real = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError:
        return None
    from dali_mix.helpers import start_helper  # not above: the other process runs this file without the package

    reading, writing = os.pipe()
    try:
        # Launchers signal and kill whole groups; this one ends when the last holder of the pipe has.
        process = start_helper(
            [sys.executable, "-I", "-S", __file__], stdin=reading, stdout=subprocess.DEVNULL, stderr=real
        )
    except OSError as error:
        _log.warning("messages of decoders will not be counted: %s", error)
        os.close(real)
        return None
    else:
        os.dup2(writing, 2)
        return _Filter(process, real)
    finally:
        os.close(reading)
        os.close(writing)


def _stop(real: _Filter) -> None:
    with suppress(OSError):  # it has been killed
        os.write(2, _END + b"\n")
    os.dup2(real.descriptor, 2)
    try:
        code = real.process.wait(_WAIT_S)
    except subprocess.TimeoutExpired:
        _outlived.append(real.process)
        return
    if code:
        _log.warning("the process that counts messages of decoders ended early; some may be lost")


@contextmanager
def _python_stderr(real: _Filter) -> Iterator[None]:
    """Give ``sys.stderr`` the descriptor that 2 has been, and back."""
    before = sys.stderr
    if not _is_descriptor_2(before):  # nobody's, or a test's
        try:
            yield
        finally:
            os.close(real.descriptor)
        return
    from dali_mix.terminal import Forgiving

    with open(real.descriptor, "w", buffering=1, encoding=before.encoding, errors=before.errors) as stream:
        before.flush()
        direct = cast(TextIO, Forgiving(stream))
        sys.stderr = direct
        try:
            yield
        finally:
            sys.stderr = before
            for handler in logging.getLogger().handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream is direct:
                    handler.setStream(before)


def _is_descriptor_2(stream: object) -> bool:
    try:
        return stream.fileno() == 2  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False


# The process at the other end.  It is run by this file's path, without the package.

_COLOR = re.compile(rb"\x1b\[[0-9;]*m")
_LEVEL = re.compile(rb"\[(?:ERROR|WARNING|INFO|DEBUG|TRACE)\] *")
_MODULE = rb"[a-z0-9_]+_(?:decoder|encoder|parser)"
_NVIMAGECODEC = re.compile(rb"\[" + _MODULE + rb"\] ")
_LIBRARY = re.compile(
    rb"Corrupt JPEG data: |Premature end of JPEG file|Unsupported marker type 0x|Invalid SOS parameters|"
    rb"Invalid (?:JPEG|progressive) |Inconsistent progression |Application transferred too |"
    rb"libpng (?:warning|error): |TIFF[A-Za-z]+: |\[ ?(?:WARN|ERROR):\d+@"
)
_OPENCV = re.compile(rb"\[ ?(?:WARN|ERROR):")
_BEFORE_TEXT = re.compile(_NVIMAGECODEC.pattern + rb"|TIFF[A-Za-z]+: ")
_SCRAPS = re.compile(_LEVEL.pattern + rb"|" + _MODULE + rb"|TIFF[A-Za-z]+: |[\[\].\s]")
_NUMBER = re.compile(rb"0x[0-9a-fA-F]+|[0-9][0-9.]*")
_SHORTEST_TEXT = 16
"""To be recognized by itself: a shorter one may be part of anything."""
_MOST_KINDS = 200
_TELL_AT = frozenset(10**power for power in range(3, 15))
_LONGEST_LINE = 1 << 16
_UNFINISHED_S = 0.05
"""How long the beginning of a line is kept: nvImageCodec writes one in pieces."""


def message_in(line: bytes) -> bytes:
    """Find the decoder's message in a line, without color and level; empty if it is another line."""
    bare = _LEVEL.sub(b"", _COLOR.sub(b"", line).strip())
    return bare if _NVIMAGECODEC.match(bare) or _LIBRARY.match(bare) else b""


class MessageCounter:
    """Passes lines on, but for those of which it has passed on the like.

    Args:
        write: takes what is passed on.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._counts: Counter[bytes] = Counter()
        self._firsts: dict[bytes, bytes] = {}
        self._pending = b""
        self._inside_line = self._after_hidden = False

    def take(self, data: bytes) -> None:
        """Lines, and maybe the beginning of one, which is kept."""
        *lines, rest = (self._pending + data).split(b"\n")
        for line in lines:
            self._pass_line(line + b"\n")
        self._pending = rest
        if self._inside_line or len(rest) > _LONGEST_LINE:
            self.pass_beginning()

    def pass_beginning(self) -> None:
        """It seems to be no message, but perhaps a prompt: pass it on, and the rest of the line when it comes."""
        if self._pending:
            self._write(self._pending)
            self._inside_line, self._pending = True, b""

    @property
    def waits(self) -> bool:
        """Whether the beginning of a line is kept."""
        return bool(self._pending)

    def tell(self) -> None:
        """How often each kind has come, if more than once; and begin anew."""
        for kind, count in self._counts.most_common():
            if count > 1:
                self._tell_kind(kind)
        self._counts.clear()
        self._firsts.clear()

    def _pass_line(self, line: bytes) -> None:
        inside, self._inside_line = self._inside_line, False
        after_hidden, self._after_hidden = self._after_hidden, False
        before, ended, _ = line.partition(_END)
        if ended:
            if before:
                self._write(before + b"\n")
            self.tell()
        elif inside or not (self._hide(line) or (after_hidden and line == b"\n")):
            self._write(line)

    def _hide(self, line: bytes) -> bool:
        """Count the messages in a line; whether all are of a kind that has been passed on."""
        message = message_in(line)
        kind = _NUMBER.sub(b"#", message)
        if message and kind in self._counts:
            # OpenCV ends some of its messages with two newlines.
            self._after_hidden = bool(_OPENCV.match(message))
            self._add(kind)
            return True
        mixed = self._mixed(line)
        if mixed:
            self._after_hidden = True
            for kind in mixed:
                self._add(kind)
            return True
        if not message:
            return False
        kind = kind if len(self._counts) < _MOST_KINDS else b"others"
        known = kind in self._counts
        self._firsts.setdefault(kind, message)
        self._add(kind)
        return known

    def _mixed(self, line: bytes) -> list[bytes]:
        """The kinds of which a line is made, and of nothing else.

        nvImageCodec and libtiff write where a message comes from, its text and the newline one after the other, and
        their threads at the same time.
        """
        rest, found = _NUMBER.sub(b"#", _COLOR.sub(b"", line)), []
        for kind in self._counts:
            text = _BEFORE_TEXT.sub(b"", kind, count=1)
            if len(text) >= _SHORTEST_TEXT and text in rest:
                found += [kind] * rest.count(text)
                rest = rest.replace(text, b"")
        return found if found and not _SCRAPS.sub(b"", rest) else []

    def _add(self, kind: bytes) -> None:
        self._counts[kind] += 1
        if self._counts[kind] in _TELL_AT:
            self._tell_kind(kind, " so far")

    def _tell_kind(self, kind: bytes, when: str = "") -> None:
        self._write(f"{self._counts[kind]:,} messages{when} like: ".encode() + self._firsts[kind] + b"\n")


def _write_all(data: bytes) -> None:
    """Write, also to a terminal that does not block; what nobody takes any more is dropped, as without this process."""
    while data:
        try:
            data = data[os.write(2, data) :]
        except BlockingIOError:
            select.select([], [2], [])
        except OSError:
            return


def _serve() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    counter = MessageCounter(_write_all)
    while True:
        if counter.waits and not select.select([0], [], [], _UNFINISHED_S)[0]:
            counter.pass_beginning()
            continue
        data = os.read(0, 1 << 16)
        if not data:
            break
        counter.take(data)
    counter.pass_beginning()
    counter.tell()


if __name__ == "__main__":
    _serve()
