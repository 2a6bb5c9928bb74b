"""What ``scan`` finds out about the files of an image folder."""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from dali_mix.loading.probe import Probed
from dali_mix.sources import Source
from dali_mix.text import is_utf8
from dali_mix.tools.pixels import difference_from_pil

_TAIL_BYTES = 4096
"""The end of a file, and its size, are compared before whole files are; heads of JPEGs are often equal."""


@dataclass(frozen=True)
class Split:
    """One image folder, or another source of files.

    Fields:
        name: of the folder.
        images: its files, as training lists them.
    """

    name: str
    images: Source

    @property
    def files(self) -> list[str]:
        """Absolute paths of the images."""
        return [str(path) for path in self.images.read(range(len(self.images)))]


class ListedImage(NamedTuple):
    """One file of one split; ``path`` is relative to the data directory."""

    path: str
    split: str
    label: str


class Header(NamedTuple):
    """What PIL reads from a header.

    Fields:
        kind: "JPEG RGB".
        format: "JPEG".
        rotated: whether EXIF asks for turning or mirroring.
        difference: how DALI's pixels differ from PIL's, see ``difference_from_pil``.
    """

    kind: str
    format: str
    rotated: bool
    difference: str | None


def read_header(path: str) -> Header | None:
    """Read the header of an image file; None where PIL does not know the format."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                name = "JPEG" if image.format == "MPO" else str(image.format)  # MPO: a JPEG that others follow
                rotated = _orientation(image) not in (None, 1)
                return Header(f"{name} {image.mode}", name, rotated, difference_from_pil(image))
    except Exception:  # its plugins raise nearly anything for a damaged file, and DALI has decoded this one
        return None


def _orientation(image: Image.Image) -> int | None:
    tag = ExifTags.Base.Orientation
    if "exif" in image.info:  # getexif would decode a whole PNG that has none
        exif = Image.Exif()
        exif.load(image.info["exif"])
        return exif.get(tag)
    return image.getexif().get(tag) if image.format == "TIFF" else None


class Findings:
    """Everything found so far.

    Args:
        base: the data directory, which reported paths are relative to.
        splits: to be scanned, in this order.
        unused: folders that training passes over, as another one has a name that means the same.

    Attributes:
        bad: undecodable files with their reasons; paths relative to ``base``.
        kinds: number of decodable files by format and mode.
        rotated, contradicting: decodable files that EXIF asks to turn, and those whose extension is that of another
            format, with that format.
        differing: decodable files whose pixels are not PIL's, with what differs.
        heights, widths: of the decodable files.
        largest: path, width and height of the decodable file with the most pixels.
    """

    def __init__(self, base: Path, splits: list[Split], unused: Sequence[Path] = ()) -> None:
        self.base, self.splits, self.unused = base, splits, unused
        self.bad: list[Probed] = []
        self.kinds: Counter[str] = Counter()
        self.rotated: list[str] = []
        self.contradicting: list[tuple[str, str]] = []
        self.differing: list[tuple[str, str]] = []
        self.heights, self.widths = array("l"), array("l")
        self.largest: tuple[str, int, int] = ("", 0, 0)
        self.done = 0
        self._fingerprints = array("Q")
        self._fingerprinted = array("l")  # index of the file among those of all splits

    @property
    def files(self) -> list[str]:
        """Absolute paths of all images, in the order in which they are scanned."""
        return [path for split in self.splits for path in split.files]

    def relative(self, path: str) -> str:
        """A path as it is reported."""
        return path.removeprefix(f"{str(self.base).rstrip('/')}/")

    def add(self, probed: Probed) -> None:
        """Take the next file's result."""
        index, self.done = self.done, self.done + 1
        if probed.error is None and not is_utf8(probed.path):
            probed = probed._replace(error="name is not UTF-8, which DALI's reader does not take")
        if probed.error is not None:
            self.bad.append(probed._replace(path=self.relative(probed.path)))
            return
        self.heights.append(probed.height)
        self.widths.append(probed.width)
        if probed.height * probed.width > self.largest[1] * self.largest[2]:
            self.largest = (self.relative(probed.path), probed.width, probed.height)
        header = read_header(probed.path)
        self.kinds[header.kind if header else "unknown to PIL"] += 1
        if header and header.rotated:
            self.rotated.append(self.relative(probed.path))
        if header and header.difference:
            self.differing.append((self.relative(probed.path), header.difference))
        expected = _format_of_extension().get(os.path.splitext(probed.path)[1].lower())
        if header and expected not in (None, header.format):
            self.contradicting.append((self.relative(probed.path), header.format))
        fingerprint = _fingerprint(probed.path)
        if fingerprint is not None:
            self._fingerprints.append(fingerprint)
            self._fingerprinted.append(index)

    def find_duplicates(self) -> list[list[ListedImage]]:
        """Groups of decodable files with identical bytes; reads those that may be."""
        fingerprints, indices = (np.array(column, np.uint64) for column in (self._fingerprints, self._fingerprinted))
        _, inverse, counts = np.unique(fingerprints, return_inverse=True, return_counts=True)
        candidates: dict[int, list[int]] = {}
        for position in np.flatnonzero(counts[inverse] > 1):
            candidates.setdefault(int(inverse[position]), []).append(int(indices[position]))
        images = list(self._images()) if candidates else []
        groups: dict[bytes, list[ListedImage]] = {}
        for alike in candidates.values():
            for index in alike:
                digest = _digest(str(self.base / images[index].path))
                if digest is not None:
                    groups.setdefault(digest, []).append(images[index])
        return [group for group in groups.values() if len(group) > 1]

    def _images(self) -> Iterator[ListedImage]:
        for split in self.splits:
            for path, label in zip(split.files, split.images.labels, strict=True):
                yield ListedImage(self.relative(path), split.name, split.images.classes[label])


def repeated_within(groups: Iterable[list[ListedImage]], split: str) -> int:
    """How many images of a split repeat another one of it."""
    return sum(max(sum(image.split == split for image in group) - 1, 0) for group in groups)


def leaked(groups: Iterable[list[ListedImage]], first: str, second: str) -> list[tuple[ListedImage, ListedImage]]:
    """Every image of the second split that is also in the first, behind its twin there."""
    pairs = []
    for group in groups:
        twins = [image for image in group if image.split == first]
        pairs += [(twins[0], image) for image in group if twins and image.split == second]
    return pairs


def mislabeled(groups: Iterable[list[ListedImage]]) -> list[list[ListedImage]]:
    """The groups whose images stand in different classes."""
    return [group for group in groups if len({image.label for image in group}) > 1]


@functools.cache
def _format_of_extension() -> dict[str, str]:
    return Image.registered_extensions()


def _fingerprint(path: str) -> int | None:
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _TAIL_BYTES, 0))
            digest = hashlib.blake2b(file.read() + size.to_bytes(8, "little"), digest_size=8)
    except OSError:  # removed since it was decoded
        return None
    return int.from_bytes(digest.digest(), "little")


def _digest(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:
        return None
