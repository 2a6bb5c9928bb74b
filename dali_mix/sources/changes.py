"""Whether the files of a data set are still those that were listed when the run began."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple

from dali_mix.sources.folder import ImageFolder
from dali_mix.sources.listing import Kind, has_image_extension, look_at


class _State(NamedTuple):
    """What a folder looks like without listing it; ``error`` is why it cannot be looked at."""

    inode: int = 0
    mtime_ns: int = 0
    mode: int = 0
    error: str = ""


@dataclass
class _Differences:
    """How one folder differs from what the run reads there."""

    gone: int = 0
    new: int = 0
    new_classes: int = 0
    unreadable: str = ""
    touched: bool = False


class FolderWatch:
    """Notices files that come, go or are replaced while a run goes on.

    Args:
        folder: as it was scanned just now.  Files left out by ``ImageFolder.without`` would count as new once
            something else in their folder changes.

    A check asks for the state of each folder that holds images, not of each file, and lists only folders whose state
    has changed: one ``stat`` per class for ImageNet.  So it does not notice a file that is overwritten in place, nor
    one behind a symbolic link.  A file that is replaced by renaming another one is noticed, but not which one it is.
    Network file systems may show a change only after their attribute cache has expired, mostly a minute.
    """

    def __init__(self, folder: ImageFolder) -> None:
        self._folder = folder
        self._root = str(folder.root)
        left_out = folder.left_out
        repeated = {os.path.basename(path) for path in left_out.repeated if os.path.dirname(path) == self._root}
        self._class_folders = {*folder.classes, *left_out.unnamed, *repeated}
        self._seen = {path: _state_of(path) for path in _folders_of(folder)}
        self._mtimes_ns = {path: state.mtime_ns for path, state in self._seen.items()}
        self._differences: dict[str, _Differences] = {}

    def changed(self) -> str | None:
        """Tell in one line what differs from the start of the run; None if nothing has changed since the last call."""
        before, self._seen = self._seen, {path: _state_of(path) for path in self._seen}
        moved = {path for path, state in self._seen.items() if state != before[path]}
        if not moved:
            return None
        if error := self._seen[self._root].error:
            return f"{self._root} cannot be read any more: {error}; put it back before the run needs it"
        for differences in self._differences.values():
            differences.touched = False
        listed = self._listed_names(moved)
        for path in moved:
            self._differences[path] = self._compare(path, listed[path])
        return self._described()

    def _listed_names(self, folders: set[str]) -> dict[str, set[str]]:
        """Names of the run's files in some folders."""
        names: dict[str, set[str]] = {path: set() for path in folders}
        for path in self._folder.files:
            parent, _, name = path.rpartition(os.sep)
            if parent in names:
                names[parent].add(name)
        return names

    def _compare(self, path: str, listed: set[str]) -> _Differences:
        try:
            with os.scandir(path) as entries:
                kinds = {entry.name: _kind(entry) for entry in entries}
        except (FileNotFoundError, NotADirectoryError):
            return _Differences(gone=len(listed))
        except OSError as error:
            return _Differences(unreadable=error.strerror or type(error).__name__)
        no_images = (Kind.FOLDER, Kind.SPECIAL)
        images = {name for name, kind in kinds.items() if has_image_extension(name) and kind not in no_images}
        new_classes = 0
        if path == self._root:
            images = set()  # only class folders hold the set's images
            folders = {name for name, kind in kinds.items() if kind is Kind.FOLDER and not name.startswith(".")}
            new_classes = len(folders - self._class_folders)
        # Not by the inode, which some network file systems make up anew.
        mtime_ns = self._seen[path].mtime_ns
        touched = bool(listed) and images == listed and mtime_ns != self._mtimes_ns[path]
        self._mtimes_ns[path] = mtime_ns
        return _Differences(len(listed - images), len(images - listed), new_classes, touched=touched)

    def _described(self) -> str | None:
        found = self._differences.values()
        gone = sum(each.gone for each in found)
        unreadable = [each.unreadable for each in found if each.unreadable]
        parts = [
            _count(gone, "file is gone", "files are gone"),
            _count(sum(each.new for each in found), "file is new", "files are new"),
            _count(sum(each.new_classes for each in found), "class folder is new", "class folders are new"),
            _count(len(unreadable), "folder cannot be read", "folders cannot be read"),
            _count(
                sum(each.touched for each in found),
                "folder has changed but not its file names, so an image may have been replaced",
                "folders have changed but not their file names, so images may have been replaced",
            ),
        ]
        said = ", ".join(part for part in parts if part)
        if not said:
            return None
        reason = f" ({unreadable[0]})" if unreadable else ""
        end = ", and cannot read those that are gone" if gone else ""
        return (
            f"{self._root} has changed since the run began: {said}{reason}; the run reads the files it listed then{end}"
        )


def _kind(entry: os.DirEntry[str]) -> Kind:
    """Tell what an entry is, as when the folder was listed; a link that cannot be followed now may lead to a file."""
    try:
        return look_at(entry)
    except OSError:
        return Kind.BROKEN


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}" if number else ""


def _folders_of(folder: ImageFolder) -> list[str]:
    """The root, the class folders, and those below that lead to files."""
    root = str(folder.root)
    found = {root, *(os.path.join(root, name) for name in folder.classes)}
    for path in {file.rpartition(os.sep)[0] for file in folder.files}:
        while path not in found:
            found.add(path)
            path = os.path.dirname(path)
    return sorted(found)


def _state_of(path: str) -> _State:
    try:
        status = os.stat(path)
    except OSError as error:
        return _State(error=error.strerror or type(error).__name__)
    return _State(status.st_ino, status.st_mtime_ns, status.st_mode)
