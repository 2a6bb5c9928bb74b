"""Types of flags: each names what is legal."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Integer:
    """The type of a flag that takes an integer in [lowest, highest]."""

    lowest: int
    highest: int

    def __call__(self, text: str) -> int:
        """Read it."""
        legal = f"an integer from {self.lowest} to {self.highest}"
        return _number(text, int, legal, lambda value: self.lowest <= value <= self.highest)


positive_int = Integer(1, 2**31 - 1)  # what DALI's and timm's own counters hold
non_negative_int = Integer(0, 2**31 - 1)
batch_size = Integer(1, 1 << 20)
image_size = Integer(1, 8192)
"""A side in pixels; a transformer's position embedding of a larger one fills the memory before anything is refused."""
memory = Integer(0, 2**63 - 1)
epochs = Integer(1, 1_000_000)
epochs_or_none = Integer(0, 1_000_000)


def dataset(text: str) -> str:
    """The kind of data, of which there is one; names of timm's other kinds get a line of what to do."""
    if text not in ("", "folder"):
        raise argparse.ArgumentTypeError(
            f"{shortened(text)!r} is not read here, only image folders are: leave the flag out and give --data-dir"
        )
    return text


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


def shortened(text: str, longest: int = 80) -> str:
    """The beginning of what is too long for a line."""
    return text if len(text) <= longest else text[:longest] + "..."


def _number(text: str, kind: Callable[[str], Any], legal: str, check: Callable[[Any], bool]) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not check(value):
        raise argparse.ArgumentTypeError(f"{shortened(text)!r} is not {legal}")
    return value
