"""Names from outside as text: what a terminal may be shown, and what a line of a list can hold."""

from __future__ import annotations

import logging
import unicodedata

# Controls, invisible formatting such as bidirectional overrides, line and paragraph separators, and the lone
# surrogates that stand for bytes which are not UTF-8.
_ESCAPED = ("Cc", "Cf", "Zl", "Zp", "Cs")


def show(text: str) -> str:
    r"""Put a text on one line, with what is no visible character escaped: "a\nb" with a backslash and an n.

    Bytes of a name that are not UTF-8 are shown as ``\xe9``.
    """
    if text.isprintable():
        return text
    return "".join(
        _escape(character) if unicodedata.category(character) in _ESCAPED else character for character in text
    )


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # as os.fsdecode marks a byte
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def is_utf8(name: str) -> bool:
    """Whether the name of a file is UTF-8, which is all that DALI takes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def fits_a_line(name: str) -> bool:
    """Whether a list with a name a line gives the same name back, once its lines are stripped."""
    return name.splitlines() == [name] and name == name.strip()


class OneLine(logging.Formatter):
    """Formats each message as one line of visible characters, whatever names are in it; a traceback stays as it is."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Format as ``logging.Formatter`` does."""
        return show(super().formatMessage(record))
