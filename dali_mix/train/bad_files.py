"""Files that cannot be decoded: how many are too many, and where they are named."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from dali_mix.errors import ConfigError, DataError
from dali_mix.files import append_line, open_own
from dali_mix.loading.recovery import BadImage
from dali_mix.sources import Source
from dali_mix.text import fits_a_line

_log = logging.getLogger(__name__)

BAD_FILES = "bad_files.txt"
"""Name of the list in a run's folder."""

_SHOWN = 10
"""Files that a message names; the list has all."""


class BadFiles:
    """What the loaders of this rank, and later of all ranks, could not use.

    Args:
        on_bad_image: "replace" lets the loader go on, "error" stops at the first file.
        max_fraction: share of a source's images that may be bad; one file always may.
    """

    def __init__(self, on_bad_image: str, max_fraction: float) -> None:
        self._stop_at_once = on_bad_image == "error"
        self._max_fraction = max_fraction
        self._known: set[str] = set()
        self._new: list[BadImage] = []
        self._sources: dict[str, Source] = {}
        self._found: dict[str, set[str]] = {}
        self._list: Path | None = None

    def reporter(self, source: Source) -> Callable[[BadImage], None]:
        """Return what a loader of this source calls with each bad file.

        Raises:
            DataError: when called, if the run must stop.
        """
        self._sources[source.name] = source
        self._found[source.name] = {path for path in self._known if source.owns(path)}
        return self._report

    def write_to(self, path: Path) -> None:
        """Name the files in a list, which ``--exclude-list`` takes; what it names already is not said again.

        Raises:
            ConfigError: if there is something else in its place, such as a link.
        """
        if os.path.lexists(path):
            try:
                with open_own(path, os.O_RDWR) as file:
                    self._known.update(file.read().decode(errors="surrogateescape").split("\n"))
            except OSError as error:
                raise ConfigError(f"{path} cannot be continued: {error.strerror}") from error
            self._known.discard("")
        self._list = path
        for source in self._sources.values():
            self.reporter(source)

    def take_over(self, images: Iterable[BadImage]) -> None:
        """Note files that an earlier process found."""
        self._new += images

    @property
    def count(self) -> int:
        """The number of files that are known to be bad, in the list or not."""
        return len(self._known)

    def new(self) -> list[BadImage]:
        """Return what this rank has found since the last call."""
        found, self._new = self._new, []
        return found

    def add(self, images: Iterable[BadImage]) -> None:
        """Name files, once each, and check how many there are.

        Raises:
            DataError: if there are too many.
        """
        for image in images:
            if image.path not in self._known:
                self._known.add(image.path)
                _log.warning("%s is replaced: %s", image.path, image.reason)
                self._append(image.path)
                for name, source in self._sources.items():
                    if source.owns(image.path):
                        self._found[name].add(image.path)
        for name, source in self._sources.items():
            self._check(name, len(source))

    def _report(self, image: BadImage) -> None:
        if self._stop_at_once:
            raise DataError(
                f"{image.path}: {image.reason} (--on-bad-image error); repair or remove it, or leave it out with "
                f"--exclude-list; dali-mix scan finds all such files"
            )
        self._new.append(image)
        self.add([image])

    def _append(self, path: str) -> None:
        if self._list is None:
            return
        if not fits_a_line(path):
            # It would name other files, and --exclude-list would leave those out.
            _log.warning("%s is not in %s, as its name is no line of text; rename or remove it", path, self._list)
            return
        try:
            append_line(self._list, path)
        except OSError as error:
            _log.warning("%s cannot be written: %s", self._list, error.strerror)

    def _check(self, name: str, size: int) -> None:
        found = sorted(self._found[name])
        if len(found) <= max(1, self._max_fraction * size):
            return
        shown = ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
        where = f"; all are in {self._list}" if self._list else ""
        raise DataError(
            f"{len(found)} of {size} images in {name} cannot be used, more than --max-bad-fraction "
            f"{self._max_fraction:g} allows: {shown}{where}; dali-mix scan finds all such files"
        )
