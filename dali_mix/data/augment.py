"""Augmentation of single images in the graph, with the options and the meaning of timm's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from nvidia.dali import fn, types
from nvidia.dali import math as dali_math
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import do_not_convert

from dali_mix.data import _image_ops as ops
from dali_mix.data.auto_augment import auto_augment, parse_auto_augment
from dali_mix.errors import ConfigError
from dali_mix.fn import _graph
from dali_mix.fn._graph import Node, OpArguments

REMODES = ("const", "rand", "pixel")
_AREA = (0.02, 1 / 3)
_LOG_ASPECT = math.log(1 / 0.3)
_PROBABILITIES = ("hflip", "vflip", "grayscale_prob", "gaussian_blur_prob", "reprob")


@dataclass(frozen=True)
class Augmentation:
    """What happens to each training image after its random crop, in this order; timm's names and meaning.

    Fields:
        hflip, vflip: probabilities of a horizontal and a vertical flip.
        aa: AutoAugment, RandAugment or 3-Augment: "" for none, "rand-m9-mstd0.5-inc1" and its like, "original",
            "originalr", "v0", "v0r" or "3a"; see ``dali_mix.data.auto_augment``.
        color_jitter: brightness, contrast and saturation are each multiplied by a number drawn from
            [1 - x, 1 + x]; three numbers set them apart, a fourth, up to 0.5, turns the hue by up to this
            part of a circle.  As in timm, off where ``aa`` is set, but for "3a".
        color_jitter_prob: probability of the colour jitter; None for always.
        grayscale_prob: probability of turning grey.
        gaussian_blur_prob: probability of a Gaussian blur with a sigma from 0.1 to 2 pixels.
        reprob: probability of erasing.
        remode: what an erased box is filled with: "const" the mean colour, "rand" one normal colour,
            "pixel" normal noise.
        recount: at most this many boxes, from 1 on with equal chances; they share the area.

    Raises:
        ConfigError: for illegal values.
    """

    hflip: float = 0.5
    vflip: float = 0.0
    color_jitter: float | tuple[float, ...] = 0.0
    color_jitter_prob: float | None = None
    grayscale_prob: float = 0.0
    gaussian_blur_prob: float = 0.0
    aa: str = ""
    reprob: float = 0.0
    remode: str = "pixel"
    recount: int = 1

    def __post_init__(self) -> None:
        for name in _PROBABILITIES:
            _check_range(name, getattr(self, name), 1)
        if self.color_jitter_prob is not None:
            _check_range("color_jitter_prob", self.color_jitter_prob, 1)
        parts = self.color_jitter if isinstance(self.color_jitter, (tuple, list)) else (self.color_jitter,)
        if len(parts) not in (1, 3, 4):
            raise ConfigError(f"color_jitter must be one number, or three or four, got {self.color_jitter!r}")
        for part in parts[:3]:
            _check_range("color_jitter", part, math.inf)
        for hue in parts[3:]:
            _check_range("the fourth number of color_jitter, the hue,", hue, 0.5)
        if self.remode not in REMODES:
            raise ConfigError(f"remode must be one of {', '.join(REMODES)}, got {self.remode!r}")
        if isinstance(self.recount, bool) or not isinstance(self.recount, int) or not 1 <= self.recount <= 16:
            raise ConfigError(f"recount must be a whole number from 1 to 16, got {self.recount!r}")
        if self.aa != "":
            parse_auto_augment(self.aa)

    @property
    def only_flips(self) -> bool:
        """Whether images are flipped left to right at most."""
        others = (self.vflip, self.aa, self.jitter, self.grayscale_prob, self.gaussian_blur_prob, self.reprob)
        return not any(others)

    @property
    def jitter(self) -> tuple[float, ...]:
        """Brightness, contrast, saturation and hue of the colour jitter as it is applied; empty for none."""
        # timm looks for "3a" anywhere in the string; of the strings accepted here only the policy 3a has it.
        if self.aa and not self.aa.startswith("3a"):
            return ()
        parts = self.color_jitter if isinstance(self.color_jitter, (tuple, list)) else (self.color_jitter,) * 3
        return (*parts, 0.0)[:4] if any(parts) and self.color_jitter_prob != 0 else ()


def _check_range(name: str, value: object, highest: float) -> None:
    legal = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not legal or not 0 <= float(value) <= highest:  # type: ignore[arg-type]
        limits = "a number from 0 on" if math.isinf(highest) else f"a number from 0 to {highest:g}"
        raise ConfigError(f"{name} must be {limits}, got {value!r}")


@do_not_convert
def draw_hflip(augmentation: Augmentation) -> DataNode | None:
    """Which images to flip, where that is all that is done to them; None where ``augment`` has to do it.

    Args:
        augmentation: what to do.

    Returns:
        int32 (), CPU: what ``random_mix`` takes as ``mirror``; the draws are those of :func:`augment`.
    """
    if augmentation.hflip == 0 or not augmentation.only_flips:
        return None
    return fn.random.coin_flip(probability=augmentation.hflip, **_graph.random_op("augment", None)("horizontal"))


@do_not_convert
def augment(
    images: DataNode, augmentation: Augmentation, *, img_mean: Sequence[float], img_std: Sequence[float]
) -> DataNode:
    """Augment each image on its own.  Works in any pipeline; conditionals need not be enabled.

    Args:
        images: uint8 (H, W, 3), layout HWC, CPU or GPU, one size for the whole batch.
        augmentation: what to do.
        img_mean, img_std: three values each, for images in [0, 1]: the mean colour, with which uncovered areas
            are filled, and the scale of the noise in erased boxes.

    Returns:
        Like the images.  The draws follow the pipeline's seed.

    Source: ``transforms_imagenet_train`` in ``timm/data/transforms_factory.py``, timm 1.0.31.

    Differs from timm: see :func:`color_jitter`, :func:`random_erasing` and ``auto_augment.auto_augment``.
    """
    op = _graph.random_op("augment", None)
    images = _flip(images, augmentation, op)
    if augmentation.aa:
        fill = [min(255, round(255 * value)) for value in img_mean]
        images = auto_augment(images, augmentation.aa, fill=fill, op=op)
    if augmentation.jitter:
        images = color_jitter(images, augmentation.jitter, augmentation.color_jitter_prob, op=op)
    if augmentation.grayscale_prob > 0:
        grey = fn.random.coin_flip(probability=augmentation.grayscale_prob, dtype=types.BOOL, **op("grayscale"))
        images = _graph.route(grey, ops.grayscale, _same, images)
    if augmentation.gaussian_blur_prob > 0:
        blurred = fn.random.coin_flip(probability=augmentation.gaussian_blur_prob, dtype=types.BOOL, **op("blur"))
        sigma = fn.random.uniform(range=[0.1, 2.0], **op("sigma"))
        images = _graph.route(blurred, _blur, _same, images, sigma)
    if augmentation.reprob > 0:
        images = random_erasing(images, augmentation, img_mean=img_mean, img_std=img_std, op=op)
    return images


def _same(images: Node, *draws: Node) -> Node:
    return images


def _flip(images: Node, augmentation: Augmentation, op: OpArguments) -> Node:
    sides = {"horizontal": augmentation.hflip, "vertical": augmentation.vflip}
    if not any(sides.values()):
        return images
    # A coin that never falls would cost as much as one that does.
    coins: dict[str, Any] = {
        side: fn.random.coin_flip(probability=p, **op(side)) if p > 0 else 0 for side, p in sides.items()
    }
    return fn.flip(images, **coins)


def _blur(images: Node, sigma: Node) -> Node:
    return fn.gaussian_blur(images, sigma=sigma, window_size=23)  # timm's window


def color_jitter(images: Node, strength: Sequence[float], prob: float | None, *, op: OpArguments) -> Node:
    """torchvision's ``ColorJitter``, applied with a probability.

    Args:
        images: uint8 (H, W, 3), layout HWC, CPU or GPU.
        strength: of brightness, contrast, saturation and hue.
        prob: None for always.
        op: names of the random operators.

    Returns:
        Like the images.

    Differs from torchvision: the order is fixed, not drawn.  Brightness, contrast and saturation commute, so this
    shows only where a value is clipped.  The hue is turned in YIQ, not HSV.
    """
    ranges = {
        name: [max(0.0, 1 - x), 1 + x]
        for name, x in zip(("brightness", "contrast", "saturation"), strength[:3], strict=True)
        if x > 0
    }
    if strength[3] > 0:
        ranges["hue"] = [-360 * strength[3], 360 * strength[3]]
    draws = [fn.random.uniform(range=limits, **op(name)) for name, limits in ranges.items()]

    def jitter(images: Node, *draws: Node) -> Node:
        drawn = dict(zip(ranges, draws, strict=True))
        contrast = drawn.pop("contrast", None)
        if drawn:
            images = fn.color_twist(images, **drawn)
        return images if contrast is None else ops.contrast(images, contrast)

    if prob is None:
        return jitter(images, *draws)
    chosen = fn.random.coin_flip(probability=prob, dtype=types.BOOL, **op("jitter"))
    return _graph.route(chosen, jitter, _same, images, *draws)


def random_erasing(
    images: Node, augmentation: Augmentation, *, img_mean: Sequence[float], img_std: Sequence[float], op: OpArguments
) -> Node:
    """Fill boxes: area from 2 % to a third of the image over the number of boxes, aspect from 0.3 to 1 / 0.3.

    Args:
        images: uint8 (H, W, 3), layout HWC, CPU or GPU, one size.
        augmentation: ``reprob``, ``remode`` and ``recount`` are used.
        img_mean, img_std: for images in [0, 1].
        op: names of the random operators.

    Returns:
        Like the images.

    Source: Zhong et al., "Random Erasing Data Augmentation", arXiv 1708.04896, as in
    ``timm/data/random_erasing.py``.

    Differs from timm: timm fills normalised images, which may take any value.  Here images are uint8 and not yet
    normalised, so the fill is 255 (mean + std n), rounded and clipped to [0, 255], where timm's is n.  A box that
    does not fit, one draw in 200, is cut to the size of the image instead of drawn again.
    """
    erased = fn.random.coin_flip(probability=augmentation.reprob, dtype=types.BOOL, **op("erase"))
    count = fn.random.choice(augmentation.recount, **op("erase_count")) + 1 if augmentation.recount > 1 else None
    for number in range(augmentation.recount):
        anchor, shape = draw_erase_box(images, count, number, op)
        here = erased if count is None else erased & (count > number)
        if augmentation.remode == "pixel":
            noise = partial(_paste_noise, mean=img_mean, std=img_std, name=op(f"erase_noise{number}"))
            images = _graph.route(here, noise, _same, images, anchor, shape)
        else:
            fill = _fill_colour(augmentation.remode, img_mean, img_std, op(f"erase_colour{number}"))
            images = _graph.route(here, _fill_box, _same, images, anchor, shape, fill)
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


def _fill_colour(remode: str, mean: Sequence[float], std: Sequence[float], name: dict) -> Node:
    """float32 (3,) on the CPU, in [0, 255]."""
    colour = types.Constant([255.0 * value for value in mean], device="cpu")
    if remode == "rand":
        scale = types.Constant([255.0 * value for value in std], device="cpu")
        colour = colour + scale * fn.random.normal(shape=[3], **name)
    # The operator that fills does not round, and wraps around.
    return dali_math.clamp(dali_math.floor(colour + 0.5), 0.0, 255.0)


def _fill_box(images: Node, anchor: Node, shape: Node, fill: Node) -> Node:
    box = {"anchor": fn.cast(anchor, dtype=types.FLOAT), "shape": fn.cast(shape, dtype=types.FLOAT)}
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
