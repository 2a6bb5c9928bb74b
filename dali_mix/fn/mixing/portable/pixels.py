"""What the native operator does to pixels, as graph arithmetic."""

from __future__ import annotations

from typing import cast

from nvidia.dali import fn, types
from nvidia.dali import math as dali_math

from dali_mix.fn import graph
from dali_mix.fn.graph import Node
from dali_mix.fn.mixing.boxes import box_sides
from dali_mix.fn.mixing.params import Draw
from dali_mix.fn.mixing.portable.checks import image_size

_FRACTION_BITS = 24
_ONE = 1 << _FRACTION_BITS


def pixels(images: Node, partner: Node, draw: Draw) -> Node:
    """See :meth:`dali_mix.fn.GraphMethod.apply`."""
    if draw.box is None:
        assert draw.weight is not None  # by GraphMethod.drawn
        return _blend(images, partner, draw.weight)
    if draw.source is None and draw.weight is None:
        return _paste(images, partner, draw.box)
    return _fill(images, partner, draw, draw.box)


def _paste(images: Node, partner: Node, box: Node) -> Node:
    """The partner's box at the same place."""
    partner_images = fn.permute_batch(images, indices=partner)
    size, start, sides = _stretch(images, box)
    # multi_paste wants one (row, column) per input: row 0 is the whole own image, row 1 the box.
    anchors = fn.stack(start * 0, start)
    shapes = fn.stack(size, sides)
    return fn.multi_paste(images, partner_images, in_anchors=anchors, out_anchors=anchors, shapes=shapes)


def _fill(images: Node, partner: Node, draw: Draw, box: Node) -> Node:
    """A box filled with any box of the partner, scaled to it without antialiasing, and blended."""
    partner_images = fn.permute_batch(images, indices=partner)
    size, start, sides = _stretch(images, box)
    source = box if draw.source is None else draw.source
    # Never empty, so that an empty box has something that is not pasted.
    region = _cut(partner_images, source[0:2], dali_math.max(box_sides(source), 1))
    if draw.source is not None:
        length = fn.cast(dali_math.max(sides, 1), dtype=types.FLOAT)
        region = cast(Node, fn.resize(region, size=length, interp_type=types.INTERP_LINEAR, antialias=False))
    if draw.weight is not None:
        own = _cut(images, box[0:2], dali_math.max(sides, 1))
        weight = graph.beside(draw.weight, images)
        region = fn.cast_like(own * weight + region * (1.0 - weight), images)
    nowhere = start * 0
    return fn.multi_paste(
        images,
        region,
        in_anchors=fn.stack(nowhere, nowhere),
        out_anchors=fn.stack(nowhere, start),
        shapes=fn.stack(size, sides),
        output_size=size,
    )


def _cut(images: Node, start: Node, shape: Node) -> Node:
    # Padded where an empty box lies at the last pixel; nothing of that is pasted.
    return fn.slice(images, start=start, shape=shape, axes=[0, 1], out_of_bounds_policy="pad")


def _stretch(images: Node, box: Node) -> tuple[Node, Node, Node]:
    """Size of the images, start of the box, and its sides."""
    size = image_size(images)
    start, sides = box[0:2], box_sides(box)
    if images.device == "gpu":
        start, sides = _without_empty_box(size, start, sides)
    return size, start, sides


def _without_empty_box(size: Node, start: Node, sides: Node) -> tuple[Node, Node]:
    """Move an empty box behind the last pixel.

    DALI's GPU backend pastes an empty region over all that lies below and to the right of it.
    """
    is_empty = fn.cast(fn.reductions.min(sides) == 0, dtype=types.INT32)
    return start + (size - start) * is_empty, sides * (1 - is_empty)


def _blend(images: Node, partner: Node, weight: Node) -> Node:
    """The whole image with its partner."""
    if images.device == "gpu":
        return _blend_in_float(images, partner, weight.gpu())
    # The type of the images is known only when the pipeline runs.  Casts saturate, which tells uint8.
    is_uint8 = fn.cast_like(weight * 0.0 + 300.0, images) == 255
    return graph.route(is_uint8, _blend_in_fixed_point, _blend_in_float, images, partner, weight)


def _blend_in_float(images: Node, partner: Node, lam: Node) -> Node:
    partner_images = fn.permute_batch(images, indices=partner)
    return fn.cast_like(images * lam + partner_images * (1.0 - lam), images)


def _blend_in_fixed_point(images: Node, partner: Node, lam: Node) -> Node:
    """Blend uint8 on the CPU, where DALI's conversion from float to uint8 would cost more than the blending.

    Weights in units of 2^-24, the resolution of float32, fill 32 bits: 255 * 2^24 + 2^23 < 2^32.
    """
    partner_images = fn.permute_batch(images, indices=partner)
    own, other = fixed_point_weights(lam)
    blended = images * own + partner_images * other + _uint32(_ONE // 2)
    return fn.cast(blended >> _uint32(_FRACTION_BITS), dtype=types.UINT8)


def fixed_point_weights(lam: Node) -> tuple[Node, Node]:
    """uint32 (), twice: weights of the own image and of the partner's, which sum to 2^24.

    uint32 throughout: next to a plain Python number DALI would go on in int64, and so with every pixel.
    """
    own = fn.cast(lam * float(_ONE), dtype=types.UINT32)
    # Derived from data: a constant node would have the whole batch's size inside a branch.
    total = own * _uint32(0) + _uint32(_ONE)
    return own, total - own


def _uint32(value: int) -> types.ScalarConstant:
    return types.Constant(value, dtype=types.UINT32)
