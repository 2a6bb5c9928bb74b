"""The per-batch choice between CutMix, Mixup, leaving the batch for SMMix, and no mixing."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.pipeline import do_not_convert

from dali_mix.fn import _check, _graph
from dali_mix.fn._graph import Node
from dali_mix.fn.cutmix import apply_cutmix, draw_cutmix
from dali_mix.fn.mixup import apply_mixup, draw_mixup
from dali_mix.fn.params import MixParams
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
    branch = _draw_branch(choices, branch_seed)
    is_cutmix = branch == BRANCHES["cutmix"]
    is_mixup = branch == BRANCHES["mixup"]
    # Everything is drawn for every batch, outside the branches: draws are cheap, and the streams
    # then do not depend on which branches earlier batches took.
    cut = draw_cutmix(images, alpha=cutmix_alpha, mode=mode, pairing=pairing, minmax=minmax, seed=seed)
    mixed = draw_mixup(images, alpha=mixup_alpha, mode=mode, pairing=pairing, seed=seed)
    params = _select(is_cutmix, is_mixup, cut, mixed)
    targets = soft_targets(labels, params, num_classes=num_classes, smoothing=smoothing)
    for share, condition, apply, drawn in (
        (choices.get("cutmix", 0), is_cutmix, apply_cutmix, cut),
        (choices.get("mixup", 0), is_mixup, apply_mixup, mixed),
    ):
        if share >= 1:
            images = apply(images, drawn)
        elif share > 0:
            images = _graph.route(condition, images, drawn, apply, _untouched)
    return MixedBatch(images, targets, labels, branch)


def _draw_branch(choices: Mapping[str, float], branch_seed: int | None) -> Node:
    op = _graph.random_op("branch", branch_seed)
    draw = _graph.share_first(fn.random.uniform(range=[0.0, 1.0], **op("uniform")))
    branch = types.Constant(np.array([BRANCHES["none"]], np.int32))[0]
    lower = 0.0
    for name, code in CHOICES.items():
        upper = lower + choices.get(name, 0.0)
        inside = fn.cast((draw >= lower) & (draw < upper), dtype=types.INT32)
        branch = branch + inside * code
        lower = upper
    return branch


def _select(is_cutmix: Node, is_mixup: Node, cut: MixParams, mixed: MixParams) -> MixParams:
    """The parameters of the branch that was taken; weight 1 where nothing is mixed here."""
    cut_int, mixed_int = (fn.cast(flag, dtype=types.INT32) for flag in (is_cutmix, is_mixup))
    cut_float, mixed_float = (fn.cast(flag, dtype=types.FLOAT) for flag in (is_cutmix, is_mixup))
    partner = cut.partner * cut_int + mixed.partner * mixed_int
    lam = 1.0 - cut_float * (1.0 - cut.lam) - mixed_float * (1.0 - mixed.lam)
    return MixParams(partner, cut.box * cut_int, lam)


def _untouched(images: Node, params: MixParams) -> Node:
    return images
