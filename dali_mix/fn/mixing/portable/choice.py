"""The choice between methods as a graph: only the samples of a branch go through it."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
from nvidia.dali import fn, types

from dali_mix import branches
from dali_mix.fn import graph
from dali_mix.fn.graph import Node
from dali_mix.fn.image.normalize import normalize
from dali_mix.fn.mixing.drawing import Drawing
from dali_mix.fn.mixing.params import Draw, MixParams
from dali_mix.fn.mixing.portable.checks import image_size, images_must_have_the_image_size
from dali_mix.fn.mixing.portable.draws import draw_partner
from dali_mix.fn.mixing.portable.targets import soft_targets
from dali_mix.fn.mixing.recipe import MixedBatch, Recipe
from dali_mix.fn.mixing.routing import in_branch

_FEW = 16
"""Codes up to here are places in a list."""


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
    no_box = types.Constant(np.zeros(4, np.int32))
    unmixed = Draw(no_box, graph.constant(1, types.FLOAT))
    draws = dict.fromkeys(shares, unmixed)
    for name, method in recipe.methods.items():
        op = graph.random_op(name, recipe.seed)
        draws[name] = method.drawn(Drawing(op, recipe.mode, functools.partial(image_size, images)))
    params = MixParams(partner, no_box, _of_branch({name: draw.lam for name, draw in draws.items()}, branch))
    targets = soft_targets(labels, params, num_classes=recipe.num_classes, smoothing=recipe.smoothing)
    for name, method in recipe.methods.items():
        images = in_branch(method, branch if len(shares) > 1 else None, images, partner, draws[name])
    mixed = MixedBatch(normalize(images, recipe.normalization), targets, labels, branch)
    boxes = {name: no_box if draw.box is None or draw.weight is not None else draw.box for name, draw in draws.items()}
    return mixed.mixed_by(lambda: params._replace(box=_of_branch(boxes, branch)))


def _draw_branch(shares: Mapping[str, float], branch_seed: int | None) -> Node:
    """int32 (), one for the batch: the code of the branch whose stretch of [0, 1) the draw falls into."""
    codes = [branches.code_of(name) for name in shares]
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
    if not others:
        return first
    rows = {branches.code_of(name): value for name, value in values.items()}
    if max(rows) <= _FEW:
        return fn.stack(*(rows.get(code, first) for code in range(max(rows) + 1)))[branch]
    row = graph.constant(0, types.INT32)
    for place, code in enumerate(rows):
        row += fn.cast(branch == code, dtype=types.INT32) * place
    return fn.stack(*rows.values())[row]
