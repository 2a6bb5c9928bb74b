"""Augmentation by the native operators: one that draws for the whole batch, one that applies."""

from __future__ import annotations

from typing import Any

from nvidia.dali import fn

from dali_mix.fn import graph
from dali_mix.fn.graph import Node
from dali_mix.fn.image.policies import AutoAugment
from dali_mix.fn.image.settings import Chain

NAME = "native"


def augment_images(images: Node, chain: Chain) -> Node:
    """See :func:`dali_mix.fn.augment`."""
    operators: Any = fn.dali_mix  # type: ignore[attr-defined]
    # Of images on the GPU the CPU operator reads the sizes only.
    steps = operators.augment_plan(images, device="cpu", **_drawing(chain))
    augmented: Node = operators.augment(
        images,
        steps,
        fill=list(chain.fill),
        remode=chain.remode,
        mean=[255 * value for value in chain.mean],
        std=[255 * value for value in chain.std],
        **graph.named_op(f"{chain.kind}_steps"),
    )
    return augmented


def _drawing(chain: Chain) -> dict[str, Any]:
    """Arguments of the operator that draws."""
    arguments = graph.random_op(chain.kind, chain.seed)("plan")
    if chain.policy:
        arguments |= _drawing_of(chain.policy)
    return arguments | {
        "hflip": chain.hflip,
        "vflip": chain.vflip,
        "interpolation": chain.interpolation,
        "jitter": list(chain.jitter),
        "jitter_prob": 1.0 if chain.jitter_prob is None else chain.jitter_prob,
        "grayscale": chain.grayscale,
        "blur": chain.blur,
        "erasing": chain.erasing,
        "recount": chain.recount,
    }


def _drawing_of(policy: AutoAugment) -> dict[str, Any]:
    """The steps of the policy: its sub-policies, of equally many operations each, one after the other."""
    slots = {len(sub_policy) for sub_policy in policy.sub_policies}
    assert len(slots) == 1, slots
    names, probs, magnitudes = zip(*(step for sub_policy in policy.sub_policies for step in sub_policy), strict=True)
    return {
        "operations": list(names),
        "probs": list(probs),
        "magnitudes": list(magnitudes),
        "slots": slots.pop(),
        "weights": list(policy.weights),
        "draws": policy.draws,
        "mstd": policy.mstd,
        "mmax": policy.mmax,
    }
