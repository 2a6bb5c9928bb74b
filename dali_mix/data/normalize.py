"""Normalise: the last step in the graph."""

from __future__ import annotations

from collections.abc import Sequence

from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode


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
