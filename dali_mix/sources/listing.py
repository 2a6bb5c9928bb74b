"""Folders listed so that nothing is missed: no link twice, no failure of a moment taken for an absence."""

from __future__ import annotations

import errno
import heapq
import os
import stat
import time
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import TypeVar

from dali_mix.errors import ConfigError
from dali_mix.sources.extensions import IMG_EXTENSIONS
from dali_mix.sources.left_out import LeftOut

T = TypeVar("T")

_PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR)
"""Errors of network storage that may be over in a moment."""

_PAUSES_S = (0.1, 0.5, 2.0)
"""Before each new try."""

_USUAL = tuple(each for extension in IMG_EXTENSIONS for each in (extension, extension.upper()))
"""Extensions as most files have them."""

_NOWHERE = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)
"""Errors of a link that leads to nothing."""


class Kind(Enum):
    """What an entry of a folder is, or what a link leads to."""

    FOLDER = "folder"
    FILE = "file"
    SPECIAL = "FIFO, socket or device"
    BROKEN = "link that leads nowhere"


def patiently(ask: Callable[[], T]) -> T:
    """Return the answer of the file system, asked again after an error that may pass.

    Raises:
        OSError: if it is no such error, or has not passed after three more tries.
    """
    for pause in _PAUSES_S:
        try:
            return ask()
        except OSError as error:
            if error.errno not in _PASSING:
                raise
        time.sleep(pause)
    return ask()


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether there is a folder, or a link to one.

    Raises:
        ConfigError: if that cannot be told, as in a folder that may not be entered.
    """
    try:
        return stat.S_ISDIR(patiently(partial(os.stat, path)).st_mode)
    except OSError as error:
        if error.errno in _NOWHERE:
            return False
        raise ConfigError(f"{path} cannot be looked at: {error.strerror}; make it readable") from error


def list_folder(path: str) -> list[os.DirEntry[str]]:
    """List all entries of a folder.

    Raises:
        ConfigError: if it cannot be listed.
    """
    try:
        return patiently(partial(_scan, path))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be listed: {error.strerror}; make it readable, or move it out of the data set"
        ) from error


def _scan(path: str) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return list(entries)


def kind_of(entry: os.DirEntry[str]) -> Kind:
    """Tell what an entry is; only links cost a system call.

    Raises:
        ConfigError: if that cannot be told.  A link with the extension of an image that may not be followed is a
            broken one.
    """
    try:
        return look_at(entry)
    except OSError:
        pass
    try:
        return patiently(partial(look_at, entry))
    except OSError as error:
        if error.errno in _NOWHERE or (has_image_extension(entry.name) and error.errno not in _PASSING):
            return Kind.BROKEN
        raise ConfigError(
            f"{entry.path} cannot be looked at: {error.strerror}; make it readable, or move it out of the data set"
        ) from error


def look_at(entry: os.DirEntry[str]) -> Kind:
    """Tell what an entry is, asked once.

    Raises:
        OSError: if that cannot be told.
    """
    if entry.is_file(follow_symlinks=False):
        return Kind.FILE
    if entry.is_dir(follow_symlinks=False):
        return Kind.FOLDER
    mode = os.stat(entry.path).st_mode
    return Kind.FOLDER if stat.S_ISDIR(mode) else Kind.FILE if stat.S_ISREG(mode) else Kind.SPECIAL


def has_image_extension(name: str) -> bool:
    """Whether a file's name says that it is an image, as torchvision's ``ImageFolder`` reads it."""
    return name.lower().endswith(IMG_EXTENSIONS)


class ClassLister:
    """Lists class folders, and notes what it leaves out.

    Args:
        root: the folder of the class folders.
        left_out: where to note it.

    Fields:
        links: paths of the images that are links.
    """

    def __init__(self, root: str, left_out: LeftOut) -> None:
        self._root = os.path.realpath(root)
        self._left_out = left_out
        self.links: list[str] = []

    def leads_up(self, target: str, place: str) -> bool:
        """Whether a link in a folder leads to what it lies in, or to what the whole set lies in; real paths."""
        return any(f"{inner}/".startswith(f"{target.rstrip('/')}/") for inner in (place, self._root))

    def images(self, folder: str) -> list[tuple[str, list[str]]]:
        """A class folder and those below it, with the names of their images, in torchvision's order.

        Each real folder is listed once, under the path without links if it has one, else under the first link that
        leads to it.

        Raises:
            ConfigError: if a folder cannot be listed.
        """
        start = os.path.realpath(folder)
        seen = {start}
        waiting = [(folder, start)]  # a loop, as folders may be nested deeper than Python's calls
        links: list[tuple[str, str]] = []  # a heap: in which order is not the file system's choice
        found: list[tuple[str, list[str]]] = []
        while waiting or links:
            if not waiting:
                path, place = heapq.heappop(links)
                target = os.path.realpath(path)
                if target in seen or self.leads_up(target, place):
                    self._left_out.repeated.append(path)
                    continue
                seen.add(target)
                waiting.append((path, target))
            path, real = waiting.pop()
            names, folders, linked = self._sort_entries(path)
            found.append((path, names))
            links_here = [(os.path.join(path, name), real) for name in linked]
            for link in links_here:
                heapq.heappush(links, link)
            for name in folders:
                inner, real_inner = os.path.join(path, name), os.path.join(real, name)
                if real_inner in seen:  # below a link that leads above something else
                    self._left_out.repeated.append(inner)
                else:
                    seen.add(real_inner)
                    waiting.append((inner, real_inner))
        return [(path, sorted(names)) for path, names in sorted(found) if names]

    def _sort_entries(self, path: str) -> tuple[list[str], list[str], list[str]]:
        """Names of the images, folders, and links to folders."""
        images, folders, linked = [], [], []
        left_out = self._left_out
        for entry in list_folder(path):
            name = entry.name
            if name.endswith(_USUAL) and entry.is_file(follow_symlinks=False):
                images.append(name)  # a million times
                continue
            kind = kind_of(entry)
            if kind is Kind.FOLDER:
                if name.startswith("."):
                    left_out.hidden.append(entry.path)
                elif entry.is_symlink():
                    linked.append(name)
                else:
                    folders.append(name)
            elif kind is Kind.SPECIAL:
                left_out.special.append(entry.path)
            elif has_image_extension(name):
                images.append(name)
                if entry.is_symlink():
                    self.links.append(entry.path)
            elif kind is Kind.BROKEN:
                left_out.broken.append(entry.path)
            else:
                left_out.unlisted.append(entry.path)
        return images, folders, linked
