"""Image folders: which files, which classes, read once and checked before anything is built."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dali_mix.errors import ConfigError
from dali_mix.sources.base import Watch, register
from dali_mix.sources.extensions import IMG_EXTENSIONS
from dali_mix.sources.file_source import FileSource
from dali_mix.sources.left_out import LeftOut, count_extensions
from dali_mix.sources.listing import ClassLister, Kind, is_folder, kind_of, list_folder
from dali_mix.sources.paths import Paths
from dali_mix.text import fits_a_line, is_utf8, show


@register
@dataclass(frozen=True, eq=False)
class ImageFolder(FileSource):
    """The files of a folder with one sub-folder per class.

    Fields:
        root: the folder, absolute.
        files: absolute paths, sorted within each class.
        labels: int32 (n,), the class index of each file.
        classes: class names; the index of a name is its label.
        links: those of the files that are links.
        left_out: what the folder holds beside them.
    """

    scheme = "folder"
    left_out: LeftOut = field(default_factory=LeftOut, repr=False)

    @classmethod
    def open(
        cls, where: str, *, classes: Sequence[str] | None = None, select: bool = False, allow_empty: bool = False
    ) -> ImageFolder:
        """Scan the folder, as ``scan_image_folder`` does."""
        return scan_image_folder(where, classes, select=select, allow_empty=allow_empty)

    def owns(self, description: str) -> bool:
        """Whether this is a path in the folder."""
        return description.startswith(f"{self.root}/")

    def summary(self) -> str:
        """Tell images, classes, and what is left out."""
        # macOS writes ._x.jpg beside x.jpg on foreign file systems.
        hidden = self.paths.count_hidden()
        dots = f" ({hidden:,} of them with a dot before the name)" if hidden else ""
        left_out = self.left_out.told(str(self.root))
        return super().summary() + dots + (f"; left out: {', '.join(left_out)}" if left_out else "")

    def remark(self) -> str | None:
        """Tell where timm numbers the classes otherwise."""
        from dali_mix.sources.class_order import differs_from_timm

        return differs_from_timm(self)

    def watch(self) -> Watch:
        """Make what notices files that come, go or are replaced."""
        from dali_mix.sources.changes import FolderWatch

        return FolderWatch(self)


SPLIT_NAMES = {"validation": ("val", "valid", "validation"), "train": ("train", "training")}
"""Names of splits, and those of their folders, which timm takes for one another (``timm/data/dataset_factory.py``)."""


def find_split(data_dir: Path, name: str) -> Path:
    """Find the folder of a split; where it is absent one of the names that mean the same, where all are the usual one.

    Raises:
        ConfigError: if it cannot be told whether a folder is there.
    """
    usual = SPLIT_NAMES.get(name, (name,))
    return next((data_dir / other for other in (name, *usual) if is_folder(data_dir / other)), data_dir / usual[0])


def other_splits(chosen: Path, name: str) -> list[Path]:
    """List folders beside the one that ``find_split`` has chosen whose names mean the same, but links to it."""
    others = (chosen.parent / other for other in SPLIT_NAMES.get(name, ()))
    return [path for path in others if is_folder(path) and os.path.realpath(path) != os.path.realpath(chosen)]


def scan_image_folder(
    root: str | Path, classes: Sequence[str] | None = None, *, select: bool = False, allow_empty: bool = False
) -> ImageFolder:
    """List an image folder as torchvision's ``ImageFolder`` does: same files, same labels.

    Differs from torchvision: folders whose names begin with a dot are left out; FIFOs, sockets and devices are not
    listed; within a class each real folder is listed once, by whatever links it can be reached.  No file is opened or
    asked for its size; a broken link with the extension of an image is listed.  What is left out is in ``left_out``.

    DALI can list folders itself, but then skips nested folders, reads hidden ones, and numbers the
    classes of a validation set that lacks some differently from those of the training set.

    Args:
        root: a folder with one sub-folder per class.
        classes: class names in label order, usually those of the training set; None takes the
            sub-folders of ``root`` in sorted order.
        select: whether class folders that ``classes`` does not name are left out; else they are an error.
        allow_empty: whether a class folder may be without an image; those of ``classes`` always may.

    Raises:
        ConfigError: when the folder is missing or cannot be listed, has no class folder, has a class that ``classes``
            lacks, or one without an image, or with a name that is no line of UTF-8 text, or holds no image at all.
    """
    root = _absolute(root)
    if not is_folder(root):
        what = "is not a folder" if os.path.exists(root) else "does not exist"
        if os.path.islink(root):
            what = f"leads to {os.path.realpath(root)}, which {what}"
        raise ConfigError(f"{root} {what}; give a folder with one sub-folder of images per class")
    left_out = LeftOut()
    found = _class_folders(root, left_out)
    names = tuple(found if classes is None else classes)
    _check_names(names, root)
    lost = next((path for path in left_out.broken if os.path.basename(path) in names), None)
    if lost is not None:
        raise ConfigError(f"{lost} is a class whose link leads nowhere; mount what it leads to, or remove the link")
    known = set(names)
    unknown = [name for name in found if name not in known]
    if unknown and not select:
        raise ConfigError(_unknown_classes(root, unknown, names))
    lister = ClassLister(str(root), left_out)
    present = set(found)
    # Packed class by class: a million names as text at once would be the most memory that a run ever takes.
    images = {
        name: Paths.below(str(root), lister.images(str(root / name))) for name in sorted(known) if name in present
    }
    if not any(map(len, images.values())):
        what = "none of the named classes has" if select else f"none of its {len(found)} class folder(s) holds"
        held = f", but there are other files ({count_extensions(left_out.unlisted)})" if left_out.unlisted else ""
        raise ConfigError(f"{root} holds no image: {what} one{held}; looked for {' '.join(IMG_EXTENSIONS)}")
    if classes is None and not allow_empty:
        _refuse_empty(root, [name for name, paths in images.items() if not len(paths)], left_out)
    if unknown:
        others = ClassLister(str(root), LeftOut())
        left_out.unnamed = {name: sum(len(names) for _, names in others.images(str(root / name))) for name in unknown}
    label = {name: index for index, name in enumerate(names)}
    labels = np.repeat([label[name] for name in images], [len(paths) for paths in images.values()])
    return ImageFolder(root, Paths.chained(images.values()), labels, names, frozenset(lister.links), left_out)


def _absolute(root: str | Path) -> Path:
    try:
        root = Path(root).expanduser()
    except RuntimeError:  # "~name" of nobody is a name like any other
        root = Path(root)
    return Path(os.path.abspath(root))


def _class_folders(root: Path, left_out: LeftOut) -> list[str]:
    """Names of the class folders, sorted; notes what else is there."""
    lister, real_root, found = ClassLister(str(root), left_out), os.path.realpath(root), []
    for entry in list_folder(str(root)):
        kind = kind_of(entry)
        if kind is not Kind.FOLDER:
            kinds = {Kind.BROKEN: left_out.broken, Kind.SPECIAL: left_out.special}
            kinds.get(kind, left_out.outside).append(entry.path)
        elif entry.name.startswith("."):
            left_out.hidden.append(entry.path)
        elif entry.is_symlink() and lister.leads_up(os.path.realpath(entry.path), real_root):
            left_out.repeated.append(entry.path)
        else:
            found.append(entry.name)
    if not found:
        raise ConfigError(f"{root} is empty of class folders; put the images in {root}/CLASS/*.jpg")
    return sorted(found)


def _check_names(names: Sequence[str], root: Path) -> None:
    for name in names:
        if os.path.basename(name) != name or name in ("", ".", "..") or "\0" in name:
            raise ConfigError(f"{name!r} is not the name of a class folder in {root}; give names without a path")
        if not (is_utf8(name) and fits_a_line(name)):
            raise ConfigError(
                f"the class folder '{show(name)}' in {root} has a name that is no line of UTF-8 text, so no list of "
                f"classes can hold it; rename it, or choose others with --class-map"
            )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"the class {twice!r} is named twice; give each class one label")


def _unknown_classes(root: Path, unknown: Sequence[str], names: Iterable[str]) -> str:
    """What is said of class folders that the training set lacks."""
    text = (
        f"{root} has {len(unknown)} class folder(s) that the training set lacks, the first is {unknown[0]!r}; both "
        f"must use the same class names"
    )
    composed = {unicodedata.normalize("NFC", name): name for name in names}
    for name in unknown:
        twin = composed.get(unicodedata.normalize("NFC", name))
        if twin is not None:  # macOS writes accents as characters of their own
            return f"{text}, and {name!a} looks like {twin!a} but is other characters (Unicode NFC or NFD)"
    return text


def _refuse_empty(root: Path, empty: Sequence[str], left_out: LeftOut) -> None:
    if not empty:
        return
    inside = f"{root / empty[0]}/"
    others = [path for path in left_out.unlisted if path.startswith(inside)]
    held = f", but {len(others):,} file(s) with other extensions ({count_extensions(others)})" if others else ""
    raise ConfigError(
        f"{len(empty)} class folder(s) of {root} hold no image, the first is {empty[0]!r}{held}; remove them, or name "
        f"the classes that are wanted with --class-map"
    )
