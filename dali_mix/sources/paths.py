"""Many paths in little memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

_AT_ONCE = 1 << 16
"""Paths that are made text together."""


class Paths(Sequence[str]):
    """Paths as a sequence of text, kept as the bytes of their names: a million take a tenth of what text does.

    Args:
        prefix: what all of them begin with.
        rest: what comes after it in each, and a zero byte after each.
        starts: int64 (n + 1,), where each begins in ``rest``, and where the last ends.
    """

    def __init__(self, prefix: bytes, rest: bytes, starts: NDArray[np.int64]) -> None:
        self._prefix, self._rest, self._starts = prefix, rest, starts
        self._bytes = np.frombuffer(rest, np.uint8)

    @classmethod
    def of(cls, paths: Iterable[str], prefix: str = "") -> Paths:
        """These paths; where all begin with ``prefix`` they take less memory."""
        if isinstance(paths, Paths):
            return paths
        paths = list(paths)
        if not all(path.startswith(prefix) for path in paths):
            prefix = ""
        cut = len(prefix)
        return cls.joined(os.fsencode(prefix), os.fsencode("".join(f"{path[cut:]}\0" for path in paths)))

    @classmethod
    def below(cls, root: str, folders: Iterable[tuple[str, list[str]]]) -> Paths:
        """Make the paths of files in folders that lie in one: the path of each folder, and the names of its files."""
        root = f"{root.rstrip('/')}/"
        leads = ((f"{folder.removeprefix(root)}/", names) for folder, names in folders)
        text = "".join(lead + f"\0{lead}".join(names) + "\0" for lead, names in leads if names)
        return cls.joined(os.fsencode(root), os.fsencode(text))

    @classmethod
    def joined(cls, prefix: bytes, rest: bytes) -> Paths:
        """The paths of ``rest``, each with a zero byte after it."""
        ends = np.flatnonzero(np.frombuffer(rest, np.uint8) == 0).astype(np.int64)
        return cls(prefix, rest, np.concatenate([np.zeros(1, np.int64), ends + 1]))

    @classmethod
    def chained(cls, parts: Iterable[Paths]) -> Paths:
        """Join the paths of all parts, which have one prefix where they have paths at all."""
        filled = [part for part in parts if len(part)]
        if len({part._prefix for part in filled}) > 1:
            return cls.of([path for part in filled for path in part])
        return cls.joined(filled[0]._prefix if filled else b"", b"".join(part._rest for part in filled))

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Paths: ...
    def __getitem__(self, index: int | slice) -> str | Paths:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        place = range(len(self))[index]
        return os.fsdecode(self._prefix + self._rest[self._starts[place] : self._starts[place + 1] - 1])

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _AT_ONCE):
            last = min(first + _AT_ONCE, len(self))
            for rest in self._rest[self._starts[first] : self._starts[last] - 1].split(b"\0"):
                yield os.fsdecode(self._prefix + rest)

    def __contains__(self, path: object) -> bool:
        if not isinstance(path, str):
            return False
        name = os.fsencode(path)
        if not name.startswith(self._prefix) or b"\0" in name:
            return False
        name = name.removeprefix(self._prefix) + b"\0"
        return self._rest.startswith(name) or b"\0" + name in self._rest

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Paths) and other._prefix == self._prefix:
            return other._rest == self._rest
        return isinstance(other, Sequence) and len(other) == len(self) and tuple(other) == tuple(self)

    def __hash__(self) -> int:
        return hash((self._prefix, self._rest))

    def __repr__(self) -> str:
        return f"<{len(self):,} paths>"

    def select(self, indices: ArrayLike) -> Paths:
        """Select the paths at these indices, in that order."""
        chosen = np.asarray(indices, np.int64)
        starts = self._starts[chosen]
        lengths = self._starts[chosen + 1] - starts
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        at = np.repeat(starts - ends[:-1], lengths) + np.arange(ends[-1])
        return Paths(self._prefix, self._bytes[at].tobytes(), ends)

    def padded(self) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """The bytes of all, as rows of equal length, and how many of each row count.

        Returns:
            uint8 (n, longest) and int32 (n,).
        """
        starts = self._starts[:-1]
        lengths = self._starts[1:] - 1 - starts
        begin = len(self._prefix)
        rows = np.empty((len(self), begin + int(lengths.max(initial=0))), np.uint8)
        rows[:, :begin] = np.frombuffer(self._prefix, np.uint8)
        at = np.minimum(starts[:, None] + np.arange(rows.shape[1] - begin), len(self._bytes) - 1)
        rows[:, begin:] = self._bytes[at]
        return rows, (lengths + begin).astype(np.int32)

    def count_hidden(self) -> int:
        """How many files' names begin with a dot, where no folder's does."""
        return self._rest.count(b"/.") + self._rest.count(b"\0.") + self._rest.startswith(b".")

    def rests(self, first: int, last: int) -> bytes:
        """What comes after the prefix in some that follow one another, with a zero byte between them."""
        return self._rest[self._starts[first] : self._starts[last] - 1] if last > first else b""

    @property
    def prefix(self) -> str:
        """What all begin with, as far as that is kept once."""
        return os.fsdecode(self._prefix)

    @property
    def are_utf8(self) -> bool:
        """Whether all are UTF-8."""
        try:
            self._prefix.decode()
            return self._rest.isascii() or bool(self._rest.decode())
        except UnicodeDecodeError:
            return False
