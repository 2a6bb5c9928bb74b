"""Argument checks.  Each raises when the graph is built: what was got, what is legal, what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from nvidia.dali.data_node import DataNode

from dali_mix.fn.mixing.recipe import Normalization

MODES = ("batch", "pair", "elem")
_MOST_CLASSES = 1 << 24
"""A row of targets for each image has so many numbers."""

PAIRINGS = ("permutation", "flip")


def check_node(name: str, value: object) -> None:
    """Refuse anything that is not a DALI graph node."""
    if not isinstance(value, DataNode):
        raise TypeError(
            f"{name} must be a DataNode (the output of a nvidia.dali.fn operator), got "
            f"{type(value).__name__}; these operators run inside a DALI pipeline, not on tensors"
        )


def _check_number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return float(value)


def check_alpha(name: str, value: object) -> None:
    """Refuse a Beta parameter that is not positive and finite."""
    with np.errstate(over="ignore", under="ignore"):
        number = float(np.float32(_check_number(name, value)))  # as operators take it
    if not (number > 0 and math.isfinite(number)):
        raise ValueError(f"{name} must be > 0 and finite (as float32), got {value!r}; to switch mixing off use prob=0")


def check_probability(name: str, value: object) -> None:
    """Refuse a number outside [0, 1]."""
    if not 0 <= _check_number(name, value) <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value!r}")


def check_mode(mode: str, pairing: str) -> None:
    """Refuse an unknown mode or pairing, and pairs that do not pair up."""
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if pairing not in PAIRINGS:
        raise ValueError(f"pairing must be one of {', '.join(PAIRINGS)}, got {pairing!r}")
    if mode == "pair" and pairing != "flip":
        raise ValueError(
            f"mode='pair' lets sample i and its partner share one draw, which needs pairing='flip'; "
            f"got pairing={pairing!r}"
        )


def check_minmax(minmax: object) -> tuple[float, float] | None:
    """Refuse a range of box sides that is not 0 <= min <= max <= 1."""
    if minmax is None:
        return None
    if not isinstance(minmax, (tuple, list)) or len(minmax) != 2:
        raise TypeError(f"minmax must be two numbers (min, max), got {minmax!r}")
    low, high = (_check_number("minmax", value) for value in minmax)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"minmax must satisfy 0 <= min <= max <= 1 (shares of the image side), got {minmax!r}")
    return low, high


def check_image_size(image_size: object) -> tuple[int, int] | None:
    """Height and width from one number or two; refuse any that are not whole numbers >= 1."""
    if image_size is None:
        return None
    sides = (image_size, image_size) if isinstance(image_size, int) else image_size
    if not isinstance(sides, (tuple, list)) or len(sides) != 2 or not all(type(side) is int for side in sides):
        raise TypeError(f"image_size must be a whole number, or height and width, in pixels, got {image_size!r}")
    if min(sides) < 1:
        raise ValueError(f"image_size must be at least 1 pixel, got {image_size!r}")
    return sides[0], sides[1]


def check_seed(name: str, seed: object) -> None:
    """Refuse a seed that is neither None nor an integer >= 0."""
    if seed is None:
        return
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"{name} must be an integer or None, got {seed!r}")
    if seed < 0:
        raise ValueError(f"{name} must be >= 0, got {seed}")


def check_num_classes(num_classes: object) -> None:
    """Refuse a class count that is not an integer >= 1."""
    if isinstance(num_classes, bool) or not isinstance(num_classes, int):
        raise TypeError(f"num_classes must be an integer, got {num_classes!r}")
    if not 1 <= num_classes <= _MOST_CLASSES:
        raise ValueError(f"num_classes must be >= 1 and at most {_MOST_CLASSES}, got {num_classes}")


def check_normalization(normalization: object) -> None:
    """Refuse anything but None and a Normalization of finite means and positive standard deviations."""
    if normalization is None:
        return
    if not isinstance(normalization, Normalization):
        raise TypeError(f"normalization must be a mix.Normalization(mean, std, half), got {normalization!r}")
    mean, std, _ = normalization
    for name, values in (("mean", mean), ("std", std)):
        if not isinstance(values, (tuple, list)) or not values:
            raise TypeError(f"normalization.{name} must have one number per channel, got {values!r}")
        numbers = [_check_number(f"normalization.{name}", value) for value in values]
        if not all(math.isfinite(number) and (number > 0 or name == "mean") for number in numbers):
            legal = "positive and finite" if name == "std" else "finite"
            raise ValueError(f"normalization.{name} must be {legal}, got {values!r}")
    if len(mean) != len(std):
        raise ValueError(f"normalization has {len(mean)} means and {len(std)} standard deviations")


def _check_three(name: str, values: object, legal: str) -> tuple[float, float, float]:
    if not isinstance(values, (tuple, list)) or len(values) != 3:
        raise TypeError(f"{name} must be three numbers {legal}, for red, green and blue, got {values!r}")
    red, green, blue = (_check_number(name, value) for value in values)
    return red, green, blue


def check_color(name: str, values: object) -> tuple[float, float, float]:
    """Refuse anything but three numbers in [0, 1]."""
    numbers = _check_three(name, values, "in [0, 1]")
    if not all(0 <= number <= 1 for number in numbers):
        raise ValueError(f"{name} must be for images in [0, 1], and lie there itself, got {values!r}")
    return numbers


def check_deviation(name: str, values: object) -> tuple[float, float, float]:
    """Refuse anything but three positive numbers."""
    numbers = _check_three(name, values, "> 0")
    if not all(0 < number < math.inf for number in numbers):
        raise ValueError(f"{name} must be > 0 and finite, got {values!r}")
    return numbers


def check_levels(name: str, values: object) -> tuple[int, ...]:
    """Refuse anything but three whole numbers in 0 .. 255."""
    numbers = _check_three(name, values, "in 0 .. 255")
    if not all(0 <= number <= 255 and number % 1 == 0 for number in numbers):
        raise ValueError(f"{name} must be three whole numbers in 0 .. 255, got {values!r}")
    return tuple(int(number) for number in numbers)


def check_shares(shares: Mapping[str, object]) -> None:
    """Refuse probabilities of methods outside [0, 1], and those that sum to more than 1."""
    numbers = []
    for name, share in shares.items():
        check_probability(f"choices[{name!r}]", share)
        numbers.append(_check_number(name, share))
    if sum(numbers) > 1 + 1e-6:
        raise ValueError(
            f"choices must sum to at most 1 (the rest is 'none'), got {sum(numbers):g} from {dict(shares)}"
        )
