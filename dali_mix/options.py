"""Options of methods, each declared once, as a field of a frozen dataclass: type, default, what is legal, help."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from dali_mix.errors import ConfigError


class Check(NamedTuple):
    """What a value may be.

    Fields:
        kind: int or float, which also reads a value from text.
        legal: in words, to be put after "must be".
        holds: whether a number is legal.
    """

    kind: Callable[[Any], Any]
    legal: str
    holds: Callable[[Any], bool]

    def require(self, name: str, value: Any) -> None:
        """Refuse a value, or one of a tuple's.

        Raises:
            ConfigError: if it is not legal.
        """
        for each in value if isinstance(value, (tuple, list)) else (value,):
            if not isinstance(each, (int, float)) or isinstance(each, bool) or not self.holds(each):
                raise ConfigError(f"{name} must be {self.legal}, got {each!r}")


probability = Check(float, "a number in [0, 1]", lambda value: 0 <= value <= 1)
fraction = Check(float, "a number in (0, 1]", lambda value: 0 < value <= 1)
positive = Check(float, "a number > 0", lambda value: 0 < value < math.inf)
non_negative = Check(float, "a number >= 0", lambda value: 0 <= value < math.inf)


def option(default: Any, check: Check, help: str) -> Any:
    """A field of a method's options.

    Args:
        default: a number, or a tuple of as many as the option takes.
        check: what is legal.
        help: a sentence that stands alone, for ``--help``.
    """
    return dataclasses.field(default=default, metadata={"check": check, "help": help})


def check_options(options: Any, owner: str) -> None:
    """Check every option of a method, for ``__post_init__``.

    Args:
        options: a dataclass; fields that are not made by :func:`option` are left alone.
        owner: the method's name, for the message.

    Raises:
        ConfigError: for the first value that is not legal.
    """
    for field in dataclasses.fields(options):
        if (check := field.metadata.get("check")) is not None:
            check.require(f"{owner}: {field.name}", getattr(options, field.name))
