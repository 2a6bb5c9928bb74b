"""Random erasing composed of DALI's operators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from nvidia.dali import fn, types
from nvidia.dali import math as dali_math

from dali_mix.fn import graph
from dali_mix.fn.graph import Node, OpArguments
from dali_mix.fn.image.settings import Chain

_AREA = (0.02, 1 / 3)
_LOG_ASPECT = math.log(1 / 0.3)


def random_erasing(images: Node, chain: Chain, op: OpArguments) -> Node:
    """Fill boxes: area from 2 % to a third of the image over the number of boxes, aspect from 0.3 to 1 / 0.3.

    Args:
        images: uint8 (H, W, 3), layout HWC, CPU or GPU, one size.
        chain: its ``erasing``, ``remode``, ``recount``, ``mean`` and ``std`` are used.
        op: names of the random operators.

    Returns:
        Like the images.

    Differs from timm: see :func:`dali_mix.fn.random_erasing`; and a box that does not fit, one draw in 200, is cut
    to the size of the image instead of drawn again.
    """
    erased = fn.random.coin_flip(probability=chain.erasing, dtype=types.BOOL, **op("erase"))
    count = fn.random.choice(chain.recount, **op("erase_count")) + 1 if chain.recount > 1 else None
    for number in range(chain.recount):
        anchor, shape = draw_erase_box(images, count, number, op)
        here = erased if count is None else erased & (count > number)
        if chain.remode == "pixel":
            noise = partial(_paste_noise, mean=chain.mean, std=chain.std, name=op(f"erase_noise{number}"))
            images = graph.route(here, noise, graph.same, images, anchor, shape)
        else:
            colors = op(f"erase_colour{number}")  # spelled as checkpoints know it
            fill = _fill_color(chain.remode, chain.mean, chain.std, colors)
            images = graph.route(here, _fill_box, graph.same, images, anchor, shape, fill)
    return images


def draw_erase_box(images: Node, count: Node | None, number: int, op: OpArguments) -> tuple[Node, Node]:
    """int32 (2,) each, CPU: top and left, height and width of box ``number``, of ``count`` boxes (None for one)."""
    size = fn.cast(images.shape(dtype=types.INT32)[:2], dtype=types.FLOAT)
    area = fn.random.uniform(range=list(_AREA), **op(f"erase_area{number}")) * size[0] * size[1]
    if count is not None:
        area = area / count
    log_aspect = fn.random.uniform(range=[-_LOG_ASPECT, _LOG_ASPECT], **op(f"erase_aspect{number}"))
    root = dali_math.exp(log_aspect / 2)
    side = dali_math.sqrt(area)
    shape = dali_math.min(dali_math.floor(fn.stack(side * root, side / root) + 0.5), size)
    place = fn.random.uniform(range=[0.0, 1.0], shape=[2], **op(f"erase_place{number}"))
    # A draw just below 1 may round up to the first position that does not fit.
    anchor = dali_math.min(dali_math.floor(place * (size - shape + 1)), size - shape)
    return fn.cast(anchor, dtype=types.INT32), fn.cast(shape, dtype=types.INT32)


def _fill_color(remode: str, mean: Sequence[float], std: Sequence[float], name: dict) -> Node:
    """float32 (3,) on the CPU, in [0, 255]."""
    color = types.Constant([255.0 * value for value in mean], device="cpu")
    if remode == "rand":
        scale = types.Constant([255.0 * value for value in std], device="cpu")
        color = color + scale * fn.random.normal(shape=[3], **name)
    # The operator that fills does not round, and wraps around.
    return dali_math.clamp(dali_math.floor(color + 0.5), 0.0, 255.0)


def _fill_box(images: Node, anchor: Node, shape: Node, fill: Node) -> Node:
    box: dict[str, Any] = {"anchor": fn.cast(anchor, dtype=types.FLOAT), "shape": fn.cast(shape, dtype=types.FLOAT)}
    return fn.erase(images, axes=[0, 1], fill_value=fill, **box)


def _paste_noise(
    images: Node, anchor: Node, shape: Node, mean: Sequence[float], std: Sequence[float], name: dict
) -> Node:
    """Draw noise for the box only, and paste it."""
    size = images.shape(dtype=types.INT32)
    noise = fn.random.normal(shape=fn.cat(shape, size[2:]), device=images.device, **name)
    # The operator computes (x - mean) / std; with these two that is 255 (mean + std x).
    shift = [-m / s for m, s in zip(mean, std, strict=True)]
    scale = [1 / (255 * s) for s in std]
    noise = fn.reshape(noise, layout="HWC")
    noise = fn.crop_mirror_normalize(noise, mean=shift, std=scale, dtype=types.UINT8, output_layout="HWC")
    corner = anchor * 0
    return fn.multi_paste(
        images,
        noise,
        out_anchors=fn.stack(corner, anchor),
        shapes=fn.stack(size[:2], shape),
        output_size=size[:2],
    )
