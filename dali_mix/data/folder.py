"""Image folders: which files, which classes, read once and checked before anything is built."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from dali_mix.errors import ConfigError


@dataclass(frozen=True)
class ImageFolder:
    """The files of a folder with one sub-folder per class.

    Fields:
        root: the folder, absolute.
        files: absolute paths, sorted within each class.
        labels: the class index of each file.
        classes: class names; the index of a name is its label.
    """

    root: Path
    files: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def digest(self) -> str:
        """A fingerprint of names and labels, the same wherever the folder lies."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        start = len(str(self.root))  # relpath would take ten seconds for ImageNet
        for path, label in zip(self.files, self.labels, strict=True):
            digest.update(f"\0{path[start:]}\0{label}".encode())
        return digest.hexdigest()

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


def scan_image_folder(root: str | Path, classes: Sequence[str] | None = None) -> ImageFolder:
    """List an image folder as torchvision's ``ImageFolder`` does: same files, same labels.

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
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise ConfigError(
            f"{root} has {len(unknown)} class folder(s) that the training set lacks, the first is "
            f"{unknown[0]!r}; both must use the same class names"
        )
    class_to_index = {name: index for index, name in enumerate(names)}
    samples = make_dataset(root, class_to_index, extensions=IMG_EXTENSIONS, allow_empty=True)
    if not samples:
        raise ConfigError(
            f"{root} holds no image in its {len(found)} class folder(s); looked for {' '.join(IMG_EXTENSIONS)}"
        )
    files, labels = zip(*samples, strict=True)
    return ImageFolder(root, files, labels, names)
