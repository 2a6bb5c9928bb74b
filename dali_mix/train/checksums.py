"""Files in a folder with a list of their sizes and SHA-256 sums, written and verified."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dali_mix.errors import ConfigError
from dali_mix.files import sync_folder, write_synced

_FILE_NAME = re.compile(r"[a-z0-9_-]+\.(pt|safetensors)")
_SUMS = "checksums.json"
_FORMAT = 1
_READ_BYTES = 1 << 24
_TRIES, _PAUSE_S = 3, 1.0


class CheckpointError(ConfigError):
    """A checkpoint that must not be used; the message says why."""


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


def fill(folder: Path, files: Mapping[str, Callable[[], bytes | memoryview]]) -> None:
    """Write files, and the list of them last.

    Args:
        folder: new and empty.
        files: what makes the content of each, by its name.
    """
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
