"""Augmentation composed of DALI's operators."""

from __future__ import annotations

from typing import Any

from nvidia.dali import fn, types

from dali_mix.fn import graph
from dali_mix.fn.graph import Node, OpArguments
from dali_mix.fn.image.portable import image_ops as ops
from dali_mix.fn.image.portable.erasing import random_erasing
from dali_mix.fn.image.portable.policy import auto_augment
from dali_mix.fn.image.settings import Chain


def augment_images(images: Node, chain: Chain) -> Node:
    """See :func:`dali_mix.fn.augment`; whatever the chain says, warps are bilinear."""
    op = graph.random_op(chain.kind, chain.seed)
    images = _flip(images, chain, op)
    if chain.policy:
        images = auto_augment(images, chain.policy, fill=chain.fill, op=op)
    if chain.jitter:
        images = _color_jitter(images, chain, op)
    if chain.grayscale > 0:
        gray = fn.random.coin_flip(probability=chain.grayscale, dtype=types.BOOL, **op("grayscale"))
        images = graph.route(gray, ops.grayscale, graph.same, images)
    if chain.blur > 0:
        blurred = fn.random.coin_flip(probability=chain.blur, dtype=types.BOOL, **op("blur"))
        sigma = fn.random.uniform(range=[0.1, 2.0], **op("sigma"))
        images = graph.route(blurred, _blur, graph.same, images, sigma)
    if chain.erasing > 0:
        images = random_erasing(images, chain, op)
    return images


def _flip(images: Node, chain: Chain, op: OpArguments) -> Node:
    sides = {"horizontal": chain.hflip, "vertical": chain.vflip}
    if not any(sides.values()):
        return images
    # A coin that never falls would cost as much as one that does.
    coins: dict[str, Any] = {
        side: fn.random.coin_flip(probability=p, **op(side)) if p > 0 else 0 for side, p in sides.items()
    }
    return fn.flip(images, **coins)


def _blur(images: Node, sigma: Node) -> Node:
    return fn.gaussian_blur(images, sigma=sigma, window_size=23)  # timm's window


def _color_jitter(images: Node, chain: Chain, op: OpArguments) -> Node:
    """See :func:`dali_mix.fn.color_jitter`.

    Differs from torchvision: the order is fixed, not drawn.  Brightness, contrast and saturation commute, so this
    shows only where a value is clipped.  The hue is turned in YIQ, not HSV.
    """
    *factors, hue = chain.jitter
    ranges = {
        name: [max(0.0, 1 - x), 1 + x]
        for name, x in zip(("brightness", "contrast", "saturation"), factors, strict=True)
        if x > 0
    }
    if hue > 0:
        ranges["hue"] = [-360 * hue, 360 * hue]
    draws = [fn.random.uniform(range=limits, **op(name)) for name, limits in ranges.items()]

    def jitter(images: Node, *draws: Node) -> Node:
        drawn: dict[str, Any] = dict(zip(ranges, draws, strict=True))
        contrast = drawn.pop("contrast", None)
        if drawn:
            images = fn.color_twist(images, **drawn)
        return images if contrast is None else ops.contrast(images, contrast)

    if chain.jitter_prob is None:
        return jitter(images, *draws)
    chosen = fn.random.coin_flip(probability=chain.jitter_prob, dtype=types.BOOL, **op("jitter"))
    return graph.route(chosen, jitter, graph.same, images, *draws)
