"""What a set of images is to everything that reads it, and how sources are found by name."""

from __future__ import annotations

import hashlib
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dali_mix.errors import ConfigError, told
from dali_mix.sources.left_out import LeftOut

S = TypeVar("S", bound="type[Source]")
_SCHEME = re.compile(r"([a-z][a-z0-9_+-]+):(.*)", re.DOTALL)
_registered: dict[str, type[Source]] = {}


class Named(NamedTuple):
    """What a list names in a source.

    Fields:
        files: indices of the images.
        lines: indices of the lines that name one.
    """

    files: set[int]
    lines: set[int]


class Watch(Protocol):
    """Notices what changes in a source while a run goes on."""

    def changed(self) -> str | None:
        """Tell in one line what differs from the start; None if nothing has changed since the last call."""


class Source(ABC):
    """A set of labeled images, of which any can be read by its index.

    A subclass sets ``classes`` and ``labels``, and defines ``read``; ``describe`` should say where an image is found.

    Fields:
        scheme: what stands before the colon in ``open_source("scheme:where")``.
        gives_paths: whether ``read`` gives paths and not bytes.
        name: of the whole source, for messages; ``open`` sets it to what was opened.
        left_out: what lies beside the images.
        classes: class names; the index of a name is its label.
        labels: int32 (n,), the class of each image.
    """

    scheme: ClassVar[str] = ""
    gives_paths: bool = False
    name: str = "the source"
    left_out: LeftOut = LeftOut()
    classes: tuple[str, ...]
    labels: NDArray[np.int32]

    @abstractmethod
    def read(self, indices: Sequence[int]) -> Sequence[str] | Sequence[NDArray[np.uint8]]:
        """Read the encoded images at these indices, as files hold them: JPEG, PNG, ...

        Returns:
            their bytes, uint8 (bytes,) each; or, where ``gives_paths`` is True, the paths of their files, which are
            then read without Python.

        Whatever is raised counts as a bad image; the others of the batch are then read one by one.
        """

    @classmethod
    def open(
        cls, where: str, *, classes: Sequence[str] | None = None, select: bool = False, allow_empty: bool = False
    ) -> Source:
        """Open what ``open_source("scheme:where")`` names.

        Args:
            where: what stands after the colon.
            classes: class names in label order, usually those of the training set; None takes the source's own.
            select: whether images of classes that ``classes`` does not name are left out; else they are an error.
            allow_empty: whether a class of the source's own may be without an image.

        Raises:
            ConfigError: if it cannot be used.
        """
        try:
            source = cls(where)  # type: ignore[call-arg]  # a subclass takes what stands after its scheme
        except ConfigError:
            raise
        except Exception as error:
            file = getattr(sys.modules.get(cls.__module__), "__file__", None)
            raise ConfigError(f"{cls.scheme}:{where} cannot be opened{told(error, file)}") from error
        vars(source).setdefault("name", f"{cls.scheme}:{where}")
        source.check()
        wrong = np.flatnonzero((source.labels < 0) | (source.labels >= len(source.classes)))
        if len(wrong):
            raise ConfigError(
                f"{source.describe(int(wrong[0]))} has the label {source.labels[wrong[0]]}, and {source.name} has "
                f"{len(source.classes)} classes; labels begin with 0"
            )
        if classes is None:
            empty = [] if allow_empty else source.empty_classes()
            if empty:
                raise ConfigError(f"{source.name} has no image of {len(empty)} class(es), the first is {empty[0]!r}")
            return source
        return source.with_classes(classes, select=select)

    def __len__(self) -> int:
        return len(self.labels)

    def describe(self, index: int) -> str:
        """Tell where an image is found, in one line; what ``bad_files.txt`` and ``--exclude-list`` hold."""
        return f"{self.name}, image {index}"

    def digest(self) -> str:
        """Compute a fingerprint of descriptions and labels: a saved run continues with the same one."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256("\0".join(self.classes).encode(errors="surrogateescape"))
        for index, label in enumerate(self.labels.tolist()):
            digest.update(f"\0{self.describe(index)}\0{label}".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def empty_classes(self) -> list[str]:
        """List the classes without an image, in label order."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return [self.classes[label] for label in np.flatnonzero(counts == 0)]

    def owns(self, description: str) -> bool:
        """Whether ``describe`` gives this for one of its images."""
        return description in self._by_description

    @cached_property
    def _by_description(self) -> dict[str, int]:
        return {self.describe(index): index for index in range(len(self))}

    def named(self, lines: Sequence[str], base: Path) -> Named:
        """Find what the lines of a list name.

        Args:
            lines: descriptions of images.
            base: what relative paths begin at.
        """
        found = {number: self._by_description.get(line) for number, line in enumerate(lines)}
        met = {number: index for number, index in found.items() if index is not None}
        return Named(set(met.values()), set(met))

    def without(self, names: Sequence[str], base: Path = Path()) -> Source:
        """Return this source without the images that lines name, see ``named``.

        Raises:
            ConfigError: if nothing would be left.
        """
        return self.without_entries(self.named(names, base).files)

    def without_entries(self, gone: set[int]) -> Source:
        """Return this source without the images at some indices.

        Raises:
            ConfigError: if nothing would be left.
        """
        kept = np.delete(np.arange(len(self)), sorted(gone))
        if not len(kept):
            raise ConfigError(f"every image of {self.name} is excluded; check --exclude-list")
        return self.select(kept)

    def select(self, indices: ArrayLike) -> Source:
        """Return a source of the images at some indices, in that order."""
        return Part(self, np.asarray(indices, np.int64))

    def with_classes(self, classes: Sequence[str], *, select: bool = False) -> Source:
        """Return this source with the labels of other class names, see ``open``.

        Raises:
            ConfigError: if a class is not among them, or no image is left.
        """
        if tuple(classes) == self.classes:
            return self
        label_of = {name: label for label, name in enumerate(classes)}
        unknown = [name for name in self.classes if name not in label_of]
        if unknown and not select:
            raise ConfigError(
                f"{self.name} has {len(unknown)} class(es) that the training set lacks, the first is {unknown[0]!r}; "
                f"both must use the same class names"
            )
        labels = np.array([label_of.get(name, -1) for name in self.classes], np.int32)[self.labels]
        kept = np.flatnonzero(labels >= 0)
        if not len(kept):
            raise ConfigError(f"{self.name} holds no image: none of the named classes has one")
        return self._relabeled(kept, labels[kept], tuple(classes))

    def _relabeled(self, kept: NDArray[np.int64], labels: NDArray[np.int32], classes: tuple[str, ...]) -> Source:
        return Part(self, kept, labels, classes)

    def check(self) -> None:
        """Refuse what cannot be read; sees to it that labels are an array.

        Raises:
            ConfigError: if there is no image.
        """
        labels = np.asarray(self.labels, np.int32)
        vars(self).update(labels=labels, classes=tuple(self.classes))  # also of a frozen dataclass
        if labels.ndim != 1 or not len(labels):
            raise ConfigError(f"{self.name} holds no image")
        if "" in self.classes or len(set(self.classes)) < len(self.classes):
            raise ConfigError(f"{self.name} has a class without a name, or two of one name; give each its own")

    def summary(self) -> str:
        """Tell what it holds, as a part of a sentence."""
        images, classes = "image" if len(self) == 1 else "images", "class" if len(self.classes) == 1 else "classes"
        return f"{len(self):,} {images} of {len(self.classes):,} {classes} in {self.name}"

    def remark(self) -> str | None:
        """Tell in one line what a user may not expect of its classes; None if there is nothing."""
        return None

    def watch(self) -> Watch | None:
        """Make what notices changes from now on; None if nothing can."""
        return None


class Part(Source):
    """Some images of a source.

    Args:
        source: of which.
        indices: of its images.
        labels, classes: where they are others than the source's.
    """

    def __init__(
        self,
        source: Source,
        indices: NDArray[np.int64],
        labels: NDArray[np.int32] | None = None,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        self._source, self._indices = source, indices
        self.labels = source.labels[indices] if labels is None else labels
        self.classes = source.classes if classes is None else classes
        self.name, self.gives_paths = source.name, source.gives_paths

    def describe(self, index: int) -> str:
        """Do as the whole source does."""
        return self._source.describe(int(self._indices[index]))

    def read(self, indices: Sequence[int]) -> Sequence[str] | Sequence[NDArray[np.uint8]]:
        """Do as the whole source does."""
        return self._source.read(self._indices[np.asarray(indices)].tolist())


def register(source: S) -> S:
    """Let ``open_source`` find a source by its ``scheme``; a decorator.

    Raises:
        ConfigError: if it has none, or another source has the same.
    """
    scheme = source.scheme
    if not _SCHEME.fullmatch(f"{scheme}:"):
        raise ConfigError(f"scheme of {source.__name__} must be lower-case letters and digits, got {scheme!r}")
    known = _registered.get(scheme)
    if known is not None and _written_at(known) != _written_at(source):
        raise ConfigError(f"there are two sources of the scheme {scheme!r}; give one another name")
    _registered[scheme] = source
    return source


def _written_at(source: type[Source]) -> tuple[str | None, str]:
    """The same for a file that is imported twice, under two names."""
    return getattr(sys.modules.get(source.__module__), "__file__", None), source.__qualname__


def open_source(where: str | Path, **options: Any) -> Source:
    """Open a set of images: ``"imagenet/train"``, a folder, or ``"list:train.csv"``, by the scheme of a source.

    Args:
        where: a folder with one sub-folder per class, or a scheme, a colon, and what the source takes.
        options: see ``Source.open``.

    Raises:
        ConfigError: for an unknown scheme, and if the source cannot be used.
    """
    scheme, rest = split_scheme(str(where))
    if scheme not in _registered:
        raise ConfigError(
            f"{where} is of the unknown scheme {scheme!r}; there are {', '.join(sorted(_registered))}; a source of "
            f"your own must be imported first (--import FILE)"
        )
    return _registered[scheme].open(rest, **options)


def split_scheme(where: str) -> tuple[str, str]:
    """Split off the scheme of a source, "folder" where there is none, and what stands after it."""
    found = _SCHEME.fullmatch(where)
    if found is None or Path(where).exists():
        return "folder", where
    return found[1], found[2]
