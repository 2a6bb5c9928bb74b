"""Where the CutMix box lies: geometry in graph arithmetic, no randomness of its own.

Boxes are int32 (4,) = ``y1, x1, y2, x2`` in pixels, half-open.
"""

from __future__ import annotations

from nvidia.dali import fn, types
from nvidia.dali import math as dali_math

from dali_mix.fn._graph import Node


def box_around(size_px: Node, lam: Node, centre: Node) -> Node:
    """The paper's box: sides ``size * sqrt(1 - lam)`` around a centre, clipped, then rounded.

    Args:
        size_px: float32 (2,), image height and width.
        lam: float32 (), the drawn share of the own image, in [0, 1].
        centre: float32 (2,), y and x as shares of the image, in [0, 1).

    Returns:
        int32 (4,).

    Source: CutMix (Yun 2019, arXiv 1905.04899v2), section 3.1 and Appendix A, Algorithm A1, whose
    printed ``r_w = Sqrt(1 - lambda)`` lacks the factor W of section 3.1.
    Differs from clovaai, torchvision v2 and timm up to 1.0.29, which halve the side in whole pixels,
    so that their unclipped boxes have even sides only.
    """
    half_side = size_px * dali_math.sqrt(1.0 - lam) * 0.5
    middle = centre * size_px
    start = _round(dali_math.clamp(middle - half_side, 0.0, size_px))
    end = _round(dali_math.clamp(middle + half_side, 0.0, size_px))
    return fn.cat(start, end)


def box_between(size_px: Node, minmax: tuple[float, float], side: Node, place: Node) -> Node:
    """A box with independent sides between two shares of the image, wholly inside it.

    Args:
        size_px: float32 (2,), image height and width.
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
    return fn.cat(_round(start), _round(start + length))


def own_share(size_px: Node, box: Node) -> Node:
    """float32 (): the share of the image outside the box, ``1 - area / (H * W)``."""
    sides = fn.cast(box[2:4] - box[0:2], dtype=types.FLOAT)
    return 1.0 - (sides[0] * sides[1]) / (size_px[0] * size_px[1])


def _round(pixels: Node) -> Node:
    return fn.cast(dali_math.floor(pixels + 0.5), dtype=types.INT32)
