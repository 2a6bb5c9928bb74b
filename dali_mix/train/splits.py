"""The images of a run: listed, narrowed by ``--class-map`` and ``--exclude-list``, and told in the log."""

from __future__ import annotations

import codecs
import logging
import os
from pathlib import Path
from typing import NamedTuple

from dali_mix.errors import ConfigError
from dali_mix.sources import Source, open_source
from dali_mix.sources.base import split_scheme
from dali_mix.sources.folder import find_split, other_splits
from dali_mix.sources.listing import is_folder
from dali_mix.train.settings.sections import Data

_log = logging.getLogger(__name__)

_NAMES = ("training", "validation")


class Splits(NamedTuple):
    """The images of a run.

    Fields:
        train: None where only validation is wanted and there is no such split.
        val: for validation.
        listed: both as they were listed, with the files that are excluded.
    """

    train: Source | None
    val: Source
    listed: tuple[Source, ...]


def open_splits(section: Data, data_dir: Path, eval_only: bool = False) -> Splits:
    """List the images, and say what there is and what is left out.

    Raises:
        ConfigError: if a split cannot be used, or a list names nothing in it.
    """
    # Absolute from here on: "~" in a name is then not a home.
    data_dir = Path(os.path.abspath(data_dir))
    classes, excluded = _read_class_map(section.class_map), _read_exclude_list(section.exclude_list)
    selects = classes is not None
    train_place, val_place = (_choose(data_dir, split) for split in (section.train_split, section.val_split))
    train = None
    if not eval_only or _is_there(train_place):
        train = open_source(train_place, classes=classes, select=selects)
    own_classes = train.classes if train else classes
    val = open_source(val_place, classes=own_classes, select=selects, allow_empty=True)
    listed = (train, val) if train else (val,)
    for name, split in zip(_NAMES[-len(listed) :], listed, strict=True):
        _log.info("%s: %s", name, split.summary())
    if not selects and (remark := listed[0].remark()):
        _log.info("%s", remark)
    if section.exclude_list and excluded:
        train, val = _exclude(excluded, section.exclude_list, train, val, data_dir)
    for name, left in zip(_NAMES, (train, val), strict=True):
        if left is not None:
            left.check()
            _tell_empty(name, left)
    return Splits(train, val, listed)


def read_lines(flag: str, path: Path) -> list[str]:
    """Read the lines of a list, without blanks at their ends; any bytes may be in them.

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


def _choose(data_dir: Path, name: str) -> str:
    """What ``open_source`` takes for a split: "/data/train", or "list:/data/train.csv" for "list:train.csv"."""
    scheme, rest = split_scheme(name)
    if scheme != "folder" and not is_folder(data_dir / name):
        return f"{scheme}:{data_dir / rest}"
    chosen = find_split(data_dir, name)
    others = other_splits(chosen, name)
    if others:
        _log.warning("%s is used, and not %s beside it", chosen, " or ".join(path.name for path in others))
    return str(chosen)


def _is_there(place: str) -> bool:
    scheme, rest = split_scheme(place)
    return is_folder(rest) if scheme == "folder" else os.path.exists(rest)


def _exclude(
    lines: list[str], path: Path, train: Source | None, val: Source, data_dir: Path
) -> tuple[Source | None, Source]:
    """Both splits without what a list names."""
    matched: set[int] = set()
    counts, kept = [], []
    for name, split in zip(_NAMES, (train, val), strict=True):
        if split is not None:
            named = split.named(lines, data_dir)
            matched |= named.lines
            counts.append(f"{name} {_count(len(named.files), 'image')}")
            split = split.without_entries(named.files)
        kept.append(split)
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


def _tell_empty(name: str, split: Source) -> None:
    empty = split.empty_classes()
    if empty:
        _log.warning(
            "%s: %d of %s without an image, the first is %s",
            name,
            len(empty),
            _count(len(split.classes), "class", "classes"),
            empty[0],
        )


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
