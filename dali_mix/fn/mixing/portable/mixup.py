"""Mixup as graph arithmetic."""

from __future__ import annotations

import numpy as np
from nvidia.dali import fn, types

from dali_mix.fn import graph
from dali_mix.fn.graph import Node
from dali_mix.fn.mixing.params import MixParams
from dali_mix.fn.mixing.portable.draws import draw_partner, share_draws

_FRACTION_BITS = 24
_ONE = 1 << _FRACTION_BITS


def draw_mixup(images: Node, *, alpha: float, prob: float, mode: str, pairing: str, seed: int | None) -> MixParams:
    """See :func:`dali_mix.fn.draw_mixup`."""
    op = graph.random_op("mixup", seed)
    partner = draw_partner(pairing, op)
    no_box = types.Constant(np.zeros(4, np.int32))
    return MixParams(partner, no_box, draw_weight(op, alpha, prob, mode))


def draw_weight(op: graph.OpArguments, alpha: float, prob: float, mode: str) -> Node:
    """Weight of Mixup, without the partner; arguments as for :func:`draw_mixup`, checked."""
    lam = share_draws(fn.random.beta(alpha=alpha, beta=alpha, **op("beta")), mode)
    if prob < 1:
        coin = share_draws(fn.random.uniform(range=[0.0, 1.0], **op("coin")), mode)
        lam = 1.0 - (1.0 - lam) * fn.cast(coin < prob, dtype=types.FLOAT)
    return lam


def apply_mixup(images: Node, params: MixParams) -> Node:
    """See :func:`dali_mix.fn.apply_mixup`."""
    if images.device == "gpu":
        return _blend_in_float(images, params.partner, params.lam.gpu())
    # The type of the images is known only when the pipeline runs.  Casts saturate, which tells uint8.
    is_uint8 = fn.cast_like(params.lam * 0.0 + 300.0, images) == 255
    return graph.route(is_uint8, _blend_in_fixed_point, _blend_in_float, images, params.partner, params.lam)


def _blend_in_float(images: Node, partner: Node, lam: Node) -> Node:
    partner_images = fn.permute_batch(images, indices=partner)
    return fn.cast_like(images * lam + partner_images * (1.0 - lam), images)


def _blend_in_fixed_point(images: Node, partner: Node, lam: Node) -> Node:
    """For uint8 on the CPU, where DALI's conversion from float to uint8 would cost more than the blending.

    Weights in units of 2^-24, the resolution of float32, fill 32 bits: 255 * 2^24 + 2^23 < 2^32.
    """
    partner_images = fn.permute_batch(images, indices=partner)
    own, other = fixed_point_weights(lam)
    blended = images * own + partner_images * other + _uint32(_ONE // 2)
    return fn.cast(blended >> _uint32(_FRACTION_BITS), dtype=types.UINT8)


def fixed_point_weights(lam: Node) -> tuple[Node, Node]:
    """uint32 (), twice: weights of the own image and of the partner's, which sum to 2^24.

    uint32 throughout: next to a plain Python number DALI would go on in int64, and so with every pixel.
    """
    own = fn.cast(lam * float(_ONE), dtype=types.UINT32)
    # Derived from data: a constant node would have the whole batch's size inside a branch.
    total = own * _uint32(0) + _uint32(_ONE)
    return own, total - own


def _uint32(value: int) -> types.ScalarConstant:
    return types.Constant(value, dtype=types.UINT32)
