"""Checkpoints on disk: whole or absent, checked before use, numbered.

A checkpoint is a folder ``checkpoint-EPOCH-BATCH`` of files with a list of their sizes and SHA-256 sums.  It is
written under another name, flushed to the disk, renamed, and only then named in the file ``latest``; nothing is
removed before.  A process that is killed at any point leaves the checkpoints of before untouched.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dali_mix.errors import ConfigError
from dali_mix.files import remove_leftovers, replace_file, sync_folder, write_synced

_NAME = re.compile(r"checkpoint-(\d+)-(\d+)")
_FILE_NAME = re.compile(r"[a-z0-9_-]+\.(pt|safetensors)")
_SUMS = "checksums.json"
_FORMAT = 1
_READ_BYTES = 1 << 24
_TRIES, _PAUSE_S = 3, 1.0


class Position(NamedTuple):
    """A point of a run: ``batch`` batches of epoch ``epoch``, counted from 0, are trained."""

    epoch: int
    batch: int

    def __str__(self) -> str:
        return f"epoch {self.epoch + 1}, {self.batch} batches"


class CheckpointError(ConfigError):
    """A checkpoint that must not be used; the message says why."""


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
                _fill(temporary, files)
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
        """Every checkpoint, the newest first, good or not."""
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
        """The newest checkpoint that passes a check, None without any.

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


def verify(path: Path) -> list[str]:
    """Check that a checkpoint is as it was written.

    Returns:
        The names of its files.

    Raises:
        CheckpointError: naming what is wrong.
    """
    return _verify(path, _read_sums(path))


def verify_member(file: Path) -> None:
    """Check a file that lies in a checkpoint; one that lies elsewhere, without sums, passes.

    Raises:
        CheckpointError: if it is not what was written.
    """
    if (file.parent / _SUMS).is_file():
        _verify(file.parent, {name: sums for name, sums in _read_sums(file.parent).items() if name == file.name})


def _verify(path: Path, sums: dict[str, Any]) -> list[str]:
    for name, expected in sums.items():
        try:
            found = _patiently(path / name)
        except OSError as error:
            raise CheckpointError(f"{path} is damaged: {name} cannot be read: {error.strerror}") from error
        if found["bytes"] != expected["bytes"]:
            raise CheckpointError(
                f"{path} is damaged: {name} has {found['bytes']} bytes instead of {expected['bytes']}"
            )
        if found != expected:
            raise CheckpointError(f"{path} is damaged: {name} is not what was written (SHA-256 differs)")
    return list(sums)


def _fill(folder: Path, files: Mapping[str, Callable[[], bytes | memoryview]]) -> None:
    sums = {}
    for name, make in files.items():
        if not _FILE_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a name for a file of a checkpoint")
        content = make()
        write_synced(folder / name, content)
        sums[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_synced(folder / _SUMS, json.dumps({"format": _FORMAT, "files": sums}, indent=1).encode())
    sync_folder(folder)


def _read_sums(path: Path) -> dict[str, Any]:
    try:
        content = json.loads((path / _SUMS).read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} is damaged: {_SUMS} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {_SUMS} is not JSON of a checkpoint") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(f"{path} has another format than this version of dali_mix reads")
    files = content.get("files")
    # The names come from a file: only plain ones are looked at, none leads out of the folder.
    if not isinstance(files, dict) or not all(_FILE_NAME.fullmatch(name) for name in files):
        raise CheckpointError(f"{path} is damaged: {_SUMS} does not list a checkpoint's files")
    if not all(isinstance(value, dict) and value.keys() == {"bytes", "sha256"} for value in files.values()):
        raise CheckpointError(f"{path} is damaged: {_SUMS} does not list a checkpoint's files")
    return files


def _patiently(file: Path) -> dict[str, Any]:
    """:func:`_fingerprint` where a network disk may fail for a moment."""
    for _ in range(_TRIES - 1):
        try:
            return _fingerprint(file)
        except FileNotFoundError:
            raise
        except OSError:
            time.sleep(_PAUSE_S)
    return _fingerprint(file)


def _fingerprint(file: Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as content:
        while part := content.read(_READ_BYTES):
            digest.update(part)
            size += len(part)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _free_name(path: Path) -> Path:
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free
