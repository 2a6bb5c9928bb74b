"""Where the CutMix box lies: geometry in graph arithmetic, no randomness of its own.

Boxes are int32 (4,) = ``y1, x1, y2, x2`` in pixels, half-open.
"""

from __future__ import annotations

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali import math as dali_math

from dali_mix.fn.graph import Node

_EDGES_OF_SIDE = np.array([[-0.5], [0.5]], np.float32)


def edges_around(center: Node, side: Node) -> Node:
    """The edges of a square, before clipping, all as shares of the image.

    Args:
        center: float32 (1, 2), y and x.
        side: float32 (1, 1).

    Returns:
        float32 (2, 2): rows are start and end, columns y and x.
    """
    return center + side * types.Constant(_EDGES_OF_SIDE)


def box_of_edges(size_px: Node, edges: Node) -> Node:
    """The paper's box: clipped to the image, then rounded to whole pixels.

    Args:
        size_px: int32 (2,) height and width.
        edges: float32 (2, 2) from :func:`edges_around`.

    Returns:
        int32 (4,).

    Source: CutMix (Yun 2019, arXiv 1905.04899v2), section 3.1 and Appendix A, Algorithm A1, whose
    printed ``r_w = Sqrt(1 - lambda)`` lacks the factor W of section 3.1.
    Differs from clovaai, torchvision v2 and timm up to 1.0.29, which halve the side in whole pixels,
    so that their unclipped boxes have even sides only.
    """
    pixels = fn.cast(dali_math.clamp(edges, 0.0, 1.0) * size_px, dtype=types.INT32)  # the cast rounds
    return fn.reshape(pixels, shape=[4])


def box_between(size_px: Node, minmax: tuple[float, float], side: Node, place: Node) -> Node:
    """A box with independent sides between two shares of the image, wholly inside it.

    Args:
        size_px: int32 (2,) height and width.
        minmax: smallest and largest side, as shares of the image side.
        side: float32 (2,), uniform in [0, 1): picks height and width, both ends included.
        place: float32 (2,), uniform in [0, 1): picks the top-left corner among all that fit.

    Returns:
        int32 (4,).

    Source: timm 1.0.31 ``timm/data/mixup.py`` ``rand_bbox_minmax`` (``--cutmix-minmax``).
    Differs from it: the largest side can be drawn, and ``min == max`` is legal.
    """
    low = dali_math.floor(size_px * minmax[0])
    high = dali_math.floor(size_px * minmax[1])
    length = low + dali_math.floor(side * (high - low + 1.0))
    start = dali_math.floor(place * (size_px - length + 1.0))
    return fn.cast(fn.cat(start, start + length), dtype=types.INT32)


def box_sides(box: Node) -> Node:
    """int32 (2,): height and width of a box, in pixels."""
    return box[2:4] - box[0:2]


def own_share(size_px: Node, box: Node) -> Node:
    """float32 (): the share of the image outside the box, ``1 - area / (H * W)``."""
    sides = box_sides(box) / size_px
    return 1.0 - sides[0] * sides[1]
