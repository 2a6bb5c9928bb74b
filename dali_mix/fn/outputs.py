"""Normalize: how images leave the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

from dali_mix.fn.image.normalize import normalize as normalize_levels
from dali_mix.fn.mixing.recipe import MixedBatch, Normalization

_image_type_of: WeakKeyDictionary[Pipeline, str] = WeakKeyDictionary()


def normalization(mean: Sequence[float], std: Sequence[float], *, half: bool = False) -> Normalization:
    """``(images / 255 - mean) / std`` for uint8 images, as ``random_mix`` takes it.

    Args:
        mean, std: one value per channel, for images in [0, 1].
        half: float16 instead of float32.
    """
    pipeline = Pipeline.current()
    if pipeline is not None:
        _image_type_of[pipeline] = "float16" if half else "float32"
    return Normalization([255 * value for value in mean], [255 * value for value in std], half)


def image_type_of(pipeline: Pipeline) -> str | None:
    """The type that a pipeline normalizes its images to, "float16" or "float32"; None if not by :func:`normalization`.

    A checkpoint of one is not continued by the other: the images would not be the same to the bit.
    """
    return _image_type_of.get(pipeline)


def normalize(images: DataNode, mean: Sequence[float], std: Sequence[float], *, half: bool = False) -> DataNode:
    """``(images / 255 - mean) / std``, left in HWC.

    A batch of HWC images is what PyTorch calls channels_last, so the loader hands it over without
    moving a byte.

    Args:
        images: uint8 (H, W, 3), CPU or GPU.
        mean, std, half: see :func:`normalization`.

    Returns:
        float32 or float16 (H, W, 3), layout HWC, same device.
    """
    return normalize_levels(images, normalization(mean, std, half=half))


def batch_outputs(mixed: MixedBatch, *, params: bool = False) -> tuple[DataNode, ...]:
    """The outputs of a pipeline for ``MixLoader``: images that are normalized already, targets, labels, branch.

    Args:
        mixed: from ``random_mix``.
        params: whether how it was mixed follows: partner, box and lam, the ``params`` of a batch.

    Returns:
        the images; targets float32 (K,) and labels int64 on the device of the images; branch int32 () on the CPU, so
        that reading it waits for no GPU; and, if asked for, the params on the device of the images.
    """
    images, targets, labels, branch = mixed
    labels = fn.cast(labels, dtype=types.INT64)
    further = tuple(mixed.params) if params else ()
    if images.device == "gpu":
        targets, labels, further = targets.gpu(), labels.gpu(), tuple(node.gpu() for node in further)
    return images, targets, labels, branch, *further


def normalized_outputs(mixed: MixedBatch, normalization: dict[str, Any]) -> tuple[DataNode, ...]:
    """:func:`batch_outputs` of images that are still to be normalized.

    Args:
        mixed: from ``random_mix``.
        normalization: arguments of :func:`normalize`.

    ``random_mix(..., normalization=...)`` does it in one pass with the mixing.
    """
    return batch_outputs(mixed._replace(images=normalize(mixed.images, **normalization)))
