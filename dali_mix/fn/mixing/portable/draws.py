"""What all methods draw alike: the partner, and whether a draw is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from nvidia.dali import fn, types

from dali_mix.fn import graph
from dali_mix.fn.graph import Node, OpArguments
from dali_mix.fn.mixing.drawing import Drawing
from dali_mix.fn.mixing.params import Draw, MixParams
from dali_mix.fn.mixing.portable.checks import image_size

if TYPE_CHECKING:
    from dali_mix.fn.mixing.base import GraphMethod


def draw(method: GraphMethod, images: Node, *, prob: float, mode: str, pairing: str, seed: int | None) -> MixParams:
    """Parameters of one method for every batch; see :func:`dali_mix.fn.draw_cutmix`."""
    op = graph.random_op(method.name, seed)
    partner = draw_partner(pairing, op)
    batch = Drawing(op, mode, lambda: image_size(images))
    boxed = method.planned is None or method.planned.boxed
    # Before the draw: a checkpoint knows operators by their number in the graph.
    no_box: Any = None if boxed else types.Constant(np.zeros(4, np.int32))
    box, lam, *_ = _used(method.drawn(batch), prob, batch)
    return MixParams(partner, no_box if box is None else box, lam)


def draw_partner(pairing: str, op: OpArguments) -> Node:
    """int32 (): whom each sample is mixed with.

    "permutation" draws one without fixed points (in a batch of 1 the sample is its own partner);
    "flip" takes B-1-i, as timm and the SMMix authors do.
    """
    if pairing == "permutation":
        return fn.batch_permutation(no_fixed_points=True, **op("partner"))
    batch_size = graph.batch_size_of("pairing='flip'")
    # Only the index is wanted, but DALI has nothing cheaper that differs between samples.
    permutation = fn.batch_permutation(**op("partner"))
    return batch_size - 1 - graph.sample_index(permutation, batch_size)


def _used(drawn: Draw, prob: float, batch: Drawing) -> Draw:
    """What was drawn, or, but with this probability, nothing: an empty box, and lam 1."""
    if prob == 1:
        return drawn
    coin = batch.share(fn.random.uniform(range=[0.0, 1.0], **batch.op("coin")))
    other = 1.0 - drawn.lam
    used = fn.cast(coin < prob, dtype=types.INT32)
    return drawn._replace(box=None if drawn.box is None else drawn.box * used, lam=1.0 - other * used)
