"""Augmentation of single images in the graph, with the options and the meaning of timm's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nvidia.dali import fn
from nvidia.dali.pipeline import do_not_convert

from dali_mix.errors import ConfigError
from dali_mix.fn import checks, graph
from dali_mix.fn.graph import Node
from dali_mix.fn.image.policies import parse_auto_augment
from dali_mix.fn.image.settings import IMAGENET_MEAN, IMAGENET_STD, Augmentation, Chain, check_boxes, check_range
from dali_mix.fn.implementation import AUGMENTATION, implementation_for

_WARPS = {"random": "random", "bilinear": "bilinear", "bicubic": "bicubic", "nearest": "nearest", "lanczos": "bicubic"}
"""timm's names of filters to what warps take: no one warps with Lanczos, PIL refuses it."""

_FILL = (128, 128, 128)
"""timm's."""


@do_not_convert
def draw_hflip(augmentation: Augmentation) -> Node | None:
    """Draw which images to flip, where that is all that is done to them.

    Args:
        augmentation: what to do.

    Returns:
        int32 (), CPU: what ``random_mix`` takes as ``mirror``; the draws follow the pipeline's seed.  None where
        there is nothing to flip, or more to do than to flip: that is for :func:`augment`.
    """
    if augmentation.hflip == 0 or not augmentation.only_flips:
        return None
    return fn.random.coin_flip(probability=augmentation.hflip, **graph.random_op("augment", None)("horizontal"))


@do_not_convert
def augment(
    images: Node,
    augmentation: Augmentation,
    *,
    img_mean: Sequence[float],
    img_std: Sequence[float],
    interpolation: str = "random",
    seed: int | None = None,
) -> Node:
    """Augment each image on its own, with all that timm's settings name.

    Args:
        images: uint8 (H, W, 3), layout HWC, CPU or GPU, one size for the whole batch.
        augmentation: what to do, in the order of its fields but for the color jitter, which comes after ``aa``.
        img_mean, img_std: three values each, for images in [0, 1]: the mean color, with which uncovered areas
            are filled, and the scale of the noise in erased boxes.
        interpolation: of rotations, shears and translations, see :func:`rand_augment`.
        seed: >= 0; must differ between ranks.  None for the pipeline's own seed.

    Returns:
        Like the images; the images themselves where there is nothing to do.

    Raises:
        TypeError, ValueError: when the graph is built, for arguments outside these ranges.

    Source: ``transforms_imagenet_train`` in ``timm/data/transforms_factory.py``, timm 1.0.31.
    Differs from timm: see :func:`rand_augment`, :func:`color_jitter` and :func:`random_erasing`.
    """
    _check_images(images, seed)
    if not isinstance(augmentation, Augmentation):
        raise TypeError(f"augmentation must be a mix.Augmentation, got {augmentation!r}")
    mean, std = checks.check_color("img_mean", img_mean), checks.check_deviation("img_std", img_std)
    warp = _warp_filter(interpolation)
    if augmentation.only_flips and augmentation.hflip == 0:
        return images
    chain = Chain(
        kind="augment",
        seed=seed,
        hflip=augmentation.hflip,
        vflip=augmentation.vflip,
        policy=parse_auto_augment(augmentation.aa) if augmentation.aa else None,
        fill=_levels(mean),
        interpolation=warp,
        jitter=augmentation.jitter,
        jitter_prob=augmentation.color_jitter_prob,
        grayscale=augmentation.grayscale_prob,
        blur=augmentation.gaussian_blur_prob,
        erasing=augmentation.reprob,
        remode=augmentation.remode,
        recount=augmentation.recount,
        mean=mean,
        std=std,
    )
    return _apply(images, chain)


@do_not_convert
def rand_augment(
    images: Node,
    config: str = "rand-m9-mstd0.5-inc1",
    *,
    fill: Sequence[int] = _FILL,
    interpolation: str = "random",
    seed: int | None = None,
) -> Node:
    """Apply RandAugment (Cubuk et al., NeurIPS 2020, arXiv 1909.13719), drawn for each image.

    Args:
        images: uint8 (H, W, 3), layout HWC, CPU or GPU, one size for the whole batch.
        config: one of timm's strings: "rand", and any of the parts mX (magnitude, 10 if not given), nX (operations per
            image, 2), pX (probability of each, 0.5), mstdX (deviation of the magnitude, 0; above 100 the magnitude is
            uniform from 0 on), mmaxX (its limit, 10), inc1 (operations that grow stronger with it), and one of
            tweights, t3a and t3aw (other operations, see docs/augmentation.md).
        fill: red, green and blue in [0, 255] of what a rotation, shear or translation uncovers.
        interpolation: of those: "bilinear", "bicubic", "nearest", or "random" for bilinear or bicubic, drawn for each
            operation.  "lanczos" is taken as "bicubic".
        seed: >= 0; must differ between ranks.  None for the pipeline's own seed.

    Returns:
        Like the images.

    Raises:
        TypeError, ValueError: when the graph is built, for arguments outside these ranges.

    Source: ``rand_augment_transform`` in ``timm/data/auto_augment.py``, timm 1.0.31.
    Differs from timm: posterizing keeps at least one bit, where timm asks Pillow for none at a magnitude of 10, which
    Pillow 13 refuses.  The portable graph always warps bilinearly; docs/augmentation.md lists where else it differs.
    """
    if not isinstance(config, str) or config.split("-")[0] != "rand":
        raise ConfigError(f"config must be one of timm's strings for RandAugment, as 'rand-m9-inc1', got {config!r}")
    return _apply_policy(images, "rand_augment", config, fill, interpolation, seed)


@do_not_convert
def auto_augment(
    images: Node,
    policy: str = "original",
    *,
    fill: Sequence[int] = _FILL,
    interpolation: str = "random",
    seed: int | None = None,
) -> Node:
    """Apply AutoAugment (Cubuk et al., CVPR 2019, arXiv 1805.09501) or 3-Augment, drawn for each image.

    Args:
        images: uint8 (H, W, 3), layout HWC, CPU or GPU, one size for the whole batch.
        policy: "original" (the paper's), "v0" (TensorFlow's), "originalr" and "v0r" (the same, but posterizing grows
            stronger with the magnitude), or "3a" (Touvron et al., ECCV 2022, arXiv 2204.07118); with "-mstdX" behind,
            magnitudes have this standard deviation.
        fill, interpolation, seed: see :func:`rand_augment`.

    Returns:
        Like the images.

    Raises:
        TypeError, ValueError: when the graph is built, for arguments outside these ranges.

    Source: ``auto_augment_transform`` in ``timm/data/auto_augment.py``, timm 1.0.31.
    Differs from timm: as :func:`rand_augment` does.
    """
    if not isinstance(policy, str) or policy.split("-")[0] in ("", "rand"):
        raise ConfigError(f"policy must be the name of one, as 'original' or '3a', got {policy!r}; see rand_augment")
    return _apply_policy(images, "auto_augment", policy, fill, interpolation, seed)


@do_not_convert
def color_jitter(
    images: Node,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.0,
    *,
    prob: float = 1.0,
    seed: int | None = None,
) -> Node:
    """Change the colors of each image at random, as torchvision's ``ColorJitter`` does.

    Args:
        images: uint8 (H, W, 3), layout HWC, CPU or GPU.
        brightness, contrast, saturation: >= 0; each is multiplied by a number drawn uniformly from
            [max(0, 1 - x), 1 + x].
        hue: in [0, 0.5]; it is turned by up to this part of a circle, to either side.
        prob: in [0, 1], the chance that an image is changed at all.
        seed: >= 0; must differ between ranks.  None for the pipeline's own seed.

    Returns:
        Like the images.

    Raises:
        TypeError, ValueError: when the graph is built, for arguments outside these ranges.

    Source: ``torchvision.transforms.ColorJitter``, with timm's default of 0.4.
    Differs from torchvision: in the portable graph the order is fixed, not drawn, and the hue is turned in YIQ, not
    HSV.
    """
    _check_images(images, seed)
    for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
        check_range(name, value, float("inf"))
    check_range("hue", hue, 0.5)
    check_range("prob", prob, 1)
    strength = (brightness, contrast, saturation, hue)
    if not any(strength) or prob == 0:
        return images
    return _apply(images, Chain("color_jitter", seed, jitter=strength, jitter_prob=prob if prob < 1 else None))


@do_not_convert
def random_erasing(
    images: Node,
    prob: float = 0.25,
    *,
    mode: str = "pixel",
    count: int = 1,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    seed: int | None = None,
) -> Node:
    """Fill boxes of an image with noise or color: Random Erasing (Zhong et al., AAAI 2020, arXiv 1708.04896).

    Args:
        images: uint8 (H, W, 3), layout HWC, CPU or GPU, one size for the whole batch.
        prob: in [0, 1], the chance of an image to lose boxes.
        mode: "const" fills with ``mean``, "rand" with one normal color for a box, "pixel" with normal noise.
        count: in 1 .. 16; at most this many boxes, from 1 on with equal chances.  Together they cover 2 % to a third
            of the image; height over width is from 0.3 to 1 / 0.3.
        mean, std: of the fill, three values each, for images in [0, 1].
        seed: >= 0; must differ between ranks.  None for the pipeline's own seed.

    Returns:
        Like the images.

    Raises:
        TypeError, ValueError: when the graph is built, for arguments outside these ranges.

    Source: ``timm/data/random_erasing.py``, timm 1.0.31.
    Differs from timm: timm fills normalized images, which may take any value.  Here images are uint8 and not yet
    normalized, so the fill is 255 (mean + std n), rounded and clipped to [0, 255], where timm's is n.
    """
    _check_images(images, seed)
    check_range("prob", prob, 1)
    check_boxes("mode", mode, "count", count)
    color, deviation = checks.check_color("mean", mean), checks.check_deviation("std", std)
    if prob == 0:
        return images
    chain = Chain("random_erasing", seed, erasing=prob, remode=mode, recount=count)
    return _apply(images, replace(chain, fill=_levels(color), mean=color, std=deviation))


def _apply_policy(
    images: Node, kind: str, text: str, fill: Sequence[int], interpolation: str, seed: int | None
) -> Node:
    _check_images(images, seed)
    policy = parse_auto_augment(text)
    levels = checks.check_levels("fill", fill)
    return _apply(images, Chain(kind, seed, policy=policy, fill=levels, interpolation=_warp_filter(interpolation)))


def _apply(images: Node, chain: Chain) -> Node:
    augmented: Node = implementation_for(images, AUGMENTATION).augment_images(images, chain)
    return augmented


def _check_images(images: object, seed: object) -> None:
    checks.check_node("images", images)
    checks.check_seed("seed", seed)


def _levels(color: Sequence[float]) -> tuple[int, ...]:
    return tuple(round(255 * value) for value in color)


def _warp_filter(interpolation: str) -> str:
    if not isinstance(interpolation, str) or interpolation not in _WARPS:
        raise ConfigError(f"interpolation must be one of {', '.join(_WARPS)}, got {interpolation!r}")
    return _WARPS[interpolation]
