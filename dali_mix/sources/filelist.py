"""A list of files with their classes: ``open_source("list:train.csv")``."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dali_mix.errors import ConfigError
from dali_mix.sources.base import register
from dali_mix.sources.file_source import FileSource
from dali_mix.sources.listing import has_image_extension
from dali_mix.text import fits_a_line

_PATHS = ("path", "file", "filename", "filepath", "image", "image_path", "name")
_CLASSES = ("class", "label", "target", "category", "class_name", "class_id", "classname")
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
_MOST_CLASSES = 1 << 20
"""A larger number is no class, but a mistake that would make a row of targets of gigabytes."""


@register
@dataclass(frozen=True, eq=False)
class FileList(FileSource):
    """Files that a list names, a line each: path and class.

    The first line decides what stands between them: a tab, a comma (quotes as CSV has them) or, with neither, the last
    blank.  Where it names its columns, such as ``path,label``, others may stand beside those two.  Relative paths begin
    at the list's folder.  Classes are names, or, if all are integers, numbers that begin with 0.  No file is opened.

    Fields:
        root: the list, absolute.
    """

    scheme = "list"

    @property
    def _folder(self) -> Path:
        return self.root.parent

    @classmethod
    def open(
        cls, where: str, *, classes: Sequence[str] | None = None, select: bool = False, allow_empty: bool = False
    ) -> FileSource:
        """See ``Source.open``.

        Raises:
            ConfigError: if the list cannot be read; with its line, if one is malformed.
        """
        root = Path(os.path.abspath(Path(where).expanduser()))
        names, given = [], []
        for number, path, name in _entries(root):
            if not path or not name or "\0" in path or not fits_a_line(path) or not fits_a_line(name):
                raise ConfigError(f"{root}, line {number} has no path and class, but {path!r} and {name!r}; give both")
            names.append(os.path.normpath(os.path.join(root.parent, path)))
            given.append(name)
        if not names:
            raise ConfigError(f"{root} names no image; give a path and a class a line")
        own, labels = _number(root, given)
        source = cls(root, names, labels, own)
        if classes is not None:
            return source.with_classes(classes, select=select)
        empty = [] if allow_empty else source.empty_classes()
        if empty:
            raise ConfigError(
                f"{root} has no image of {len(empty)} of the classes 0 to {len(own) - 1}, the first is {empty[0]}; "
                f"number them without gaps, or give names"
            )
        return source

    def with_classes(self, classes: Sequence[str], *, select: bool = False) -> FileSource:
        """See ``Source``; numbers of classes are labels, whatever their names are."""
        numbers = all(name == str(label) for label, name in enumerate(self.classes))
        if numbers and len(self.classes) <= len(classes) and not set(self.classes) <= set(classes):
            return self._relabeled(np.arange(len(self)), self.labels, tuple(classes))
        found = super().with_classes(classes, select=select)
        assert isinstance(found, FileSource)
        return found


def _entries(root: Path) -> Iterator[tuple[int, str, str]]:
    """Number, path and class of each line that has any."""
    try:
        lines = root.read_bytes().decode("utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigError(f"{root} cannot be read: {error.strerror}; give a list of paths and classes") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{root} is not UTF-8 text ({error.reason} at byte {error.start}); save it so") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        return
    first = numbered[0][1]
    mark = "\t" if "\t" in first else "," if "," in first else None
    columns, count = (0, 1), 2
    for place, (number, line) in enumerate(numbered):
        try:
            fields = _fields(line, mark)
        except csv.Error as error:
            raise ConfigError(f"{root}, line {number}: {error}; quote a field that holds a quote") from error
        if place == 0 and (named := _header(fields)) is not None:
            columns, count = named, len(fields)
            continue
        if place == 0 and _names_columns(fields, mark, numbered[1:2]):
            raise ConfigError(
                f"{root}, line {number} looks like names of columns, and {line!r} are not known; call them path and "
                f"class, or leave the line out"
            )
        if len(fields) != count:
            between = {None: "a blank", "\t": "a tab", ",": "a comma"}[mark]
            raise ConfigError(
                f"{root}, line {number} has {len(fields)} field(s), not {count}, by {between} between them; put a tab, "
                f"a comma or a blank between path and class, and quotes around a field that holds a comma"
            )
        yield number, fields[columns[0]].strip(), fields[columns[1]].strip()


def _fields(line: str, mark: str | None) -> list[str]:
    if mark is None:
        return line.strip().rsplit(None, 1)
    return next(csv.reader([line], delimiter=mark, strict=True))


def _header(fields: list[str]) -> tuple[int, int] | None:
    """Which columns are the path's and the class's, None if this names no columns."""
    names = [field.strip().lower() for field in fields]
    paths, classes = ([place for place, name in enumerate(names) if name in known] for known in (_PATHS, _CLASSES))
    return (paths[0], classes[0]) if paths and classes else None


def _names_columns(fields: list[str], mark: str | None, second: list[tuple[int, str]]) -> bool:
    """Whether the first line names no image, and the second does: it would be a bad image, and one class more."""
    return (
        bool(second)
        and not has_image_extension(fields[0].strip())
        and (has_image_extension(second[0][1].split(mark)[0].strip(' "')))
    )


def _number(root: Path, given: list[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names in label order, and the label of each image."""
    if not all(_NUMBER.fullmatch(name) for name in set(given)):
        names = sorted(set(given))
        label_of = {name: label for label, name in enumerate(names)}
        return tuple(names), np.array([label_of[name] for name in given], np.int32)
    numbers = [int(name) for name in given]
    lowest, highest = min(numbers), max(numbers)
    if lowest < 0 or highest >= _MOST_CLASSES:
        wrong = lowest if lowest < 0 else highest
        raise ConfigError(f"{root}: the class {wrong} is none of 0 to {_MOST_CLASSES - 1}; number classes from 0")
    return tuple(map(str, range(highest + 1))), np.array(numbers, np.int32)
