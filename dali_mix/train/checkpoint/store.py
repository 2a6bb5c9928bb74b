"""Checkpoints on disk: whole or absent, checked before use, numbered.

A checkpoint is a folder ``checkpoint-EPOCH-BATCH`` of files with a list of their sizes and SHA-256 sums.  It is
written under another name, flushed to the disk, renamed, and only then named in the file ``latest``; nothing is
removed before.  A process that is killed at any point leaves the checkpoints of before untouched.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from dali_mix.files import remove_leftovers, replace_file, sync_folder, write_synced
from dali_mix.train.checksums import CheckpointError, fill

_NAME = re.compile(r"checkpoint-(\d+)-(\d+)")


class Position(NamedTuple):
    """A point of a run: ``batch`` batches of epoch ``epoch``, counted from 0, are trained."""

    epoch: int
    batch: int

    def __str__(self) -> str:
        return f"epoch {self.epoch + 1}, {self.batch} batches"


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: need not exist yet.
        keep: how many stay, the newest by number.
    """

    def __init__(self, folder: Path, keep: int = 1) -> None:
        self.folder = folder
        self._keep = keep

    def save(self, position: Position, files: Mapping[str, Callable[[], bytes | memoryview]]) -> Path:
        """Write a checkpoint, then remove those that are too old.

        Args:
            position: gives the checkpoint its number.
            files: name to what makes the content; called one after the other, so that only one content is in memory.

        Returns:
            The checkpoint's folder.  One that is there already is left as it is.

        Raises:
            OSError: if it cannot be written; nothing of it is left then, and the others are as they were.
        """
        path = self.folder / f"checkpoint-{position.epoch}-{position.batch}"
        temporary = self.folder / f".{path.name}.tmp"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._clean()
        if not path.exists():
            try:
                temporary.mkdir()
                fill(temporary, files)
                temporary.rename(path)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            sync_folder(self.folder)
        replace_file(self.folder / "latest", lambda file: write_synced(file, f"{path.name}\n".encode()))
        for old in list(self.all().values())[self._keep :]:
            self._remove(old)
        return path

    def all(self) -> dict[Position, Path]:
        """List every checkpoint, the newest first, good or not."""
        try:
            names = os.listdir(self.folder)
        except OSError:
            return {}
        numbered = {
            Position(int(match[1]), int(match[2])): self.folder / name
            for name in names
            if (match := _NAME.fullmatch(name))
        }
        return dict(sorted(numbered.items(), reverse=True))

    def newest_good(self, check: Callable[[Path], object], complain: Callable[[str], None]) -> Path | None:
        """Find the newest checkpoint that passes a check; None without any.

        Args:
            check: raises CheckpointError for one that must not be used.
            complain: told, in a line, of each newer one that does not pass.
        """
        for path in self.all().values():
            try:
                check(path)
            except CheckpointError as error:
                complain(f"{error}; going back to the one before")
                continue
            return path
        return None

    def set_aside(self, newer_than: Path) -> None:
        """Rename the checkpoints that are newer than one, so that their numbers are free again."""
        for path in self.all().values():
            if path == newer_than:
                return
            path.rename(_free_name(path.with_name(f"damaged-{path.name}")))

    def _remove(self, path: Path) -> None:
        # Renamed first: a half-removed folder must not look like a damaged checkpoint.
        temporary = path.with_name(f".{path.name}.tmp")
        path.rename(temporary)
        shutil.rmtree(temporary, ignore_errors=True)

    def _clean(self) -> None:
        """Remove what a killed process has left half done."""
        remove_leftovers(self.folder)
        for left in self.folder.glob(".checkpoint-*.tmp"):
            if left.is_symlink():
                left.unlink()
            shutil.rmtree(left, ignore_errors=True)


def _free_name(path: Path) -> Path:
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free
