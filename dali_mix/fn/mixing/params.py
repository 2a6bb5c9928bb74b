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
