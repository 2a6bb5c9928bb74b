"""Sources: encoded images and labels into the graph."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

from dali_mix.data.folder import ImageFolder

READER_NAME = "reader"

_dataset_of: WeakKeyDictionary[Pipeline, str] = WeakKeyDictionary()


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
        training: True shuffles the whole set anew before every epoch and hands each rank another
            shard; False keeps the order and pads the last batch, so that every image comes once.
        shard_id, num_shards: this rank's share.
        shuffle_seed: must be equal on all ranks, or their shards would overlap.

    Returns:
        uint8 (bytes,) and int32 (1,), both on the CPU.
    """
    pipeline = Pipeline.current()
    if pipeline is not None:
        _dataset_of[pipeline] = folder.digest()
    order: dict[str, Any] = (
        {"shuffle_after_epoch": True, "shuffle_after_epoch_seed": shuffle_seed}
        if training
        else {"pad_last_batch": True, "stick_to_shard": True}
    )
    jpegs, labels = fn.readers.file(
        files=list(folder.files),
        labels=list(folder.labels),
        shard_id=shard_id,
        num_shards=num_shards,
        name=READER_NAME,
        **order,
    )
    return jpegs, labels


def feed_images() -> tuple[DataNode, DataNode]:
    """Encoded images and labels that the host feeds, as Triton's DALI backend does.

    Returns:
        the inputs "jpegs", uint8 (bytes,), and "labels", int32 (), both on the CPU.
    """
    jpegs = fn.external_source(name="jpegs", dtype=types.UINT8, ndim=1)
    labels = fn.external_source(name="labels", dtype=types.INT32, ndim=0)
    return jpegs, labels


def dataset_digest(pipeline: Pipeline) -> str | None:
    """The fingerprint of the data set that a pipeline reads, None if it is not one of ours."""
    return _dataset_of.get(pipeline)
