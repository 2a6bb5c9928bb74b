"""CIFAR pipelines: the CutMix paper's recipe on 32 px images.

Training: pad by 4 px, random crop, flip, CutMix for half of the batches, normalize.

    from dali_mix import MixLoader
    from pipelines.cifar import cifar_train

    loader = MixLoader(cifar_train("cifar10/train", batch_size=64))

Source: CutMix (Yun 2019), section 4.1, and clovaai/CutMix-PyTorch ``train.py`` (``--cutmix_prob 0.5``, alpha 1).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali import math as dali_math
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from dali_mix import fn as mix
from dali_mix.data import (
    Mixing,
    Output,
    Reading,
    batch_outputs,
    decode_images,
    normalization,
    read_images,
    select_backend,
)
from dali_mix.errors import ConfigError
from dali_mix.sources import Source, open_source

MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)
"""The statistics of the training images, as clovaai's code has them."""

_MIXING, _OUTPUT, _READING = Mixing(smoothing=0.0), Output(mean=MEAN, std=STD), Reading()
_LOOKED_AT = 16
"""Files whose headers are read before anything is made; the graph itself refuses the others."""


def cifar_train(
    data: Source | str | Path,
    *,
    batch_size: int,
    img_size: int = 32,
    padding: int = 4,
    choices: Mapping[Any, float] = MappingProxyType({"cutmix": 0.5}),
    mixing: Mixing = _MIXING,
    output: Output = _OUTPUT,
    reading: Reading = _READING,
    device: str = "gpu",
    num_threads: int = 4,
    seed: int = 42,
) -> Pipeline:
    """The training pipeline of one rank, for :class:`dali_mix.MixLoader` with ``last_batch="drop"``.

    Args:
        img_size: side of the images in the files, and of the output, in pixels.
        padding: black border, in pixels, from which the random crop is taken.
        others: see ``pipelines.imagenet``.

    Returns:
        A pipeline, not yet built, with the same outputs as ``imagenet_train``.

    Raises:
        ConfigError: if the files' images are of another size.
    """
    source = data if isinstance(data, Source) else open_source(data)
    _check_size(source, img_size)
    backend = select_backend(device, reading.device_id)
    return _train_graph(
        partial(read_images, source, training=True, **reading.shard(), shuffle_seed=reading.branch_seed),
        decoding={"decoder": backend.decoder, "decoder_settings": reading.decoder_settings},
        img_size=img_size,
        padding=padding,
        mixing=mixing.arguments()
        | {"num_classes": len(source.classes), "choices": choices, "branch_seed": reading.branch_seed},
        output=output,
        batch_size=batch_size,
        num_threads=num_threads,
        device_id=backend.device_id,
        prefetch_queue_depth=reading.prefetch_queue_depth,
        seed=seed + reading.shard_id,
        enable_checkpointing=True,
    )


def cifar_val(
    data: Source | str | Path,
    *,
    batch_size: int,
    img_size: int | None = None,
    output: Output = _OUTPUT,
    reading: Reading = _READING,
    device: str = "gpu",
    num_threads: int = 4,
) -> Pipeline:
    """The validation pipeline of one rank, for :class:`dali_mix.MixLoader` with ``last_batch="partial"``.

    Args:
        img_size: side of the images in the files in pixels; None takes any size that they share.
        others: see ``pipelines.imagenet``.

    Raises:
        ConfigError: if the files' images are of another size.
    """
    source = data if isinstance(data, Source) else open_source(data)
    if img_size is not None:
        _check_size(source, img_size)
    backend = select_backend(device, reading.device_id)
    return _val_graph(
        partial(read_images, source, training=False, **reading.shard()),
        decoding={"decoder": backend.decoder, "decoder_settings": reading.decoder_settings},
        img_size=img_size,
        num_classes=len(source.classes),
        output=output,
        batch_size=batch_size,
        num_threads=num_threads,
        device_id=backend.device_id,
        prefetch_queue_depth=reading.prefetch_queue_depth,
        seed=0,
        enable_checkpointing=True,
    )


@pipeline_def
def _train_graph(source, decoding, img_size, padding, mixing, output):
    jpegs, labels = source()
    images = _padded_crop(decode_images(images_must_have_img_size(jpegs, img_size), **decoding), img_size, padding)
    leaving: dict[str, Any] = {
        "mirror": fn.random.coin_flip(name="hflip"),
        "normalization": normalization(**output.arguments()),
    }
    return batch_outputs(mix.random_mix(images, labels, **mixing, image_size=img_size, **leaving))


@pipeline_def
def _val_graph(source, decoding, img_size, num_classes, output):
    jpegs, labels = source()
    images = decode_images(jpegs if img_size is None else images_must_have_img_size(jpegs, img_size), **decoding)
    mixing: dict[str, Any] = {"num_classes": num_classes, "choices": {}}
    return batch_outputs(mix.random_mix(images, labels, **mixing, normalization=normalization(**output.arguments())))


def _check_size(images: Source, img_size: int) -> None:
    """Refuse files of another size, which would be padded or cut, before anything is made of them."""
    for index in np.unique(np.linspace(0, len(images) - 1, _LOOKED_AT).astype(int)).tolist():
        try:
            (found,) = images.read([index])
            with Image.open(found if isinstance(found, str) else io.BytesIO(bytes(found))) as image:
                width, height = image.size
        except Exception:  # a bad file is replaced while the pipeline runs; sources and PIL raise nearly anything
            continue
        if (width, height) != (img_size, img_size):
            hint = f"--img-size {width} (img_size={width})" if width == height else "square images of one size"
            raise ConfigError(
                f"{images.describe(index)!r} has {width} x {height} pixels, not the {img_size} x {img_size} that are "
                f"wanted, and this pipeline does not resize: give {hint}, or --pipeline imagenet"
            )


def images_must_have_img_size(jpegs: DataNode, img_size: int) -> DataNode:
    """The same bytes; stops the pipeline at an image of another size.

    A graph has no assertion, but a reshape to another length is an error.
    """
    shape = fn.peek_image_shape(jpegs, adjust_orientation=False, dtype=types.INT32, name="peeked_size")
    # -1 stands for the length as it is; a rest of another length than 0 is an error.
    fits = (shape[0:1] == img_size) & (shape[1] == img_size)
    return fn.reshape(jpegs, shape=-fn.cast(fits, dtype=types.INT32), name="one_image_size")


def _padded_crop(images: DataNode, img_size: int, padding: int) -> DataNode:
    """torchvision's ``RandomCrop(img_size, padding=padding)``: every offset in -padding..padding alike."""
    draw = fn.random.uniform(range=[0.0, 1.0], shape=[2], name="crop_offset")
    start = dali_math.floor(draw * (2 * padding + 1)) - padding
    return fn.slice(
        images, start=fn.cast(start, dtype=types.INT32), shape=[img_size, img_size], axes=[0, 1],
        out_of_bounds_policy="pad", fill_values=0,
    )  # fmt: skip
