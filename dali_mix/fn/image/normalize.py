"""Normalization by DALI's own operator."""

from __future__ import annotations

from typing import Any

from nvidia.dali import fn, types

from dali_mix.fn.graph import Node
from dali_mix.fn.mixing.recipe import Normalization


def normalize(images: Node, normalization: Normalization | None, mirror: Node | None = None) -> Node:
    """``(images - mean) / std``, left in HWC; None leaves the images as they are.

    Args:
        images: uint8 or float32 (H, W, C), layout HWC, CPU or GPU.
        normalization: how they leave.
        mirror: int32 (), CPU, 1 for images to flip left to right; None for none.
    """
    if normalization is None:
        return images if mirror is None else fn.flip(images, horizontal=mirror)
    flips: dict[str, Any] = {} if mirror is None else {"mirror": mirror}
    return fn.crop_mirror_normalize(
        images,
        dtype=types.FLOAT16 if normalization.half else types.FLOAT,
        output_layout="HWC",
        mean=list(normalization.mean),
        std=list(normalization.std),
        **flips,
    )
