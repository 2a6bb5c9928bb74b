"""The choice between methods as a graph: only the samples of a branch go through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from nvidia.dali import fn, types

from dali_mix.fn import graph
from dali_mix.fn.graph import Node
from dali_mix.fn.image.normalize import normalize
from dali_mix.fn.mixing.params import MixParams
from dali_mix.fn.mixing.portable.checks import images_must_have_the_image_size
from dali_mix.fn.mixing.portable.cutmix import apply_cutmix, draw_box
from dali_mix.fn.mixing.portable.draws import draw_partner
from dali_mix.fn.mixing.portable.mixup import apply_mixup, draw_weight
from dali_mix.fn.mixing.portable.targets import soft_targets
from dali_mix.fn.mixing.recipe import BRANCHES, MixedBatch, Recipe


def mix_batch(images: Node, labels: Node, recipe: Recipe) -> MixedBatch:
    """See :func:`dali_mix.fn.mixing.random_mix`; ``labels`` are on the CPU."""
    shares = recipe.shares
    if recipe.mirror is not None:
        images = fn.flip(images, horizontal=recipe.mirror)
    branch = _draw_branch(shares, recipe.branch_seed)
    # What a branch needs is drawn for every batch, outside the branches, so that the streams do not
    # depend on which branches earlier batches took.
    partner = draw_partner(recipe.pairing, graph.random_op("mix", recipe.seed))
    if recipe.size_px is not None:
        partner += images_must_have_the_image_size(images, recipe.size_px)
    box = types.Constant(np.zeros(4, np.int32))
    lam = dict.fromkeys(shares, graph.constant(1, types.FLOAT))
    if "cutmix" in shares:
        op = graph.random_op("cutmix", recipe.seed)
        box, lam["cutmix"] = draw_box(images, op, recipe.cutmix_alpha, 1.0, recipe.mode, recipe.minmax)
    if "mixup" in shares:
        op = graph.random_op("mixup", recipe.seed)
        lam["mixup"] = draw_weight(op, recipe.mixup_alpha, 1.0, recipe.mode)
    params = MixParams(partner, box, _of_branch(lam, branch))
    targets = soft_targets(labels, params, num_classes=recipe.num_classes, smoothing=recipe.smoothing)
    for name, apply in (("cutmix", apply_cutmix), ("mixup", apply_mixup)):
        if name in shares:
            images = _in_branch(name, shares, branch, apply, images, params)
    return MixedBatch(normalize(images, recipe.normalization), targets, labels, branch)


def _draw_branch(shares: Mapping[str, float], branch_seed: int | None) -> Node:
    """int32 (), one for the batch: the code of the branch whose stretch of [0, 1) the draw falls into."""
    codes = [BRANCHES[name] for name in shares]
    branch = graph.constant(codes[0], types.INT32)
    if len(codes) == 1:
        return branch
    op = graph.random_op("branch", branch_seed)
    draw = graph.share_first(fn.random.uniform(range=[0.0, 1.0], **op("uniform")))
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

    return graph.route(branch == BRANCHES[name], mix, _untouched, images, *params)


def _untouched(images: Node, *params: Node) -> Node:
    return images
