"""Where the CutMix box lies: geometry in graph arithmetic, no randomness of its own.

Boxes are int32 (4,) = ``y1, x1, y2, x2`` in pixels, half-open.
"""

from __future__ import annotations

from nvidia.dali import fn, types
from nvidia.dali import math as dali_math

from dali_mix.fn import _graph
from dali_mix.fn._graph import Node

# Of (y, x, half side), the edges before clipping.
_EDGES = [[1, 0, -1], [0, 1, -1], [1, 0, 1], [0, 1, 1]]


def size_per_edge(images: Node) -> Node:
    """float32 (4,) = H, W, H, W of HWC images, in pixels."""
    height_width = images.shape(dtype=types.FLOAT)[:2]
    return fn.cat(height_width, height_width)


def box_around(size_px: Node, centre_and_half_side: Node) -> Node:
    """The paper's box: sides ``size * sqrt(1 - lam)`` around a centre, clipped, then rounded.

    Args:
        size_px: float32 (4,) from :func:`size_per_edge`.
        centre_and_half_side: float32 (3,), all as shares of the image: y and x of the centre, and half
            the side, ``sqrt(1 - lam) / 2``.

    Returns:
        int32 (4,).

    Source: CutMix (Yun 2019, arXiv 1905.04899v2), section 3.1 and Appendix A, Algorithm A1, whose
    printed ``r_w = Sqrt(1 - lambda)`` lacks the factor W of section 3.1.
    Differs from clovaai, torchvision v2 and timm up to 1.0.29, which halve the side in whole pixels,
    so that their unclipped boxes have even sides only.
    """
    edges = _graph.linear(centre_and_half_side, _EDGES, [4])
    return fn.cast(dali_math.clamp(edges, 0.0, 1.0) * size_px, dtype=types.INT32)  # the cast rounds


def box_between(size_px: Node, minmax: tuple[float, float], side: Node, place: Node) -> Node:
    """A box with independent sides between two shares of the image, wholly inside it.

    Args:
        size_px: float32 (4,) from :func:`size_per_edge`.
        minmax: smallest and largest side, as shares of the image side.
        side: float32 (2,), uniform in [0, 1): picks height and width, both ends included.
        place: float32 (2,), uniform in [0, 1): picks the top-left corner among all that fit.

    Returns:
        int32 (4,).

    Source: timm 1.0.31 ``timm/data/mixup.py`` ``rand_bbox_minmax`` (``--cutmix-minmax``).
    Differs from it: the largest side can be drawn, and ``min == max`` is legal.
    """
    size_px = size_px[:2]
    low = dali_math.floor(size_px * minmax[0])
    high = dali_math.floor(size_px * minmax[1])
    length = low + dali_math.floor(side * (high - low + 1.0))
    start = dali_math.floor(place * (size_px - length + 1.0))
    return fn.cast(fn.cat(start, start + length), dtype=types.INT32)


def own_share(size_px: Node, box: Node) -> Node:
    """float32 (): the share of the image outside the box, ``1 - area / (H * W)``."""
    edges = box / size_px
    sides = edges[2:4] - edges[0:2]
    return 1.0 - sides[0] * sides[1]
