"""The parameters of one mix, drawn once and used for images and labels alike."""

from __future__ import annotations

from typing import NamedTuple

from dali_mix.fn.graph import Node


class MixParams(NamedTuple):
    """What was drawn for each sample.  All three are CPU nodes.

    Fields:
        partner: int32 (), the place in the batch of the sample that is mixed in.
        box: int32 (4,), ``y1, x1, y2, x2`` in pixels, half-open: the region that comes from the
            partner.  All zero for Mixup and where nothing is pasted.
        lam: float32 (), the weight of the sample's OWN image and label.
    """

    partner: Node
    box: Node
    lam: Node


class Draw(NamedTuple):
    """What a method decides for each sample, whoever its partner is.  All are CPU nodes.

    Fields:
        box: int32 (4,), ``y1, x1, y2, x2`` in pixels, half-open: the region of the own image that changes.  None for
            the whole image, which is then blended by ``weight``.
        lam: float32 (), the weight of the sample's OWN label.
        source: int32 (4,), the region of the partner that fills the box, scaled to its size; None for the same box.
        weight: float32 (), the weight of the own image inside the box; None for 0: the partner covers it.
    """

    box: Node | None
    lam: Node
    source: Node | None = None
    weight: Node | None = None


class Planned(NamedTuple):
    """How the native operator draws a method by itself, which costs less than graph nodes.

    Fields:
        operation: what the operator calls the method.
        alpha: of its Beta distribution.
        minmax: smallest and largest side of the box; empty for those of the distribution.
        boxed: whether a box is pasted; else the whole image is blended.
    """

    operation: str
    alpha: float
    minmax: tuple[float, ...] = ()
    boxed: bool = True
