"""RandAugment, AutoAugment and 3-Augment composed of DALI's operators.

DALI has policies of its own (``nvidia.dali.auto_aug``).  They are not used: they know no noise on the magnitude,
no probability per operation, and work only in pipelines defined with ``enable_conditionals=True``.  Here each
image takes its own path through a tree of splits, so an operation costs nothing for images that did not draw it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali import math as dali_math

from dali_mix.errors import ConfigError
from dali_mix.fn import graph
from dali_mix.fn.graph import Node, OpArguments
from dali_mix.fn.image.policies import AutoAugment
from dali_mix.fn.image.portable import image_ops as ops
from dali_mix.fn.image.portable.operations import operations

Leaf: TypeAlias = tuple[int, Callable[..., Node]]


def auto_augment(images: Node, policy: AutoAugment, *, fill: Sequence[float], op: OpArguments) -> Node:
    """Apply a policy, drawn for each image.

    Args:
        images: uint8 (H, W, 3), layout HWC, one size, CPU or GPU.
        policy: from :func:`parse_auto_augment`.
        fill: color in [0, 255] of what a rotation, shear or translation uncovers.
        op: names of the random operators.

    Returns:
        Like the images.

    Raises:
        ConfigError: for a policy with weights.

    Differs from timm (``timm/data/auto_augment.py``): geometric operations resample bilinearly whatever
    ``interpolation`` is (DALI's ``warp_affine`` has no cubic filter); equalization follows OpenCV's formula,
    sharpness also filters the outermost pixels, and posterizing keeps at least one bit, where timm asks Pillow for
    none at a magnitude of 10, which Pillow 13 refuses.  Other operations agree with PIL to rounding.
    """
    if policy.weights:
        # DALI draws with weights, but not without replacement.
        raise ConfigError(
            "the transform sets with weights, tweights and t3aw, need the native operators, and this graph is the "
            "portable one: set DALI_MIX_NATIVE=on, which says why if they cannot be had, or leave the set out"
        )
    names = sorted({name for sub_policy in policy.sub_policies for name, _, _ in sub_policy}, key=_place)
    for layer, (code, level) in enumerate(draw_operations(policy, names, op)):
        chance = fn.random.uniform(range=[-1.0, 1.0], **op(f"chance{layer}"))
        sign = fn.cast(chance >= 0, dtype=types.FLOAT) * 2 - 1
        leaves = _leaves(names, fill, beyond_ten=policy.mmax > 10)
        images = _dispatch(leaves, code, images, level, level * sign, chance)
    return images


def draw_operations(policy: AutoAugment, names: Sequence[str], op: OpArguments) -> list[tuple[Node, Node]]:
    """Draw for each sample which operations it goes through, and how strongly.

    Args:
        policy: the policy.
        names: the operations; operation i has the code i + 1.
        op: names of the random operators.

    Returns:
        One pair per operation: int32 (), 0 for none, else the code; float32 (), the magnitude as a share of 10,
        normal around the policy's and clipped, as in timm's ``AugmentOp``.  Both on the CPU.
    """
    drawn = []
    for draw in range(policy.draws):
        index = fn.random.choice(len(policy.sub_policies), **op(f"policy{draw}"))
        for slot in range(len(policy.sub_policies[0])):
            role = f"{draw}_{slot}"
            steps = [sub_policy[slot] for sub_policy in policy.sub_policies]
            code = _lookup([names.index(name) + 1 for name, _, _ in steps], index, np.int32)
            prob = _lookup([prob for _, prob, _ in steps], index, np.float32)
            magnitude = _lookup([magnitude for _, _, magnitude in steps], index, np.float32)
            apply = fn.random.uniform(range=[0.0, 1.0], **op(f"apply{role}")) < prob
            if math.isinf(policy.mstd):
                magnitude = magnitude * fn.random.uniform(range=[0.0, 1.0], **op(f"magnitude{role}"))
            elif policy.mstd > 0:
                magnitude = magnitude + fn.random.normal(stddev=policy.mstd, **op(f"magnitude{role}"))
            level = dali_math.clamp(magnitude, 0.0, policy.mmax) / 10.0
            drawn.append((code * fn.cast(apply, dtype=types.INT32), level))
    return drawn


def _lookup(values: Sequence[float], index: Node, dtype: Any) -> Node:
    if len(set(values)) == 1:
        return graph.constant(values[0], types.INT32 if dtype is np.int32 else types.FLOAT)
    return types.Constant(np.asarray(values, dtype=dtype), device="cpu")[index]


def _place(name: str) -> tuple[bool, str]:
    """Sort geometric operations to the end: they share one warp, so their codes must be adjacent."""
    return name in ops.MATRICES, name


def _leaves(names: Sequence[str], fill: Sequence[float], *, beyond_ten: bool = False) -> list[Leaf]:
    """Each function of the tree with its smallest code."""
    functions = operations(beyond_ten)
    leaves: list[Leaf] = [(0, lambda _code, images, *_draws: images)]
    geometric: list[Leaf] = []
    for code, name in enumerate(names, start=1):
        if name in ops.MATRICES:
            geometric.append((code, _without_code(ops.MATRICES[name])))
        else:
            leaves.append((code, _without_code(functions[name])))
    if geometric:

        def warp(code: Node, images: Node, *draws: Node) -> Node:
            return ops.warp(images, _dispatch(geometric, code, images.shape(dtype=types.FLOAT), *draws), fill)

        leaves.append((geometric[0][0], warp))
    return leaves


def _without_code(function: Callable[..., Node]) -> Callable[..., Node]:
    return lambda _code, *nodes: function(*nodes)


def _dispatch(leaves: Sequence[Leaf], code: Node, *nodes: Node) -> Node:
    """The leaf's function for each sample, as a balanced tree of two-way splits."""
    if len(leaves) == 1:
        return leaves[0][1](code, *nodes)
    middle = len(leaves) // 2
    lower, upper = leaves[:middle], leaves[middle:]
    return graph.route(code < upper[0][0], partial(_dispatch, lower), partial(_dispatch, upper), code, *nodes)
