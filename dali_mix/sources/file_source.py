"""What all sources share whose images are files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dali_mix.errors import ConfigError
from dali_mix.sources.base import Named, Source
from dali_mix.sources.exclusion import find_named
from dali_mix.sources.paths import Paths
from dali_mix.text import is_utf8


@dataclass(frozen=True, eq=False)
class FileSource(Source):
    """Images that are files.

    Fields:
        root: what was opened, absolute.
        files: absolute paths; any sequence is taken.
        labels: int32 (n,), the class index of each file; any sequence is taken.
        classes: class names; the index of a name is its label.
        links: those of the files that are links, as far as that is known.
    """

    root: Path
    files: Sequence[str]
    labels: NDArray[np.int32]
    classes: tuple[str, ...]
    links: frozenset[str] = frozenset()
    gives_paths = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", str(self.root))
        object.__setattr__(self, "files", Paths.of(self.files, f"{self._folder}/"))
        object.__setattr__(self, "labels", np.asarray(self.labels, np.int32))
        object.__setattr__(self, "classes", tuple(self.classes))

    @property
    def _folder(self) -> Path:
        """The folder that the names of most files begin with."""
        return self.root

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FileSource):
            return NotImplemented
        same = (self.root, self.classes, self.files) == (other.root, other.classes, other.files)
        return same and np.array_equal(self.labels, other.labels)

    def __hash__(self) -> int:
        return hash((self.root, self.classes, self.files))

    @property
    def paths(self) -> Paths:
        """The files, as they are kept."""
        return Paths.of(self.files)

    def read(self, indices: Sequence[int]) -> Paths:
        """Return the paths of the files at these indices."""
        return self.paths.select(indices)

    def describe(self, index: int) -> str:
        """Return the path of a file."""
        return self.files[index]

    def owns(self, description: str) -> bool:
        """Whether this is the path of one of its files."""
        return description in self.files

    def named(self, lines: Sequence[str], base: Path) -> Named:
        """Find the files that lines name, by whatever links they lead to one; those of other folders are ignored."""
        return find_named(self.files, self.links, lines, base)

    def select(self, indices: ArrayLike) -> FileSource:
        """Return a source of these files, in this order."""
        chosen = np.asarray(indices, np.int64)
        return replace(self, files=self.paths.select(chosen), labels=self.labels[chosen])

    def _relabeled(self, kept: NDArray[np.int64], labels: NDArray[np.int32], classes: tuple[str, ...]) -> FileSource:
        return replace(self, files=self.paths.select(kept), labels=labels, classes=classes)

    @cached_property
    def _digest(self) -> str:
        """The digest of names and labels; the same wherever the folder lies."""
        digest = hashlib.sha256("\0".join(self.classes).encode(errors="surrogateescape"))
        paths = self.paths
        lead = os.fsencode(paths.prefix.removeprefix(str(self._folder)))
        # Files of one class follow one another mostly: a million updates take seconds, one for each class does not.
        ends = [*np.flatnonzero(np.diff(self.labels)) + 1, len(self)]
        for first, last in zip([0, *ends], ends, strict=False):
            label = b"%d" % self.labels[first]
            names = paths.rests(first, last).replace(b"\0", b"\0" + label + b"\0" + lead)
            digest.update(b"\0" + lead + names + b"\0" + label)
        return digest.hexdigest()

    def check(self) -> None:
        """Refuse what cannot be read.

        Raises:
            ConfigError: as for any source, and if the name of a file is not UTF-8.
        """
        super().check()
        self.require_readable_names()

    def require_readable_names(self) -> None:
        """Check that DALI can be given the names of all files.

        Raises:
            ConfigError: if one is not UTF-8.
        """
        if self.paths.are_utf8:
            return
        if not is_utf8(str(self.root)):
            raise ConfigError(f"{self.root} is not UTF-8, and DALI reads no other names; rename the folder")
        bad = [path for path in self.files if not is_utf8(path)]
        raise ConfigError(
            f"the names of {len(bad):,} of {len(self):,} files in {self.root} are not UTF-8, and DALI reads no others; "
            f"the first is {bad[0]}; rename them, or leave them out with --exclude-list (dali-mix scan writes one)"
        )
