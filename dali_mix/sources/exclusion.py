"""Which images of a folder the lines of a list name, by whatever path."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from dali_mix.sources.base import Named

_MOST_LINKS = 40
"""The longest chain of links; Linux follows no more."""


def find_named(files: Sequence[str], links: Collection[str], lines: Sequence[str], data_dir: Path) -> Named:
    """Find the images that lines name, as they are listed or behind links.

    Args:
        files: absolute paths.
        links: those among them that are links themselves.
        lines: paths, absolute or relative to ``data_dir``.
        data_dir: what relative paths begin at.
    """
    real_folder = _Remembered()
    base = os.path.abspath(data_dir)
    wanted: dict[str, list[int]] = {}
    for index, line in enumerate(lines):
        if "\0" in line:  # no path
            continue
        given = os.path.normpath(os.path.join(base, line))
        # Also the path as the system reads it: ".." after a link is not what stands before it.
        for path in {given, real_folder.beside(given), os.path.realpath(os.path.join(base, line))}:
            wanted.setdefault(path, []).append(index)
    linked = frozenset(links)
    found = Named(set(), set())
    for index, path in enumerate(files):
        names = [path, real_folder.beside(path)]
        if path in linked:
            names.append(real_folder.target(path))
        for name in names:
            if name in wanted:
                found.files.add(index)
                found.lines.update(wanted[name])
    return found


class _Remembered(dict[str, str]):
    """Real paths of folders: asking for each of a million files would take minutes on network storage."""

    def __missing__(self, folder: str) -> str:
        self[folder] = os.path.realpath(folder)
        return self[folder]

    def beside(self, path: str) -> str:
        """The path by the real name of its folder."""
        folder, _, name = path.rpartition("/")
        return f"{self[folder or '/']}/{name}"

    def target(self, path: str) -> str:
        """What a link leads to in the end, where it does."""
        for _ in range(_MOST_LINKS):
            try:
                path = self.beside(os.path.join(os.path.dirname(path), os.readlink(path)))
            except OSError:  # no link any more
                break
        return path
