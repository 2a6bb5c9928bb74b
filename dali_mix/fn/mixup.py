"""Mixup (Zhang et al., ICLR 2018, arXiv 1710.09412) as DALI graph operators."""

from __future__ import annotations

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.pipeline import do_not_convert

from dali_mix.fn import _check, _graph
from dali_mix.fn._graph import Node
from dali_mix.fn.params import MixParams, draw_partner, share_draws
from dali_mix.fn.targets import soft_targets

_FRACTION_BITS = 24
_ONE = 1 << _FRACTION_BITS


@do_not_convert
def draw_mixup(
    images: Node,
    *,
    alpha: float = 0.8,
    prob: float = 1.0,
    mode: str = "batch",
    pairing: str = "permutation",
    seed: int | None = None,
) -> MixParams:
    """Draw partners and label weights for Mixup.

    Args:
        images: uint8 or float32 (H, W, C), CPU or GPU; not read, taken so that all ``draw_*`` agree.
        alpha: > 0, both parameters of the Beta distribution of lam (timm's and DeiT's recipes: 0.8).
        prob, mode, pairing, seed: see :func:`dali_mix.fn.draw_cutmix`.

    Returns:
        MixParams with an all-zero box.

    Raises:
        TypeError, ValueError: when the graph is built, for arguments outside these ranges.

    Source: paper, section 2 and its Figure 1a.
    """
    _check.check_node("images", images)
    _check.check_alpha("alpha", alpha)
    _check.check_probability("prob", prob)
    _check.check_mode(mode, pairing)
    _check.check_seed("seed", seed)
    op = _graph.random_op("mixup", seed)
    partner = draw_partner(pairing, op)
    no_box = types.Constant(np.zeros(4, np.int32))
    return MixParams(partner, no_box, draw_weight(op, alpha, prob, mode))


def draw_weight(op: _graph.OpArguments, alpha: float, prob: float, mode: str) -> Node:
    """Weight of Mixup, without the partner; arguments as for :func:`draw_mixup`, checked."""
    lam = share_draws(fn.random.beta(alpha=alpha, beta=alpha, **op("beta")), mode)
    if prob < 1:
        coin = share_draws(fn.random.uniform(range=[0.0, 1.0], **op("coin")), mode)
        lam = 1.0 - (1.0 - lam) * fn.cast(coin < prob, dtype=types.FLOAT)
    return lam


@do_not_convert
def apply_mixup(images: Node, params: MixParams) -> Node:
    """Blend each sample with its partner: ``lam * own + (1 - lam) * partner``.

    Args:
        images: uint8 or float32 (H, W, C), CPU or GPU, one size for the whole batch.
        params: from :func:`draw_mixup`.

    Returns:
        Node like ``images``; uint8 is rounded to the nearest level.  Partners are read from the
        unmixed batch.
    """
    _check.check_node("images", images)
    if images.device == "gpu":
        return _blend_in_float(images, params.partner, params.lam.gpu())
    # The type of the images is known only when the pipeline runs.  Casts saturate, which tells uint8.
    is_uint8 = fn.cast_like(params.lam * 0.0 + 300.0, images) == 255
    return _graph.route(is_uint8, _blend_in_fixed_point, _blend_in_float, images, params.partner, params.lam)


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


@do_not_convert
def mixup(
    images: Node,
    labels: Node,
    *,
    num_classes: int,
    smoothing: float = 0.0,
    alpha: float = 0.8,
    prob: float = 1.0,
    mode: str = "batch",
    pairing: str = "permutation",
    seed: int | None = None,
) -> tuple[Node, Node]:
    """Mixup in one line: ``images, targets = mix.mixup(images, labels, num_classes=1000)``.

    Args:
        images: uint8 or float32 (H, W, C), CPU or GPU, one size for the whole batch.
        labels: integer () or (1,), in [0, num_classes).
        num_classes: K.
        smoothing: label smoothing in [0, 1].
        alpha, prob, mode, pairing, seed: see :func:`draw_mixup`.

    Returns:
        images like the input; targets float32 (K,) on the device of ``labels``.
    """
    params = draw_mixup(images, alpha=alpha, prob=prob, mode=mode, pairing=pairing, seed=seed)
    targets = soft_targets(labels, params, num_classes=num_classes, smoothing=smoothing)
    return apply_mixup(images, params), targets
