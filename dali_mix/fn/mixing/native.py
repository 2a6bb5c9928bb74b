"""Mixing by the native operators: one that decides for the whole batch, one that moves the pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from nvidia.dali import fn, types

from dali_mix.fn import graph
from dali_mix.fn.graph import Node
from dali_mix.fn.image.normalize import normalize
from dali_mix.fn.mixing.params import MixParams
from dali_mix.fn.mixing.recipe import BRANCHES, MixedBatch, Recipe

NAME = "native"

_METHODS = {"none": "leave", "smmix": "leave", "cutmix": "cutmix", "mixup": "mixup"}
"""Branch to what the operator calls it: for the graph, a batch for the training step is one that is left alone."""


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
    size = _size_of(images)
    drawing = {"prob": prob, "mode": mode, "pairing": pairing, "minmax": list(minmax or ()), "image_size": size}
    partner, box, _, _, lam, _ = _plan(op, {"cutmix": alpha}, size, **drawing)
    return MixParams(partner, box, lam)


def draw_mixup(images: Node, *, alpha: float, prob: float, mode: str, pairing: str, seed: int | None) -> MixParams:
    """See :func:`dali_mix.fn.draw_mixup`."""
    op = graph.random_op("mixup", seed)
    drawing = {"prob": prob, "mode": mode, "pairing": pairing, "image_size": [1, 1]}  # the weight depends on no size
    partner, _, _, _, lam, _ = _plan(op, {"mixup": alpha}, _size_of(images), **drawing)
    return MixParams(partner, types.Constant(np.zeros(4, np.int32)), lam)


def apply_cutmix(images: Node, params: MixParams) -> Node:
    """See :func:`dali_mix.fn.apply_cutmix`."""
    return _pixels(images, partner=params.partner, target=params.box)


def apply_mixup(images: Node, params: MixParams) -> Node:
    """See :func:`dali_mix.fn.apply_mixup`."""
    return _pixels(images, partner=params.partner, weight=params.lam)


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
        branch = graph.constant(BRANCHES["none"], types.INT32)
        return MixedBatch(_unmixed(images, recipe), targets, labels, branch)
    known = {"cutmix": recipe.cutmix_alpha, "mixup": recipe.mixup_alpha}
    choice: dict[str, Any] = {}
    if recipe.branch_seed is not None:
        choice["branch_seed"] = graph.random_op("branch", recipe.branch_seed)("plan")["seed"]
    partner, target, source, weight, _, branch, targets = _plan(
        graph.random_op("mix", recipe.seed),
        {name: known.get(name, 1.0) for name in recipe.shares},
        labels,
        ends=np.cumsum(list(recipe.shares.values())).tolist(),
        image_size=list(recipe.size_px) if recipe.size_px else _size_of(images) if recipe.mixes else [1, 1],
        mode=recipe.mode,
        pairing=recipe.pairing,
        minmax=list(recipe.minmax or ()),
        num_classes=recipe.num_classes,
        smoothing=recipe.smoothing,
        **choice,
    )
    if not recipe.mixes:
        return MixedBatch(_unmixed(images, recipe), targets, labels, branch)
    placement = {"partner": partner, "target": target, "source": source, "weight": weight}
    return MixedBatch(_pixels(images, **placement, **_leaving(recipe)), targets, labels, branch)


def _plan(op: graph.OpArguments, alphas: dict[str, float], samples: Node, **options: Any) -> tuple[Node, ...]:
    """What is decided for a batch: partner, target, source, weight, lam, branch, and targets with ``num_classes``.

    Args:
        op: of this call.
        alphas: parameter of the Beta distribution of each branch that can happen.
        samples: the labels, or anything else on the CPU, to tell the size of the batch.
        options: others of the operator.
    """
    options.setdefault("ends", [1.0])
    planned: tuple[Node, ...] = _operators().plan(
        samples,
        methods=[_METHODS[name] for name in alphas],
        codes=[BRANCHES[name] for name in alphas],
        alphas=list(alphas.values()),
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


def _leaving(recipe: Recipe) -> dict[str, Any]:
    """How the images leave, and the size that the plan relied on."""
    options: dict[str, Any] = {"image_size": list(recipe.size_px)} if recipe.size_px else {}
    if recipe.mirror is not None:
        options["mirror"] = recipe.mirror
    if recipe.normalization:
        mean, std, half = recipe.normalization
        options |= {"mean": list(mean), "std": list(std), "dtype": types.FLOAT16 if half else types.FLOAT}
    return options
