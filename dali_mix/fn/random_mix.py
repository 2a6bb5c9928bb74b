"""The per-batch choice between CutMix, Mixup, leaving the batch for SMMix, and no mixing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.pipeline import do_not_convert

from dali_mix.fn import _check, _graph
from dali_mix.fn._graph import Node
from dali_mix.fn.cutmix import apply_cutmix, draw_box
from dali_mix.fn.mixup import apply_mixup, draw_weight
from dali_mix.fn.params import MixParams, draw_partner
from dali_mix.fn.targets import soft_targets

BRANCHES: Mapping[str, int] = MappingProxyType({"none": 0, "cutmix": 1, "mixup": 2, "smmix": 3})
"""Names and codes of what can happen to a batch; the order never changes."""

CHOICES: Mapping[str, int] = MappingProxyType({k: v for k, v in BRANCHES.items() if k != "none"})


class MixedBatch(NamedTuple):
    """What :func:`random_mix` returns, in the order in which a pipeline should output it.

    Fields:
        images: like the input, mixed or not as ``branch`` says.
        targets: float32 (K,).
        labels: the input labels, untouched.
        branch: int32 () on the CPU, one value for the batch: 0 none, 1 cutmix, 2 mixup, 3 smmix
            (left unmixed for the training step).
    """

    images: Node
    targets: Node
    labels: Node
    branch: Node


@do_not_convert
def random_mix(
    images: Node,
    labels: Node,
    *,
    num_classes: int,
    choices: Mapping[str, float] = MappingProxyType({"cutmix": 0.5, "mixup": 0.5}),
    smoothing: float = 0.0,
    cutmix_alpha: float = 1.0,
    mixup_alpha: float = 0.8,
    mode: str = "batch",
    pairing: str = "permutation",
    minmax: tuple[float, float] | None = None,
    seed: int | None = None,
    branch_seed: int | None = None,
) -> MixedBatch:
    """Choose one method for the batch and apply it.

    Args:
        images: uint8 or float32 (H, W, C), CPU or GPU, one size for the whole batch.
        labels: integer () or (1,), in [0, num_classes).
        num_classes: K.
        choices: probability per batch of "cutmix", "mixup" and "smmix"; what is missing to 1 is "none".
        smoothing: label smoothing in [0, 1], applied in every branch.
        cutmix_alpha, mixup_alpha: > 0, the Beta parameters.
        mode, pairing, minmax: see :func:`dali_mix.fn.draw_cutmix`.
        seed: for partners, boxes and weights; must differ between ranks.  None: the pipeline's seed.
        branch_seed: for the choice alone; must be equal on all ranks, so that all take the same branch.

    Returns:
        MixedBatch.  The images of a batch go through the chosen method only: the other costs nothing.

    Differs from timm's ``Mixup``: the choice has a seed of its own, shared by ranks.
    """
    _check.check_node("images", images)
    _check.check_choices(choices, CHOICES)
    _check.check_alpha("cutmix_alpha", cutmix_alpha)
    _check.check_alpha("mixup_alpha", mixup_alpha)
    _check.check_seed("seed", seed)
    _check.check_seed("branch_seed", branch_seed)
    _check.check_mode(mode, pairing)
    limits = _check.check_minmax(minmax)
    shares = _shares_of_branches(choices)
    branch = _draw_branch(shares, branch_seed)
    # What a branch needs is drawn for every batch, outside the branches, so that the streams do not
    # depend on which branches earlier batches took.
    partner = draw_partner(pairing, _graph.random_op("mix", seed))
    box = types.Constant(np.zeros(4, np.int32))
    lam = dict.fromkeys(shares, _graph.constant(1, types.FLOAT))
    if "cutmix" in shares:
        box, lam["cutmix"] = draw_box(images, _graph.random_op("cutmix", seed), cutmix_alpha, 1.0, mode, limits)
    if "mixup" in shares:
        lam["mixup"] = draw_weight(_graph.random_op("mixup", seed), mixup_alpha, 1.0, mode)
    params = MixParams(partner, box, _of_branch(lam, branch))
    targets = soft_targets(labels, params, num_classes=num_classes, smoothing=smoothing)
    for name, apply in (("cutmix", apply_cutmix), ("mixup", apply_mixup)):
        if name in shares:
            images = _in_branch(name, shares, branch, apply, images, params)
    return MixedBatch(images, targets, labels, branch)


def _shares_of_branches(choices: Mapping[str, float]) -> dict[str, float]:
    """Probability of every branch that can happen, in the order of ``BRANCHES``; sums to 1 but for rounding."""
    rest = 1.0 - sum(choices.values())
    every = {"none": rest if rest > 1e-6 else 0.0, **{name: choices.get(name, 0.0) for name in CHOICES}}
    return {name: share for name, share in every.items() if share > 0}


def _draw_branch(shares: Mapping[str, float], branch_seed: int | None) -> Node:
    """int32 (), one for the batch: the code of the branch whose stretch of [0, 1) the draw falls into."""
    codes = [BRANCHES[name] for name in shares]
    branch = _graph.constant(codes[0], types.INT32)
    if len(codes) == 1:
        return branch
    op = _graph.random_op("branch", branch_seed)
    draw = _graph.share_first(fn.random.uniform(range=[0.0, 1.0], **op("uniform")))
    ends = np.cumsum(list(shares.values()))
    for end, code, before in zip(ends, codes[1:], codes, strict=False):
        branch += fn.cast(draw >= float(end), dtype=types.INT32) * (code - before)
    return branch


def _of_branch(values: Mapping[str, Node], branch: Node) -> Node:
    """The value of the branch that was drawn."""
    first, *others = values.values()
    return fn.stack(*(values.get(name, first) for name in BRANCHES))[branch] if others else first


def _in_branch(
    name: str,
    shares: Mapping[str, float],
    branch: Node,
    apply: Callable[[Node, MixParams], Node],
    images: Node,
    params: MixParams,
) -> Node:
    """Apply a method to the batches of its branch; the others pass untouched."""
    if len(shares) == 1:
        return apply(images, params)

    def mix(images: Node, *params: Node) -> Node:
        return apply(images, MixParams(*params))

    return _graph.route(branch == BRANCHES[name], mix, _untouched, images, *params)


def _untouched(images: Node, *params: Node) -> Node:
    return images
