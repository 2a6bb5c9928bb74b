"""Names that would move a terminal's cursor, forge a line, or are no text at all."""

import io
import logging
import os

import pytest

from dali_mix.text import OneLine, fits_a_line, is_utf8, show


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("n01440764/a b.JPEG", "n01440764/a b.JPEG"),
        ("caf\u00e9 \u65e5\u672c\u3000\U0001f600", "caf\u00e9 \u65e5\u672c\u3000\U0001f600"),
        ("a\nepoch 9\r\t", r"a\nepoch 9\r\t"),
        ("\x1b[2J\x1b]0;t\x07\x7f\x9b", r"\x1b[2J\x1b]0;t\x07\x7f\x9b"),
        ("\u202egpj.\u2066x\u2069", r"\u202egpj.\u2066x\u2069"),
        ("\u2028\u2029\x85", r"\u2028\u2029\x85"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_is_no_visible_character_is_escaped(name, shown):
    assert show(name) == shown
    shown.encode()


def test_which_names_a_list_gives_back():
    fitting = ["a b", "caf\u00e9", os.fsdecode(b"\xe9\x85"), "a\x1b[2J"]
    others = ["a\nb", "a\r", " a", "a\u3000", "a\x1cb", "a\x85b", "a\u2028", ""]
    assert [name for name in [*fitting, *others] if fits_a_line(name)] == fitting
    assert "\n".join(fitting).encode(errors="surrogateescape").decode(errors="surrogateescape").splitlines() == fitting
    assert [is_utf8(name) for name in fitting] == [True, True, False, True]


def test_a_log_line_is_one_line():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneLine("%(message)s"))
    record = logging.LogRecord(
        "x", logging.INFO, "", 0, "%s is replaced: %s", ("a\n\x1b[2J", "it begins with '\r'"), None
    )
    handler.emit(record)
    assert stream.getvalue() == "a\\n\\x1b[2J is replaced: it begins with '\\r'\n"
