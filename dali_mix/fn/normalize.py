"""Normalization by DALI's own operator."""

from __future__ import annotations

from nvidia.dali import fn, types

from dali_mix.fn._graph import Node
from dali_mix.fn.recipe import Normalization


def normalize(images: Node, normalization: Normalization | None) -> Node:
    """``(images - mean) / std``, left in HWC; None leaves the images as they are."""
    if normalization is None:
        return images
    normalized: Node = fn.crop_mirror_normalize(
        images,
        dtype=types.FLOAT16 if normalization.half else types.FLOAT,
        output_layout="HWC",
        mean=list(normalization.mean),
        std=list(normalization.std),
    )
    return normalized
