"""Encoded images and labels into the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

from dali_mix.errors import ConfigError
from dali_mix.sources.folder import ImageFolder

READER_NAME = "reader"


class Reading(NamedTuple):
    """How ``read_images`` reads; see there.

    Fields:
        dataset: fingerprint of the folder.
        size: files in the folder.
    """

    dataset: str
    size: int
    training: bool
    shard_id: int
    num_shards: int
    shuffle_seed: int

    @property
    def entries(self) -> Sequence[int]:
        """Indices into the folder of the files that are read."""
        every = range(self.size)
        return _multiple_of(self.num_shards, self.size, self.shuffle_seed) if self.training else every


_reading_of: WeakKeyDictionary[Pipeline, Reading] = WeakKeyDictionary()


def read_images(
    folder: ImageFolder,
    *,
    training: bool,
    shard_id: int = 0,
    num_shards: int = 1,
    shuffle_seed: int = 0,
) -> tuple[DataNode, DataNode]:
    """Encoded images and labels of one shard.

    Args:
        folder: from ``scan_image_folder``.
        training: True shuffles the whole set anew before every epoch, so that a rank's shard is another one
            each time; False keeps the order, so that every image comes once.
        shard_id, num_shards: this rank's share.
        shuffle_seed: must be equal on all ranks, or their shards would overlap.

    Returns:
        uint8 (bytes,) and int32 (1,), both on the CPU.

    Raises:
        ConfigError: if there are fewer images than shards, or the name of a file is not UTF-8.

    For training, the set is cut to a multiple of ``num_shards``: fewer than ``num_shards`` images, chosen
    by ``shuffle_seed``, are left out of the run.  Shards of unequal size would make ranks leave an epoch
    at different images, and from then on overlap.
    """
    folder.require_readable_names()
    if len(folder) < num_shards:
        raise ConfigError(f"{folder.root} holds {len(folder)} image(s) for {num_shards} ranks; use fewer ranks")
    reading = Reading(folder.digest(), len(folder), training, shard_id, num_shards, shuffle_seed)
    pipeline = Pipeline.current()
    if pipeline is not None:
        _reading_of[pipeline] = reading
    entries = reading.entries
    return read_files([folder.files[index] for index in entries], [folder.labels[index] for index in entries], reading)


def read_files(files: Sequence[str], labels: Sequence[int], reading: Reading) -> tuple[DataNode, DataNode]:
    """Bytes and labels of files, in the order that ``reading`` says."""
    order: dict[str, Any] = (
        {"shuffle_after_epoch": True, "shuffle_after_epoch_seed": reading.shuffle_seed}
        if reading.training
        else {"stick_to_shard": True}
    )
    jpegs, labels = fn.readers.file(
        files=files,
        labels=labels,
        shard_id=reading.shard_id,
        num_shards=reading.num_shards,
        # Every epoch ends on a whole batch, so that the next one begins with its own first image.
        pad_last_batch=True,
        # A read that fails raises; for a mapped page that fails the system may kill the process (SIGBUS).
        dont_use_mmap=True,
        name=READER_NAME,
        **order,
    )
    return jpegs, labels


def _multiple_of(num_shards: int, size: int, seed: int) -> list[int]:
    """Indices of a data set without the few that do not fill another row of shards."""
    left_out = np.random.default_rng(seed).choice(size, size % num_shards, replace=False)
    return np.delete(np.arange(size), left_out).tolist()


def feed_images() -> tuple[DataNode, DataNode]:
    """Encoded images and labels that the host feeds, as Triton's DALI backend does.

    Returns:
        the inputs "jpegs", uint8 (bytes,), and "labels", int32 (), both on the CPU.
    """
    jpegs = fn.external_source(name="jpegs", dtype=types.UINT8, ndim=1)
    labels = fn.external_source(name="labels", dtype=types.INT32, ndim=0)
    return jpegs, labels


def scheduled_size(schedule: Callable[[int, int], int], *, batch_size: int, batches_per_epoch: int) -> DataNode:
    """A size that may change from batch to batch, for ``random_resized_crop``.

    Args:
        schedule: epoch and batch, both counted from 0, to a side in pixels.  Must depend on nothing else: a
            restored pipeline asks for the rest.
        batch_size: of the pipeline.
        batches_per_epoch: that the reader makes, an incomplete last one included.

    Returns:
        float32 (2,), height and width, on the CPU.  A graph with it cannot be serialised.
    """

    def draw(info: types.BatchInfo) -> list[np.ndarray]:
        # DALI counts the batches of the whole run: it sees no end of an epoch, which is the reader's.
        side = schedule(info.iteration // batches_per_epoch, info.iteration % batches_per_epoch)
        return [np.full(2, side, np.float32)] * batch_size

    return fn.external_source(
        source=draw, batch=True, batch_info=True, dtype=types.FLOAT, ndim=1, name="scheduled_size"
    )


def reading_of(pipeline: Pipeline) -> Reading | None:
    """How a pipeline reads, None if it does not use ``read_images``."""
    return _reading_of.get(pipeline)
