"""Decode and crop: encoded bytes in, uint8 HWC of one size out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

from nvidia.dali import fn, types
from nvidia.dali import math as dali_math
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

from dali_mix.errors import ConfigError
from dali_mix.fn.image.decoder_settings import DecoderSettings
from dali_mix.fn.image.limits import MAX_FILE_BYTES, MAX_IMAGE_PIXELS
from dali_mix.fn.image.memory import max_batch_pixels
from dali_mix.native import operators

INTERPOLATION = {
    "bilinear": types.INTERP_LINEAR,
    "bicubic": types.INTERP_CUBIC,
    "lanczos": types.INTERP_LANCZOS3,
    "nearest": types.INTERP_NN,
}
"""timm's names of resampling filters, in DALI's terms."""

RANDOM = "random"
"""timm's name for a filter drawn for each training image."""

CROP_MODES = ("center", "squash", "border")
"""timm's names of what validation does with images that are not square."""

MAX_ASPECT = 100
"""Longest side over shortest that ``resize_center_crop`` keeps.  A line of 20000 x 1 pixels would become 5 million
pixels wide: four gigabytes, of which the crop uses nothing."""

_DALIS_OWN = DecoderSettings()


def decode_images(jpegs: DataNode, *, decoder: str, decoder_settings: DecoderSettings = _DALIS_OWN) -> DataNode:
    """Decode whole images.

    Args:
        jpegs: uint8 (bytes,), CPU.
        decoder: "mixed" (nvJPEG and the hardware decoder, output on the GPU) or "cpu".
        decoder_settings: of the mixed decoder.

    Returns:
        uint8 (H, W, 3), layout HWC.

    An image of more than ``MAX_IMAGE_PIXELS`` stops the pipeline, here and below, before memory is taken for it; so
    do, with the native operators, a batch whose images would together fill more than half of the memory (see
    ``max_batch_pixels``), and a file of more than ``MAX_FILE_BYTES``.
    """
    # nvJPEG's default chroma upsampling differs from libjpeg-turbo's, which the CPU decoder and PIL use: ask for the
    # same one.  The engine takes whole images with it.
    quality: dict[str, Any] = {"jpeg_fancy_upsampling": True} if decoder == "mixed" else {}
    return fn.decoders.image(
        _limit_size(jpegs, decoder),
        device=decoder,
        # PIL, and so every published ImageNet number, ignores the EXIF orientation.
        adjust_orientation=False,
        name="decoder",
        **quality,
        **decoder_settings.arguments(decoder),
    )


def random_resized_crop(
    jpegs: DataNode,
    img_size: int | DataNode,
    *,
    decoder: str,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: str = "bicubic",
    decoder_settings: DecoderSettings = _DALIS_OWN,
) -> DataNode:
    """Decode a random crop of each image and resize it.

    Args:
        jpegs: uint8 (bytes,), CPU.
        img_size: side of the square output in pixels, or ``scheduled_size``.
        decoder: "mixed" (nvJPEG and the hardware decoder, output on the GPU) or "cpu".
        scale: range of the crop's share of the image area.
        ratio: range of the crop's width over its height.
        interpolation: a key of ``INTERPOLATION``, or "random" for bilinear or bicubic with equal chances, drawn
            for each image; always antialiased, like torchvision on PIL images.
        decoder_settings: of the mixed decoder.

    Returns:
        uint8 (img_size, img_size, 3), layout HWC.

    Differs from torchvision's ``RandomResizedCrop``: same distribution, another random stream; and chroma, on the
    GPU, is upsampled as nvJPEG does by default.
    """
    # No jpeg_fancy_upsampling: with it nvJPEG before 13.2 refuses to decode a region, on the engine and in CUDA alike,
    # and every image falls back to the CPU, at half the speed and with a warning for each.
    images = fn.decoders.image_random_crop(
        _limit_size(jpegs, decoder, share=sum(scale) / 2),
        device=decoder,
        random_area=list(scale),
        random_aspect_ratio=list(ratio),
        adjust_orientation=False,
        name="random_crop_decoder",
        **decoder_settings.arguments(decoder),
    )
    if interpolation == RANDOM:
        interp_type = fn.random.choice([types.INTERP_LINEAR, types.INTERP_CUBIC], name="random_interpolation")
    else:
        interp_type = _filter(interpolation, RANDOM)
    size = img_size if isinstance(img_size, DataNode) else [img_size, img_size]
    return cast(DataNode, fn.resize(images, size=size, interp_type=interp_type, antialias=True))


def resize_center_crop(
    jpegs: DataNode,
    img_size: int,
    *,
    decoder: str,
    crop_pct: float = 0.875,
    crop_mode: str = "center",
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    interpolation: str = "bicubic",
    decoder_settings: DecoderSettings = _DALIS_OWN,
) -> DataNode:
    """Decode, resize the shorter side to ``floor(img_size / crop_pct)``, crop the center.

    Sizes and offsets follow torchvision to the pixel: it floors the longer side and rounds a half
    offset to the even pixel, where DALI's ``resize_shorter`` and ``crop`` do neither.

    Args:
        jpegs: uint8 (bytes,), CPU.
        img_size: side of the square output in pixels.
        decoder: "mixed" or "cpu".
        crop_pct: in (0, 1], as in timm.
        crop_mode: of ``CROP_MODES``: timm's "center"; "squash", which resizes both sides, without regard to the
            aspect ratio; or "border", which resizes the longer side and fills what is left with the mean.
        mean: color of the border, in [0, 1].
        interpolation: a key of ``INTERPOLATION``.
        decoder_settings: of the mixed decoder.

    Returns:
        uint8 (img_size, img_size, 3), layout HWC.

    Raises:
        ConfigError: for a mode or filter that is not available.

    Source: timm 1.0.31 ``transforms_imagenet_eval``.

    Differs from torchvision: images longer than ``MAX_ASPECT`` times their shorter side are squeezed to that.
    """
    if crop_mode not in CROP_MODES:
        raise ConfigError(f"crop_mode must be one of {', '.join(CROP_MODES)}, got {crop_mode!r}")
    images = decode_images(jpegs, decoder=decoder, decoder_settings=decoder_settings)
    resized = _resized(images.shape(dtype=types.INT32)[:2], math.floor(img_size / crop_pct), crop_mode)
    size = fn.cast(resized, dtype=types.FLOAT)  # the only type that resize takes
    images = cast(DataNode, fn.resize(images, size=size, interp_type=_filter(interpolation), antialias=True))
    margin = resized - img_size
    half = margin // 2
    offset = half + (margin - 2 * half) * (half - 2 * (half // 2))
    border: dict[str, Any] = {}
    if crop_mode == "border":
        border = {"out_of_bounds_policy": "pad", "fill_values": [float(round(255 * value)) for value in mean]}
        missing = dali_math.max(-margin, 0)  # cut off at 0: what is padded is halved downwards, not to the even
        offset = dali_math.max(offset, 0) - missing // 2
    return fn.slice(images, start=offset, shape=[img_size, img_size], axes=[0, 1], **border)


def _resized(height_width: DataNode, target: int, crop_mode: str) -> DataNode:
    """Height and width after the resize of a crop mode; int32 (2,)."""
    if crop_mode == "squash":
        return height_width * 0 + target
    if crop_mode == "border":
        longer = fn.reductions.max(height_width)
        floor = height_width * target // longer
        rest = 2 * (height_width * target - floor * longer)
        # Python's round: a half goes to the even number.
        return dali_math.max(floor + (rest > longer) + (rest == longer) * (floor - 2 * (floor // 2)), 1)
    return dali_math.min(height_width * target // fn.reductions.min(height_width), MAX_ASPECT * target)


def _limit_size(jpegs: DataNode, decoder: str, share: float = 1.0) -> DataNode:
    """The same bytes; fails where they are too many, or stand for too many pixels.

    Args:
        jpegs: uint8 (bytes,), CPU.
        decoder: "mixed" or "cpu".
        share: of each image's area that is decoded on average.

    DALI allocates what a header claims, up to 8 GB an image, and does not read DALI_MAX_IMAGE_SIZE; and it decodes a
    whole batch before the next operator makes the images small.
    """
    shape = fn.peek_image_shape(jpegs, adjust_orientation=False, dtype=types.INT64, name="peeked_shape")
    native = operators()
    if native is not None:
        device_id = Pipeline.current().device_id if decoder == "mixed" else None
        return native.limit_size(
            jpegs,
            shape,
            max_pixels=MAX_IMAGE_PIXELS,
            max_batch_pixels=max_batch_pixels(device_id, share),
            max_bytes=MAX_FILE_BYTES,
            name="size_limit",
        )
    # No graph operator sees a batch as a whole.  Nor is there an assertion, but a reshape to another number of bytes
    # is an error, and one to the same number costs no copy.
    too_large = shape[0:1] * shape[1] > MAX_IMAGE_PIXELS
    # -1 stands for the length as it is, 0 for none.  Written out, the length would take two operators more, and each
    # costs up to a millisecond per 256 images; ``rel_shape`` is float32, and refuses files of more than 16 MiB.
    return fn.reshape(jpegs, shape=too_large - 1, name="size_limit")


def _filter(interpolation: str, *others: str) -> types.DALIInterpType:
    if interpolation not in INTERPOLATION:
        raise ConfigError(f"interpolation must be one of {', '.join((*INTERPOLATION, *others))}, got {interpolation!r}")
    return INTERPOLATION[interpolation]
