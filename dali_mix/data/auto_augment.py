"""RandAugment, AutoAugment and 3-Augment in the graph, configured by timm's strings.

DALI has policies of its own (``nvidia.dali.auto_aug``).  They are not used: they know no noise on the magnitude,
no probability per operation, and work only in pipelines defined with ``enable_conditionals=True``.  Here each
image takes its own path through a tree of splits, so an operation costs nothing for images that did not draw it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali import math as dali_math

from dali_mix.data import _image_ops as ops
from dali_mix.errors import ConfigError
from dali_mix.fn import _graph
from dali_mix.fn._graph import Node, OpArguments

SubPolicy: TypeAlias = tuple[tuple[str, float, float], ...]
"""Operations applied one after the other: name, probability, magnitude in [0, 10]."""

Leaf: TypeAlias = tuple[int, Callable[..., Node]]

_RAND = "AutoContrast Equalize Invert Rotate Posterize Solarize SolarizeAdd Color Contrast Brightness Sharpness ShearX \
ShearY TranslateXRel TranslateYRel".split()
_GROW_WITH_MAGNITUDE = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")

# Policies as timm has them, one sub-policy per semicolon: operation, probability, magnitude.
_ORIGINAL = """
PosterizeOriginal .4 8 Rotate .6 9; Solarize .6 5 AutoContrast .6 5; Equalize .8 8 Equalize .6 3;
PosterizeOriginal .6 7 PosterizeOriginal .6 6; Equalize .4 7 Solarize .2 4; Equalize .4 4 Rotate .8 8;
Solarize .6 3 Equalize .6 7; PosterizeOriginal .8 5 Equalize 1 2; Rotate .2 3 Solarize .6 8;
Equalize .6 8 PosterizeOriginal .4 6; Rotate .8 8 Color .4 0; Rotate .4 9 Equalize .6 2; Equalize 0 7 Equalize .8 8;
Invert .6 4 Equalize 1 8; Color .6 4 Contrast 1 8; Rotate .8 8 Color 1 2; Color .8 8 Solarize .8 7;
Sharpness .4 7 Invert .6 8; ShearX .6 5 Equalize 1 9; Color .4 0 Equalize .6 3; Equalize .4 7 Solarize .2 4;
Solarize .6 5 AutoContrast .6 5; Invert .6 4 Equalize 1 8; Color .6 4 Contrast 1 8; Equalize .8 8 Equalize .6 3
"""
_V0 = """
Equalize .8 1 ShearY .8 4; Color .4 9 Equalize .6 3; Color .4 1 Rotate .6 8; Solarize .8 3 Equalize .4 7;
Solarize .4 2 Solarize .6 2; Color .2 0 Equalize .8 8; Equalize .4 8 SolarizeAdd .8 3; ShearX .2 9 Rotate .6 8;
Color .6 1 Equalize 1 2; Invert .4 9 Rotate .6 0; Equalize 1 9 ShearY .6 3; Color .4 7 Equalize .6 0;
Posterize .4 6 AutoContrast .4 7; Solarize .6 8 Color .6 9; Solarize .2 4 Rotate .8 9; Rotate 1 7 TranslateYRel .8 9;
ShearX 0 0 Solarize .8 4; ShearY .8 0 Color .6 4; Color 1 0 Rotate .6 2; Equalize .8 4 Equalize 0 8;
Equalize 1 4 AutoContrast .6 2; ShearY .4 7 SolarizeAdd .6 7; Posterize .8 2 Solarize .6 10;
Solarize .6 8 Equalize .6 1; Color .8 6 Rotate .4 5
"""
_POLICIES = {
    "original": _ORIGINAL,
    "originalr": _ORIGINAL.replace("PosterizeOriginal", "PosterizeIncreasing"),
    "v0": _V0,
    "v0r": _V0.replace("Posterize", "PosterizeIncreasing"),
    "3a": "Solarize 1 5; Desaturate 1 10; GaussianBlurRand 1 10",
}

LEGAL = (
    "'' (none), 'rand-m9-mstd0.5-inc1' and its like (parts mX, nX, pX, mstdX, mmaxX, incX), "
    + ", ".join(f"'{name}'" for name in _POLICIES)
    + ", each with or without -mstdX"
)


class AutoAugment(NamedTuple):
    """What an ``aa`` string stands for.

    Fields:
        sub_policies: one of them is drawn, with equal chances, ``draws`` times per image.
        draws: number of sub-policies applied to an image.
        mstd: standard deviation of the magnitude; infinite for uniform from 0 to the magnitude.
        mmax: magnitudes are clipped to [0, mmax].
    """

    sub_policies: tuple[SubPolicy, ...]
    draws: int = 1
    mstd: float = 0.0
    mmax: float = 10.0


def parse_auto_augment(aa: str) -> AutoAugment:
    """Read one of timm's strings (``rand_augment_transform`` and ``auto_augment_transform``, timm 1.0.31).

    Raises:
        ConfigError: for what timm does not know, and for what is not done in the graph: ``augmix`` and
            RandAugment's transform sets (``t...``).
    """
    kind, *parts = aa.split("-") if isinstance(aa, str) else [str(aa)]
    if kind != "rand" and kind not in _POLICIES:
        reason = "AugMix needs several chains per image" if kind == "augmix" else "no such policy"
        _refuse(aa, reason)
    legal = ("m", "n", "p", "mstd", "mmax", "inc") if kind == "rand" else ("mstd",)
    values = _read_parts(aa, parts, legal)
    mstd = values.get("mstd", 0.0)
    if kind != "rand":
        return AutoAugment(_read_policy(_POLICIES[kind]), mstd=mstd)
    names = [f"{name}Increasing" if values.get("inc") and name in _GROW_WITH_MAGNITUDE else name for name in _RAND]
    magnitude, prob = values.get("m", 10.0), values.get("p", 0.5)
    return AutoAugment(
        tuple(((name, prob, magnitude),) for name in names),
        draws=int(values.get("n", 2)),
        mstd=math.inf if mstd > 100 else mstd,
        mmax=values.get("mmax", 10.0),
    )


def _read_parts(aa: str, parts: Sequence[str], legal: Sequence[str]) -> dict[str, float]:
    limits = {"m": 100, "n": 16, "p": 1, "mstd": math.inf, "mmax": 10, "inc": 1}
    values: dict[str, float] = {}
    for part in parts:
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d*)?|\.\d+)", part)
        key = match[1] if match else part
        if part.startswith("t") or key == "w":
            _refuse(aa, f"its part {part!r} chooses another set of operations, which is not available")
        if match is None or key not in legal:
            _refuse(aa, f"its part {part!r} is not one of {', '.join(f'{name}X' for name in legal)}")
        if key in values:
            _refuse(aa, f"its part {key!r} occurs twice")
        number = float(match[2])
        whole = key in ("m", "n", "inc", "mmax")
        if number > limits[key] or (whole and number % 1) or (key in ("n", "mmax") and number < 1):
            kind = "a whole number" if whole else "a number"
            _refuse(aa, f"its part {part!r} must be {kind} up to {limits[key]}")
        values[key] = number
    return values


def _refuse(aa: object, reason: str) -> NoReturn:
    raise ConfigError(f"aa={aa!r}: {reason}; use one of {LEGAL}")


def _read_policy(text: str) -> tuple[SubPolicy, ...]:
    def read(line: str) -> SubPolicy:
        words = line.split()
        return tuple((words[i], float(words[i + 1]), float(words[i + 2])) for i in range(0, len(words), 3))

    return tuple(read(line) for line in text.split(";"))


def auto_augment(images: Node, aa: str, *, fill: Sequence[float], op: OpArguments) -> Node:
    """Apply the policy that ``aa`` names, drawn for each image.

    Args:
        images: uint8 (H, W, 3), layout HWC, one size, CPU or GPU.
        aa: see :func:`parse_auto_augment`.
        fill: colour in [0, 255] of what a rotation, shear or translation uncovers.
        op: names of the random operators.

    Returns:
        Like the images.

    Differs from timm (``timm/data/auto_augment.py``): geometric operations resample bilinearly whatever
    ``interpolation`` is (DALI's ``warp_affine`` has no cubic filter); equalisation follows OpenCV's formula,
    sharpness also filters the outermost pixels, and posterising keeps at least one bit, where timm asks Pillow for
    none at a magnitude of 10, which Pillow 13 refuses.  Other operations agree with PIL to rounding.
    """
    policy = parse_auto_augment(aa)
    names = sorted({name for sub_policy in policy.sub_policies for name, _, _ in sub_policy}, key=_place)
    for layer, (code, level) in enumerate(draw_operations(policy, names, op)):
        chance = fn.random.uniform(range=[-1.0, 1.0], **op(f"chance{layer}"))
        sign = fn.cast(chance >= 0, dtype=types.FLOAT) * 2 - 1
        images = _dispatch(_leaves(names, fill), code, images, level, level * sign, chance)
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
        return _graph.constant(values[0], types.INT32 if dtype is np.int32 else types.FLOAT)
    return types.Constant(np.asarray(values, dtype=dtype), device="cpu")[index]


def _place(name: str) -> tuple[bool, str]:
    """Sort geometric operations to the end: they share one warp, so their codes must be adjacent."""
    return name in ops.MATRICES, name


def _leaves(names: Sequence[str], fill: Sequence[float]) -> list[Leaf]:
    """Each function of the tree with its smallest code."""
    leaves: list[Leaf] = [(0, lambda _code, images, *_draws: images)]
    geometric: list[Leaf] = []
    for code, name in enumerate(names, start=1):
        if name in ops.MATRICES:
            geometric.append((code, _without_code(ops.MATRICES[name])))
        else:
            leaves.append((code, _without_code(OPERATIONS[name])))
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
    return _graph.route(code < upper[0][0], partial(_dispatch, lower), partial(_dispatch, upper), code, *nodes)


# From the level, in [0, 1], to the operation's parameter: timm's ``LEVEL_TO_ARG``.  Arguments: images; level; signed,
# the level with a random sign; chance, uniform in [-1, 1), for whatever else is drawn.
OPERATIONS: Mapping[str, Callable[[Node, Node, Node, Node], Node]] = {
    "AutoContrast": lambda images, level, signed, chance: ops.auto_contrast(images),
    "Equalize": lambda images, level, signed, chance: fn.equalize(images),
    "Invert": lambda images, level, signed, chance: ops.invert(images),
    "Posterize": lambda images, level, signed, chance: ops.posterize(images, dali_math.floor(level * 4)),
    "PosterizeIncreasing": lambda images, level, signed, chance: ops.posterize(images, 4 - dali_math.floor(level * 4)),
    "PosterizeOriginal": lambda images, level, signed, chance: ops.posterize(images, 4 + dali_math.floor(level * 4)),
    "Solarize": lambda images, level, signed, chance: ops.solarize(images, dali_math.floor(level * 256)),
    "SolarizeIncreasing": lambda images, level, signed, chance: ops.solarize(
        images, 256 - dali_math.floor(level * 256)
    ),
    "SolarizeAdd": lambda images, level, signed, chance: ops.solarize_add(images, dali_math.floor(level * 110)),
    "Color": lambda images, level, signed, chance: ops.color(images, level * 1.8 + 0.1),
    "ColorIncreasing": lambda images, level, signed, chance: ops.color(images, signed * 0.9 + 1),
    "Contrast": lambda images, level, signed, chance: ops.contrast(images, level * 1.8 + 0.1),
    "ContrastIncreasing": lambda images, level, signed, chance: ops.contrast(images, signed * 0.9 + 1),
    "Brightness": lambda images, level, signed, chance: ops.brightness(images, level * 1.8 + 0.1),
    "BrightnessIncreasing": lambda images, level, signed, chance: ops.brightness(images, signed * 0.9 + 1),
    "Sharpness": lambda images, level, signed, chance: ops.sharpness(images, level * 1.8 + 0.1),
    "SharpnessIncreasing": lambda images, level, signed, chance: ops.sharpness(images, signed * 0.9 + 1),
    "Desaturate": lambda images, level, signed, chance: ops.color(images, 0.5 - level * 0.5),
    "GaussianBlurRand": lambda images, level, signed, chance: fn.gaussian_blur(
        images, sigma=0.1 + (level * 2 - 0.1) * (chance + 1) / 2
    ),
}
