"""What a folder holds beside the images of a set: told by the trainer and by the scan in the same words."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

_EXTENSIONS_SHOWN = 5


@dataclass
class LeftOut:
    """Paths of what is not among the images of a folder.

    Fields:
        hidden: folders whose names begin with a dot; they are not entered.
        unlisted: files in class folders whose extension is none of an image.
        special: FIFOs, sockets and devices.
        outside: files beside the class folders.
        broken: links that lead nowhere, without the extension of an image; they may stand for folders.
        repeated: links to folders that are listed already, or that they lie in.
        unnamed: class folders that the class map does not name, with the number of their images.
    """

    hidden: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    unnamed: dict[str, int] = field(default_factory=dict)

    @property
    def files(self) -> list[str]:
        """Every path that was met, sorted."""
        return sorted([*self.hidden, *self.unlisted, *self.special, *self.outside, *self.broken, *self.repeated])

    def told(self, base: str) -> list[str]:
        """One part of a sentence for each kind: "2 hidden folders (the first is cat/.git)".

        Args:
            base: the folder that paths are shown relative to.
        """
        kinds = (
            (self.hidden, "hidden folder", "hidden folders", ""),
            (self.unlisted, "file with another extension", "files with other extensions", _extensions(self.unlisted)),
            (self.special, "FIFO, socket or device", "FIFOs, sockets or devices", ""),
            (self.outside, "file beside the class folders", "files beside the class folders", ""),
            (self.broken, "link that leads nowhere", "links that lead nowhere", ""),
            (
                self.repeated,
                "link to a folder that is listed already or lies above it",
                "links to folders that are listed already or lie above them",
                "",
            ),
        )
        parts = [_counted(paths, one, many, detail, base) for paths, one, many, detail in kinds if paths]
        if self.unnamed:
            images = sum(self.unnamed.values())
            folders = "class folder" if len(self.unnamed) == 1 else "class folders"
            parts.append(
                f"{len(self.unnamed):,} {folders} with {images:,} {'image' if images == 1 else 'images'} that "
                f"--class-map does not name (the first is {min(self.unnamed)})"
            )
        return parts


def _counted(paths: list[str], one: str, many: str, detail: str, base: str) -> str:
    first = os.path.relpath(min(paths), base)
    if len(paths) == 1:
        return f"1 {one} ({first})"
    return f"{len(paths):,} {many} ({detail}the first is {first})"


def _extensions(paths: list[str]) -> str:
    return f"{count_extensions(paths)}; "


def count_extensions(paths: Iterable[str]) -> str:
    """Extensions with their numbers, the most frequent first: ".jfif 3, .txt 1"."""
    counts = Counter(os.path.splitext(path)[1].lower() or "none" for path in paths).most_common()
    more = len(counts) - _EXTENSIONS_SHOWN
    shown = ", ".join(f"{extension} {count:,}" for extension, count in counts[:_EXTENSIONS_SHOWN])
    return f"{shown}, and {more} more" if more > 0 else shown
