"""The folders of a run: listed, narrowed by ``--class-map`` and ``--exclude-list``, and told in the log."""

from __future__ import annotations

import codecs
import logging
import os
from pathlib import Path
from typing import NamedTuple

from dali_mix.errors import ConfigError
from dali_mix.sources.class_order import differs_from_timm
from dali_mix.sources.exclusion import find_named
from dali_mix.sources.folder import ImageFolder, find_split, other_splits, scan_image_folder
from dali_mix.sources.listing import is_folder
from dali_mix.train.settings.sections import Data

_log = logging.getLogger(__name__)

_NAMES = ("training", "validation")


class Splits(NamedTuple):
    """The images of a run.

    Fields:
        train: None where only validation is wanted and there is no such folder.
        val: for validation.
        listed: the folders as they were listed, with the files that are excluded.
    """

    train: ImageFolder | None
    val: ImageFolder
    listed: tuple[ImageFolder, ...]


def open_splits(own: Data, data_dir: Path, eval_only: bool = False) -> Splits:
    """List the images, and say what there is and what is left out.

    Raises:
        ConfigError: if a folder cannot be used, or a list names nothing in it.
    """
    # Absolute from here on: "~" in a name is then not a home.
    data_dir = Path(os.path.abspath(data_dir))
    classes, excluded = _read_class_map(own.class_map), _read_exclude_list(own.exclude_list)
    selects = classes is not None
    train_dir, val_dir = (_choose(data_dir, split) for split in (own.train_split, own.val_split))
    train = None
    if not eval_only or is_folder(train_dir):
        train = scan_image_folder(train_dir, classes, select=selects)
    val = scan_image_folder(val_dir, train.classes if train else classes, select=selects, allow_empty=True)
    listed = (train, val) if train else (val,)
    for name, folder in zip(_NAMES[-len(listed) :], listed, strict=True):
        _log.info("%s", describe(name, folder))
    if not selects:
        order = differs_from_timm(listed[0])
        if order:
            _log.info("%s", order)
    if own.exclude_list and excluded:
        train, val = _exclude(excluded, own.exclude_list, train, val, data_dir)
    for name, split in zip(_NAMES, (train, val), strict=True):
        if split is not None:
            split.require_readable_names()
            _tell_empty(name, split)
    return Splits(train, val, listed)


def describe(name: str, folder: ImageFolder) -> str:
    """One line on a listed folder: "training: 1,200 images of 12 classes in /data/train; left out: 1 hidden folder"."""
    # macOS writes ._x.jpg beside x.jpg on foreign file systems.
    hidden = sum(path[path.rfind("/") + 1] == "." for path in folder.files)
    dots = f" ({hidden:,} of them with a dot before the name)" if hidden else ""
    left_out = folder.left_out.told(str(folder.root))
    end = f"; left out: {', '.join(left_out)}" if left_out else ""
    images, classes = _count(len(folder), "image"), _count(len(folder.classes), "class", "classes")
    return f"{name}: {images} of {classes} in {folder.root}{dots}{end}"


def read_lines(flag: str, path: Path) -> list[str]:
    """The lines of a list, without blanks at their ends; any bytes may be in them.

    Raises:
        ConfigError: if there are none to be read.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{flag} {path} cannot be read as lines of text: {error.strerror}") from error
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as PowerShell writes
        raise ConfigError(f"{flag} {path} is UTF-16 text; save it as UTF-8")
    lines = raw.decode("utf-8-sig", errors="surrogateescape").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _read_class_map(path: str | None) -> list[str] | None:
    if not path:
        return None
    classes = read_lines("--class-map", Path(path))
    if not classes:
        raise ConfigError(f"--class-map {path} names no class; give the name of a class folder a line")
    return classes


def _read_exclude_list(path: Path | None) -> list[str]:
    """Its lines, before the folders are listed, which may take minutes; none where there was nothing to list."""
    lines = read_lines("--exclude-list", path) if path else []
    bad = next((line for line in lines if "\0" in line), None)
    if bad is not None:
        raise ConfigError(f"--exclude-list {path} holds {bad!r}, which is no path; give a path a line")
    return lines


def _choose(data_dir: Path, name: str) -> Path:
    chosen = find_split(data_dir, name)
    others = other_splits(chosen, name)
    if others:
        _log.warning("%s is used, and not %s beside it", chosen, " or ".join(path.name for path in others))
    return chosen


def _exclude(
    lines: list[str], path: Path, train: ImageFolder | None, val: ImageFolder, data_dir: Path
) -> tuple[ImageFolder | None, ImageFolder]:
    """Both folders without what a list names."""
    matched: set[int] = set()
    counts, kept = [], []
    for name, folder in zip(_NAMES, (train, val), strict=True):
        if folder is not None:
            named = find_named(folder.files, folder.links, lines, data_dir)
            matched |= named.lines
            counts.append(f"{name} {_count(len(named.files), 'image')}")
            folder = folder.without_entries(named.files)
        kept.append(folder)
    unmatched = [line for index, line in enumerate(lines) if index not in matched]
    if not matched:
        raise ConfigError(
            f"--exclude-list {path}: no line of {len(lines):,} names an image of {data_dir}, the first is "
            f"{lines[0]!r}; paths must be absolute, or begin below --data-dir"
        )
    _log.info("%d of %d lines of --exclude-list match (%s)", len(matched), len(lines), ", ".join(counts))
    if unmatched:
        _log.warning("--exclude-list: lines that match no image: %d, the first is %s", len(unmatched), unmatched[0])
    return kept[0], kept[1] or val


def _tell_empty(name: str, folder: ImageFolder) -> None:
    empty = folder.empty_classes()
    if empty:
        _log.warning(
            "%s: %d of %s without an image, the first is %s",
            name,
            len(empty),
            _count(len(folder.classes), "class", "classes"),
            empty[0],
        )


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
