"""Types of flags: each names what is legal."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def positive_int(text: str) -> int:
    """An integer >= 1."""
    return _number(text, int, "an integer >= 1", lambda value: value >= 1)


def non_negative_int(text: str) -> int:
    """An integer >= 0."""
    return _number(text, int, "an integer >= 0", lambda value: value >= 0)


def finite(text: str) -> float:
    """Any finite number."""
    return _number(text, float, "a finite number", lambda value: abs(value) < float("inf"))


def non_negative(text: str) -> float:
    """A finite number >= 0."""
    return _number(text, float, "a number >= 0", lambda value: 0 <= value < float("inf"))


def positive(text: str) -> float:
    """A finite number > 0."""
    return _number(text, float, "a number > 0", lambda value: 0 < value < float("inf"))


def probability(text: str) -> float:
    """A number in [0, 1]."""
    return _number(text, float, "a number in [0, 1]", lambda value: 0 <= value <= 1)


def fraction(text: str) -> float:
    """A number in (0, 1]."""
    return _number(text, float, "a number in (0, 1]", lambda value: 0 < value <= 1)


def _number(text: str, kind: Callable[[str], Any], legal: str, check: Callable[[Any], bool]) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not check(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {legal}")
    return value
