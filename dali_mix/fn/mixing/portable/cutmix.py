"""CutMix as graph arithmetic."""

from __future__ import annotations

from nvidia.dali import fn, types
from nvidia.dali import math as dali_math

from dali_mix.fn import graph
from dali_mix.fn.graph import Node
from dali_mix.fn.mixing.params import MixParams
from dali_mix.fn.mixing.portable.boxes import box_between, box_of_edges, box_sides, edges_around, image_size, own_share
from dali_mix.fn.mixing.portable.draws import draw_partner, share_draws


def draw_cutmix(
    images: Node,
    *,
    alpha: float,
    prob: float,
    mode: str,
    pairing: str,
    minmax: tuple[float, float] | None,
    seed: int | None,
) -> MixParams:
    """See :func:`dali_mix.fn.draw_cutmix`."""
    op = graph.random_op("cutmix", seed)
    partner = draw_partner(pairing, op)
    box, lam = draw_box(images, op, alpha, prob, mode, minmax)
    return MixParams(partner, box, lam)


def draw_box(
    images: Node, op: graph.OpArguments, alpha: float, prob: float, mode: str, minmax: tuple[float, float] | None
) -> tuple[Node, Node]:
    """Box and weight of CutMix, without the partner; arguments as for :func:`draw_cutmix`, checked."""
    size_px = image_size(images)
    if minmax is None:
        centre = fn.random.uniform(range=[0.0, 1.0], shape=[1, 2], **op("uniform"))
        # The distribution is symmetric, so the pasted share is drawn as well as the own one.
        side = dali_math.sqrt(fn.random.beta(alpha=alpha, beta=alpha, shape=[1, 1], **op("beta")))
        box = box_of_edges(size_px, share_draws(edges_around(centre, side), mode))
    else:
        draws = share_draws(fn.random.uniform(range=[0.0, 1.0], shape=[4], **op("uniform")), mode)
        box = box_between(size_px, minmax, draws[2:4], draws[0:2])
    if prob < 1:
        coin = share_draws(fn.random.uniform(range=[0.0, 1.0], **op("coin")), mode)
        box = box * fn.cast(coin < prob, dtype=types.INT32)
    return box, own_share(size_px, box)


def apply_cutmix(images: Node, params: MixParams) -> Node:
    """See :func:`dali_mix.fn.apply_cutmix`."""
    partner_images = fn.permute_batch(images, indices=params.partner)
    size = image_size(images)
    start, sides = params.box[0:2], box_sides(params.box)
    if images.device == "gpu":
        start, sides = _without_empty_box(size, start, sides)
    # multi_paste wants one (row, column) per input: row 0 is the whole own image, row 1 the box.
    anchors = fn.stack(start * 0, start)
    shapes = fn.stack(size, sides)
    return fn.multi_paste(images, partner_images, in_anchors=anchors, out_anchors=anchors, shapes=shapes)


def _without_empty_box(size: Node, start: Node, sides: Node) -> tuple[Node, Node]:
    """Move an empty box behind the last pixel.

    DALI's GPU backend pastes an empty region over all that lies below and to the right of it.
    """
    is_empty = fn.cast(fn.reductions.min(sides) == 0, dtype=types.INT32)
    return start + (size - start) * is_empty, sides * (1 - is_empty)
