"""Output that cannot be written is no failure."""

import errno
import io
import os
import sys

import pytest

from dali_mix.terminal import Forgiving, forgiving
from dali_mix.tools.cli import main


class Failing(io.StringIO):
    def __init__(self, number, at_flush=False):
        super().__init__()
        self.number, self.at_flush = number, at_flush

    def write(self, text):
        return len(text) if self.at_flush else self.flush()

    def flush(self):
        raise OSError(self.number, os.strerror(self.number))


def test_a_reader_that_has_gone_is_not_worth_a_word(monkeypatch, capfd):
    """The help of ``dali-mix --help | head -1``: descriptor 1 is a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["--help"]) == 0
        assert sys.stdout is stream
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("at_flush", [False, True])
def test_a_full_disk_is_told_where_it_can_be(monkeypatch, capsys, at_flush):
    monkeypatch.setattr(sys, "stdout", Failing(errno.ENOSPC, at_flush))
    with forgiving():
        for _ in range(3):
            print("line")
    assert capsys.readouterr().err == (
        "standard output could not be written: No space left on device; its lines are lost\n"
    )


def test_an_error_goes_on_its_way(monkeypatch):
    monkeypatch.setattr(sys, "stdout", before := Failing(errno.EPIPE))
    with pytest.raises(ZeroDivisionError), forgiving():
        print(1 / 0)
    assert sys.stdout is before


def test_without_streams_nothing_is_written(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with forgiving():
        print("line")
        print("line", file=sys.stderr)
        assert not sys.stderr.isatty()
    assert sys.stderr is None


def test_what_an_encoding_lacks_is_shown_escaped():
    raw = io.BytesIO()
    stream = Forgiving(io.TextIOWrapper(raw, encoding="ascii"))
    print("caf\xe9 \udce9", file=stream, flush=True)
    assert raw.getvalue() == b"caf\\xe9 \\udce9\n"
