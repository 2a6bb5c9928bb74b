"""Mixing by the native operators: one that decides for the whole batch, one that moves the pixels."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from nvidia.dali import fn, types

from dali_mix import branches
from dali_mix.fn import graph
from dali_mix.fn.graph import Node
from dali_mix.fn.image.normalize import normalize
from dali_mix.fn.mixing.drawing import Drawing
from dali_mix.fn.mixing.params import Draw, MixParams, Planned
from dali_mix.fn.mixing.recipe import MixedBatch, Recipe
from dali_mix.fn.mixing.routing import in_branch

if TYPE_CHECKING:
    from dali_mix.fn.mixing.base import GraphMethod

NAME = "native"

_LEAVE = Planned("leave", 1.0)
"""What the operator calls a batch that others mix, in the graph or in the training step: one left alone."""


def draw(method: GraphMethod, images: Node, *, prob: float, mode: str, pairing: str, seed: int | None) -> MixParams:
    """See :func:`dali_mix.fn.draw_cutmix`; of methods that the operator knows."""
    op = graph.random_op(method.name, seed)
    size = _size_of(images)
    planned = method.planned or _LEAVE
    partner, box, _, _, lam, _ = _plan(
        op, {method.name: planned}, size, prob=prob, mode=mode, pairing=pairing, image_size=size
    )
    return MixParams(partner, box if planned.boxed else types.Constant(np.zeros(4, np.int32)), lam)


def pixels(images: Node, partner: Node, draw: Draw) -> Node:
    """See :meth:`dali_mix.fn.GraphMethod.apply`."""
    return _pixels(images, partner=partner, **_given(draw))


def soft_targets(labels: Node, params: MixParams, *, num_classes: int, smoothing: float) -> Node:
    """See :func:`dali_mix.fn.soft_targets`; ``labels`` and the result are on the CPU."""
    return _targets(labels, params.partner, params.lam, num_classes, smoothing)


def _targets(labels: Node, partner: Node | int, lam: Node | float, num_classes: int, smoothing: float) -> Node:
    classes = {"num_classes": num_classes, "smoothing": smoothing}
    targets: Node = _operators().soft_targets(
        labels, partner=partner, lam=lam, **classes, **graph.named_op("soft_targets")
    )
    return targets


def mix_batch(images: Node, labels: Node, recipe: Recipe) -> MixedBatch:
    """See :func:`dali_mix.fn.mixing.random_mix`; ``labels`` are on the CPU."""
    if set(recipe.shares) == {"none"}:
        targets = _targets(labels, 0, 1.0, recipe.num_classes, recipe.smoothing)
        branch = graph.constant(branches.code_of(branches.NONE), types.INT32)
        return MixedBatch(_unmixed(images, recipe), targets, labels, branch).mixed_by(_no_params)
    planned = _planned(recipe.methods)
    others = [method for name, method in recipe.methods.items() if name not in planned]
    choice: dict[str, Any] = {}
    if recipe.branch_seed is not None:
        choice["branch_seed"] = graph.random_op("branch", recipe.branch_seed)("plan")["seed"]
    if not others:
        choice |= {"num_classes": recipe.num_classes, "smoothing": recipe.smoothing}
    decided = _plan(
        graph.random_op("mix", recipe.seed),
        {name: planned.get(name, _LEAVE) for name in recipe.shares},
        labels,
        ends=np.cumsum(list(recipe.shares.values())).tolist(),
        image_size=list(recipe.size_px) if recipe.size_px else _size_of(images) if planned else [1, 1],
        mode=recipe.mode,
        pairing=recipe.pairing,
        **choice,
    )
    partner, target, source, weight, lam, branch = decided[:6]
    placement = Draw(target, lam, source, weight)
    if others:
        images, recipe, placement = _draw_others(others, images, recipe, partner, branch, placement)
        targets = _targets(labels, partner, placement.lam, recipe.num_classes, recipe.smoothing)
    else:
        targets = decided[6]
    if recipe.methods:
        mixed = _pixels(images, partner=partner, **_given(placement), **_leaving(recipe))
    else:
        mixed = _unmixed(images, recipe)
    params = functools.partial(_params_of, partner, placement)
    return MixedBatch(mixed, targets, labels, branch).mixed_by(params)


def _planned(methods: Mapping[str, GraphMethod]) -> dict[str, Planned]:
    """What the operator draws: it takes one ``minmax`` for all boxes, so that who has another draws by itself."""
    planned: dict[str, Planned] = {}
    for name, method in methods.items():
        own = method.planned
        if own and all(own.minmax == other.minmax for other in planned.values() if other.boxed == own.boxed):
            planned[name] = own
    return planned


def _no_params() -> MixParams:
    return _params_of(graph.constant(0, types.INT32), Draw(None, graph.constant(1, types.FLOAT)))


def _params_of(partner: Node, placement: Draw) -> MixParams:
    box, weight = placement.box, placement.weight
    if box is None:
        box = types.Constant(np.zeros(4, np.int32))
    elif weight is not None:
        box = box * (weight == 0.0)
    return MixParams(partner, box, placement.lam)


def _draw_others(
    methods: Sequence[GraphMethod], images: Node, recipe: Recipe, partner: Node, branch: Node, placement: Draw
) -> tuple[Node, Recipe, Draw]:
    """Let methods draw that the operator does not know.

    Args:
        methods: those of them that can happen.
        images, recipe: of the batch.
        partner, branch, placement: what the operator decided; it leaves the batches of these methods alone.

    Returns:
        the images, mixed by methods that do so themselves; how to go on with them; and the placement with theirs.
    """
    if recipe.mirror is not None and any(method.applies_itself for method in methods):
        images, recipe = fn.flip(images, horizontal=recipe.mirror), dataclasses.replace(recipe, mirror=None)
    measure = functools.partial(_height_and_width, images, recipe.size_px)
    alone = len(recipe.shares) == 1
    for method in methods:
        batch = Drawing(graph.random_op(method.name, recipe.seed), recipe.mode, measure)
        draw = method.drawn(batch)
        if method.applies_itself:
            images = in_branch(method, None if alone else branch, images, partner, draw)
            draw = Draw(batch.whole * 0, draw.lam)
        placement = draw if alone else _chosen(placement, draw, branch == method.code, batch)
    return images, recipe, placement


def _chosen(placement: Draw, draw: Draw, chosen: Node, batch: Drawing) -> Draw:
    """What a method has drawn, where it is chosen; the placement of all others.

    There the operator left the batch alone: all boxes are empty, and the weights 1.
    """
    target = batch.whole if draw.box is None else draw.box
    source = target if draw.source is None else draw.source
    return Draw(
        placement.box + target * chosen,
        placement.lam + (draw.lam - 1.0) * chosen,
        placement.source + source * chosen,
        placement.weight - (chosen if draw.weight is None else (1.0 - draw.weight) * chosen),
    )


def _given(draw: Draw) -> dict[str, Node]:
    """What the operator for pixels takes of a draw; it has defaults for the rest."""
    nodes = {"target": draw.box, "source": draw.source, "weight": draw.weight}
    return {name: node for name, node in nodes.items() if node is not None}


def _plan(op: graph.OpArguments, methods: dict[str, Planned], samples: Node, **options: Any) -> tuple[Node, ...]:
    """What is decided for a batch: partner, target, source, weight, lam, branch, and targets with ``num_classes``.

    Args:
        op: of this call.
        methods: what the operator does in each branch that can happen.
        samples: the labels, or anything else on the CPU, to tell the size of the batch.
        options: others of the operator.
    """
    options.setdefault("ends", [1.0])
    planned: tuple[Node, ...] = _operators().plan(
        samples,
        methods=[planned.operation for planned in methods.values()],
        codes=[branches.code_of(name) for name in methods],
        alphas=[planned.alpha for planned in methods.values()],
        minmax=list(max(planned.minmax for planned in methods.values())),
        **op("plan"),
        **options,
    )
    return planned


def _unmixed(images: Node, recipe: Recipe) -> Node:
    """Flipped and normalized, if that is asked for; on a CPU in a third of the time of ``crop_mirror_normalize``."""
    if recipe.normalization is None:
        return normalize(images, None, recipe.mirror)
    return _pixels(images, partner=0, weight=1.0, **_leaving(recipe))


def _pixels(images: Node, **placement: Any) -> Node:
    mixed: Node = _operators().pixels(images, **graph.named_op("pixels"), **placement)
    return mixed


def _operators() -> Any:
    """The module of the native operators, which is there once the library is loaded."""
    return fn.dali_mix  # type: ignore[attr-defined]


def _size_of(images: Node) -> Node:
    """int32 (3,), of which the operator reads height and width."""
    return images.shape(dtype=types.INT32)


def _height_and_width(images: Node, size_px: tuple[int, int] | None) -> Node:
    """int32 (2,), which waits for no decoder where it is known."""
    return types.Constant(np.array(size_px, np.int32)) if size_px else _size_of(images)[0:2]


def _leaving(recipe: Recipe) -> dict[str, Any]:
    """How the images leave, and the size that the plan relied on."""
    options: dict[str, Any] = {"image_size": list(recipe.size_px)} if recipe.size_px else {}
    if recipe.mirror is not None:
        options["mirror"] = recipe.mirror
    if recipe.normalization:
        mean, std, half = recipe.normalization
        options |= {"mean": list(mean), "std": list(std), "dtype": types.FLOAT16 if half else types.FLOAT}
    return options
