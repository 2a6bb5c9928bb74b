"""Which data a pipeline reads, as a fingerprint that does not depend on where it lies."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nvidia.dali.pipeline import Pipeline

from dali_mix.dali_private import operator_arguments

_PATHS = ("file_root", "path", "paths", "files", "index_path", "index_paths", "file_list", "annotations_file")
_READ = ("index_path", "index_paths", "file_list")
"""Files whose content counts; of others the name and the size do."""

_NOT_DATA = frozenset(
    "shard_id num_shards pad_last_batch stick_to_shard seed prefetch_queue_depth read_ahead lazy_init dont_use_mmap "
    "use_o_direct tensor_init_bytes skip_cached_images bytes_per_sample_hint preserve device name".split()
)


def digest_of_reader(pipeline: Pipeline, reader: str) -> str | None:
    """Return the fingerprint of the data set that a reader of DALI's reads.

    Args:
        pipeline: built.
        reader: its name.

    Returns:
        None if it cannot be known: of a pipeline that was deserialized, and of a reader that takes no path.
    """
    found = operator_arguments(pipeline, reader)
    if found is None or not any(found[1].get(name) for name in _PATHS):
        return None
    operator, arguments = found
    digest = hashlib.sha256(operator.encode())
    for name in sorted(arguments):
        if name in _NOT_DATA or name.startswith("_"):
            continue
        for part in _parts(name, arguments[name]):
            digest.update(name.encode() + b"\0" + part + b"\0")
    return digest.hexdigest()[:16]


def _parts(name: str, value: Any) -> Iterator[bytes]:
    """What counts of an argument."""
    if name not in _PATHS or value is None:
        yield repr(value).encode()
        return
    paths = [value] if isinstance(value, (str, os.PathLike)) else list(value)
    if name == "files":
        yield from _without_root([os.fspath(path) for path in paths])
        return
    for path in map(Path, paths):
        yield os.fsencode(path.name) if path.exists() and name != "file_root" else b""
        if path.is_dir():
            yield from sorted(_listed(path))
        elif path.is_file():
            yield path.read_bytes() if name in _READ else str(path.stat().st_size).encode()
        else:
            yield os.fsencode(path)  # in a bucket, for one


def _without_root(files: Sequence[str]) -> Iterator[bytes]:
    ends = os.path.dirname(min(files)), os.path.dirname(max(files))  # what these share, all do
    root = os.path.commonpath(ends) if all(map(os.path.isabs, ends)) else ""
    for file in files:
        yield os.fsencode(file[len(root) :])


def _listed(root: Path) -> Iterator[bytes]:
    for folder, _, names in os.walk(root):
        for name in names:
            yield os.fsencode(os.path.relpath(os.path.join(folder, name), root))
