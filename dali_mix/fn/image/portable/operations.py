"""Turns the level of a policy's operation into the operation: timm's ``LEVEL_TO_ARG`` on DALI nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from nvidia.dali import fn
from nvidia.dali import math as dali_math

from dali_mix.fn.graph import Node
from dali_mix.fn.image.portable import image_ops as ops

Operation: TypeAlias = Callable[[Node, Node, Node, Node], Node]
"""Arguments: images; level, a tenth of the magnitude; signed, the level with a random sign; chance, uniform in
[-1, 1), for whatever else is drawn."""


def operations(beyond_ten: bool = False) -> Mapping[str, Operation]:
    """The operations that are no warps, by timm's names.

    Args:
        beyond_ten: whether the level may be above 1.  What timm clips then is not clipped otherwise: each ``min``
            would be an operator more in the graph.
    """

    def at_most(node: Node, limit: float) -> Node:
        return dali_math.min(node, limit) if beyond_ten else node

    def at_least(node: Node, limit: float) -> Node:
        return dali_math.max(node, limit) if beyond_ten else node

    def share(level: Node) -> Node:
        return level * 1.8 + 0.1

    def around_one(signed: Node) -> Node:
        return at_least(signed * 0.9 + 1, 0.1)

    def bits(level: Node) -> Node:
        return dali_math.floor(level * 4)

    def threshold(level: Node) -> Node:
        return dali_math.floor(level * 256)  # above 256 it is as good as 256, and below 0 as 0

    return {
        "AutoContrast": lambda images, level, signed, chance: ops.auto_contrast(images),
        "Equalize": lambda images, level, signed, chance: fn.equalize(images),
        "Invert": lambda images, level, signed, chance: ops.invert(images),
        "Posterize": lambda images, level, signed, chance: ops.posterize(images, at_most(bits(level), 8.0)),
        "PosterizeIncreasing": lambda images, level, signed, chance: ops.posterize(images, 4 - bits(level)),
        "PosterizeOriginal": lambda images, level, signed, chance: ops.posterize(images, at_most(4 + bits(level), 8.0)),
        "Solarize": lambda images, level, signed, chance: ops.solarize(images, threshold(level)),
        "SolarizeIncreasing": lambda images, level, signed, chance: ops.solarize(images, 256 - threshold(level)),
        "SolarizeAdd": lambda images, level, signed, chance: ops.solarize_add(
            images, at_most(dali_math.floor(level * 110), 128.0)
        ),
        "Color": lambda images, level, signed, chance: ops.color(images, share(level)),
        "ColorIncreasing": lambda images, level, signed, chance: ops.color(images, around_one(signed)),
        "Contrast": lambda images, level, signed, chance: ops.contrast(images, share(level)),
        "ContrastIncreasing": lambda images, level, signed, chance: ops.contrast(images, around_one(signed)),
        "Brightness": lambda images, level, signed, chance: ops.brightness(images, share(level)),
        "BrightnessIncreasing": lambda images, level, signed, chance: ops.brightness(images, around_one(signed)),
        "Sharpness": lambda images, level, signed, chance: ops.sharpness(images, share(level)),
        "SharpnessIncreasing": lambda images, level, signed, chance: ops.sharpness(images, around_one(signed)),
        "Desaturate": lambda images, level, signed, chance: ops.color(images, at_least(0.5 - level * 0.5, 0.0)),
        "GaussianBlur": lambda images, level, signed, chance: fn.gaussian_blur(
            images, sigma=at_most(level * 1.9 + 0.1, 2.0)
        ),
        "GaussianBlurRand": lambda images, level, signed, chance: fn.gaussian_blur(
            images, sigma=0.1 + (at_most(level, 1.0) * 2 - 0.1) * (chance + 1) / 2
        ),
    }
