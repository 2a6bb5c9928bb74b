"""Branches: what can happen to a batch, by name for people and by number in a graph and its checkpoints."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from types import MappingProxyType

from dali_mix.errors import ConfigError

NONE = "none"

_OTHERS = 1 << 30
"""The first of the numbers that are computed from names: a method from outside needs no number of its own."""

# A graph may leave batches for SMMix where nothing of the training step has been imported.
_codes: dict[str, int] = {NONE: 0, "smmix": 3}

BRANCHES: Mapping[str, int] = MappingProxyType(_codes)
"""The number of every branch by its name, also of those that are registered later."""


def register(name: str, code: int | None = None) -> int:
    """Make a branch known.

    Args:
        name: an identifier in lower case.
        code: a number that no branch had before, also none that is gone: saved states hold it.  None computes one
            from the name, equal in every process.

    Returns:
        the number.

    Raises:
        ConfigError: for another name, or where name or number mean another branch already.
    """
    if not name.isidentifier() or not name.islower():
        raise ConfigError(f"a branch is named by an identifier in lower case, got {name!r}")
    number = _OTHERS + zlib.crc32(name.encode()) % _OTHERS if code is None else code
    if _codes.setdefault(name, number) != number:
        raise ConfigError(f"the branch {name} has the number {_codes[name]}, got {number}; use another name")
    if name_of(number) != name:
        del _codes[name]
        raise ConfigError(f"the number {number} is {name_of(number)}'s, so that {name} cannot have it; use another")
    return number


def code_of(name: str) -> int:
    """Return the number of a branch.

    Raises:
        KeyError: for a name that is not registered.
    """
    return _codes[name]


def name_of(code: int) -> str:
    """Return the branch with a number.

    Raises:
        KeyError: for a number that no branch has.
    """
    for name, number in _codes.items():
        if number == code:
            return name
    raise KeyError(code)


def names() -> list[str]:
    """List all branches, in the order of their numbers: "none", ours, then others."""
    return sorted(_codes, key=_codes.__getitem__)
