"""PIL's image operations on DALI nodes: what color jitter and the policies are made of.

Every function may run inside a branch of ``graph.route``, so none makes constant nodes.
Images are uint8 (H, W, 3), layout HWC, CPU or GPU; factors are float32 () on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from nvidia.dali import fn, types
from nvidia.dali import math as dali_math

from dali_mix.fn.graph import Node

_WHITE = types.Constant(255, dtype=types.UINT8)


def _beside(images: Node, value: Node) -> Node:
    """The value on the device of the images: arithmetic does not mix devices."""
    return value.gpu() if images.device == "gpu" else value


def _uint8(node: Node) -> Node:
    return fn.cast(node, dtype=types.UINT8)


def brightness(images: Node, factor: Node) -> Node:
    """Multiply by the factor."""
    return fn.brightness(images, brightness=factor)


def contrast(images: Node, factor: Node) -> Node:
    """Blend with the mean gray of the image; 0 leaves only the gray."""
    center = fn.reductions.mean(_gray(images), axes=[0, 1], keep_dims=True)
    factor = _beside(images, factor)
    return _uint8(images * factor + center * (1 - factor))


def color(images: Node, factor: Node) -> Node:
    """Blend each pixel with its gray; 0 leaves only the gray.  (``fn.saturation`` leaves a tint by its rounding.)"""
    factor = _beside(images, factor)
    return _uint8(images * factor + _gray(images) * (1 - factor))


def grayscale(images: Node) -> Node:
    """The gray, in three channels."""
    return fn.color_space_conversion(_gray(images), image_type=types.GRAY, output_type=types.RGB)


def _gray(images: Node) -> Node:
    return fn.color_space_conversion(images, image_type=types.RGB, output_type=types.GRAY)


def sharpness(images: Node, factor: Node) -> Node:
    """Blend with PIL's ``SMOOTH`` filter: 0 is smooth, 1 the image, 2 sharp."""
    side = (1 - factor) / 13
    center = 1 - side * 8
    kernel = fn.reshape(fn.stack(*[side] * 4, center, *[side] * 4), shape=[3, 3])
    return fn.filter(images, _beside(images, kernel))


def auto_contrast(images: Node) -> Node:
    """Stretch each channel to [0, 255]; a channel of one value stays."""
    low = fn.reductions.min(images, axes=[0, 1], keep_dims=True)
    spread = fn.reductions.max(images, axes=[0, 1], keep_dims=True) - low
    scale = 255.0 / (spread + (spread == 0) * _WHITE)
    return _uint8(images * scale - low * scale * (spread > 0))


def invert(images: Node) -> Node:
    """255 minus the image."""
    return _WHITE - images


def posterize(images: Node, bits: Node) -> Node:
    """Keep this many of the highest bits, at least one: Pillow refuses none, and the image would be black."""
    mask = _uint8(256 - dali_math.pow(2.0, 8 - dali_math.max(bits, 1.0)))
    return images & _beside(images, mask)


def solarize(images: Node, threshold: Node) -> Node:
    """Invert the values from the threshold on."""
    return images ^ ((images >= _beside(images, threshold)) * _WHITE)


def solarize_add(images: Node, addend: Node) -> Node:
    """Add to the values below 128; the addend is at most 128."""
    return images + (images < 128) * _beside(images, _uint8(addend))


def _matrix(*entries: Node) -> Node:
    return fn.reshape(fn.stack(*entries), shape=[2, 3])


def _rotation(shape: Node, level: Node, signed: Node, chance: Node) -> Node:
    angle = signed * (-math.pi / 6)
    cos, sin = dali_math.cos(angle), dali_math.sin(angle)
    y, x = shape[0] / 2, shape[1] / 2
    return _matrix(cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)


def _shear_x(shape: Node, level: Node, signed: Node, chance: Node) -> Node:
    zero = signed * 0
    return _matrix(zero + 1, signed * 0.3, zero, zero, zero + 1, zero)


def _shear_y(shape: Node, level: Node, signed: Node, chance: Node) -> Node:
    zero = signed * 0
    return _matrix(zero + 1, zero, zero, signed * 0.3, zero + 1, zero)


def _translation_x(shape: Node, level: Node, signed: Node, chance: Node) -> Node:
    zero = signed * 0
    return _matrix(zero + 1, zero, signed * 0.45 * shape[1], zero, zero + 1, zero)


def _translation_y(shape: Node, level: Node, signed: Node, chance: Node) -> Node:
    zero = signed * 0
    return _matrix(zero + 1, zero, zero, zero, zero + 1, signed * 0.45 * shape[0])


MATRICES: Mapping[str, Callable[[Node, Node, Node, Node], Node]] = {
    "Rotate": _rotation,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateXRel": _translation_x,
    "TranslateYRel": _translation_y,
}
"""timm's geometric operations, as matrices from output to input: at a magnitude of 10 by 30 degrees, a shear of
0.3, 45 % of the side."""


def warp(images: Node, matrix: Node, fill: Sequence[float]) -> Node:
    """Resample bilinearly; what lies outside the image has the color ``fill``.

    DALI fills with one gray value, so the color is subtracted before and added after.
    """
    ones = [1.0] * 3
    centered = fn.crop_mirror_normalize(images, mean=list(fill), std=ones, dtype=types.FLOAT, output_layout="HWC")
    warped = fn.warp_affine(centered, matrix=matrix, fill_value=0.0)
    back = [-value for value in fill]
    return fn.crop_mirror_normalize(warped, mean=back, std=ones, dtype=types.UINT8, output_layout="HWC")
