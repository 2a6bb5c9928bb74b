"""Image folders: which files, which classes, read once and checked before anything is built."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes

from dali_mix.errors import ConfigError


@dataclass(frozen=True)
class ImageFolder:
    """The files of a folder with one sub-folder per class.

    Fields:
        root: the folder, absolute.
        files: absolute paths, sorted within each class.
        labels: the class index of each file.
        classes: class names; the index of a name is its label.
        origin: fingerprint of the folder whose files this one replaces, see ``with_stand_ins``; else None.
    """

    root: Path
    files: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    origin: str | None = None

    def __len__(self) -> int:
        return len(self.files)

    def digest(self) -> str:
        """A fingerprint of names and labels, the same wherever the folder lies."""
        return self.origin or self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256("\0".join(self.classes).encode())
        start = len(str(self.root))  # relpath would take ten seconds for ImageNet
        for path, label in zip(self.files, self.labels, strict=True):
            digest.update(f"\0{path[start:]}\0{label}".encode())
        return digest.hexdigest()

    def with_stand_ins(self, stand_ins: Mapping[int, int]) -> ImageFolder:
        """This folder with other files in the place of some; length, order and fingerprint stay.

        Args:
            stand_ins: index of an entry, and the index of the file, with its label, to put there.
        """
        files, labels = list(self.files), list(self.labels)
        for index, other in stand_ins.items():
            files[index] = self.files[other]
            labels[index] = self.labels[other]
        return replace(self, files=tuple(files), labels=tuple(labels), origin=self.digest())

    def without(self, excluded: Sequence[str], data_dir: Path) -> ImageFolder:
        """This folder without some files.

        Args:
            excluded: paths, absolute or relative to ``data_dir``; those of other folders are passed over.
            data_dir: what relative paths begin at.

        Raises:
            ConfigError: if nothing would be left.
        """
        base = os.path.abspath(data_dir)
        gone = {os.path.normpath(os.path.join(base, path)) for path in excluded}
        kept = [index for index, path in enumerate(self.files) if path not in gone]
        if not kept:
            raise ConfigError(f"every image of {self.root} is excluded; check --exclude-list")
        files = tuple(self.files[index] for index in kept)
        return ImageFolder(self.root, files, tuple(self.labels[index] for index in kept), self.classes)


SPLIT_NAMES = {"validation": ("val", "valid", "validation"), "train": ("train", "training")}
"""Names of splits, and those of their folders, which timm takes for one another (``timm/data/dataset_factory.py``)."""


def find_split(data_dir: Path, name: str) -> Path:
    """The folder of a split; where it is absent one of the names that mean the same, where all are the usual one."""
    usual = SPLIT_NAMES.get(name, (name,))
    return next((data_dir / other for other in (name, *usual) if (data_dir / other).is_dir()), data_dir / usual[0])


def scan_image_folder(root: str | Path, classes: Sequence[str] | None = None) -> ImageFolder:
    """List an image folder as torchvision's ``ImageFolder`` does: same files, same labels.

    Differs from torchvision: FIFOs, sockets and devices are not listed, and a link to a folder that it
    lies in is not followed.  No file is opened or asked for its size; a broken link is listed.

    DALI can list folders itself, but then skips nested folders, reads hidden ones, and numbers the
    classes of a validation set that lacks some differently from those of the training set.

    Args:
        root: a folder with one sub-folder per class.
        classes: class names in label order, usually those of the training set; None takes the
            sub-folders of ``root`` in sorted order.

    Raises:
        ConfigError: when the folder is missing, has no class folder, has a class that ``classes``
            lacks, or holds no image.
    """
    root = Path(os.path.abspath(Path(root).expanduser()))
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise ConfigError(f"{root} {what}; give a folder with one sub-folder of images per class")
    try:
        found, _ = find_classes(root)
    except FileNotFoundError:
        raise ConfigError(f"{root} is empty of class folders; put the images in {root}/CLASS/*.jpg") from None
    names = tuple(found if classes is None else classes)
    outside = next(
        (name for name in names if os.path.basename(name) != name or name in ("", ".", "..") or "\0" in name), None
    )
    if outside is not None:
        raise ConfigError(f"{outside!r} is not the name of a class folder in {root}; give names without a path")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"the class {twice!r} is named twice; give each class one label")
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise ConfigError(
            f"{root} has {len(unknown)} class folder(s) that the training set lacks, the first is "
            f"{unknown[0]!r}; both must use the same class names"
        )
    class_to_index = {name: index for index, name in enumerate(names)}
    above = (os.path.realpath(root),)
    samples = [
        (path, class_to_index[name])
        for name in sorted(class_to_index)
        for path in _list_images(str(root / name), above)
    ]
    if not samples:
        raise ConfigError(
            f"{root} holds no image in its {len(found)} class folder(s); looked for {' '.join(IMG_EXTENSIONS)}"
        )
    files, labels = zip(*samples, strict=True)
    return ImageFolder(root, files, labels, names)


def _list_images(folder: str, above: tuple[str, ...]) -> list[str]:
    """Images in a folder and those below it, in torchvision's order; none if there is no such folder."""
    found = sorted(_walk(folder, above))
    return [os.path.join(place, name) for place, names in found for name in sorted(names)]


def _walk(folder: str, above: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    """Each folder with the names of its images.  ``above``: the real paths of the folders it lies in."""
    try:
        with os.scandir(folder) as scan:
            entries = list(scan)
    except OSError:  # as os.walk
        return
    above = (*above, os.path.realpath(folder))
    yield folder, [entry.name for entry in entries if entry.name.lower().endswith(IMG_EXTENSIONS) and _is_file(entry)]
    for entry in entries:
        if _is_folder(entry) and not (entry.is_symlink() and os.path.realpath(entry.path) in above):
            yield from _walk(entry.path, above)


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file, or a link that leads to one or nowhere; only links cost a system call."""
    if not entry.is_symlink():
        return entry.is_file(follow_symlinks=False)
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return True


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
