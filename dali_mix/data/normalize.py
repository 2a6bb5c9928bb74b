"""Normalise: the last step in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode

from dali_mix.fn import MixedBatch


def normalize(images: DataNode, mean: Sequence[float], std: Sequence[float], *, half: bool = False) -> DataNode:
    """``(images / 255 - mean) / std``, left in HWC.

    A batch of HWC images is what PyTorch calls channels_last, so the loader hands it over without
    moving a byte.

    Args:
        images: uint8 (H, W, 3), CPU or GPU.
        mean, std: three values each, for images in [0, 1].
        half: float16 instead of float32.

    Returns:
        float32 or float16 (H, W, 3), layout HWC, same device.
    """
    return fn.crop_mirror_normalize(
        images,
        dtype=types.FLOAT16 if half else types.FLOAT,
        output_layout="HWC",
        mean=[255 * value for value in mean],
        std=[255 * value for value in std],
    )


def normalized_outputs(mixed: MixedBatch, normalization: dict[str, Any]) -> tuple[DataNode, ...]:
    """The outputs of a pipeline for ``MixLoader``: normalised images, and targets and labels beside them.

    Args:
        mixed: from ``random_mix``.
        normalization: arguments of :func:`normalize`.

    Returns:
        images float (H, W, 3); targets float32 (K,) and labels int64 on the device of the images; branch int32 ()
        on the CPU, so that reading it waits for no GPU.
    """
    images, targets, labels, branch = mixed
    labels = fn.cast(labels, dtype=types.INT64)
    if images.device == "gpu":
        targets, labels = targets.gpu(), labels.gpu()
    return normalize(images, **normalization), targets, labels, branch
