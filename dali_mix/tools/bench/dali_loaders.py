"""Loaders that decode with DALI: those of dali_mix, NVIDIA's documented pipeline, and decoding alone."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.base_iterator import LastBatchPolicy
from nvidia.dali.plugin.pytorch import DALIClassificationIterator
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, Mixup

from dali_mix import fn as mix
from dali_mix.fn.image.decode import random_resized_crop
from dali_mix.fn.outputs import batch_outputs, normalization
from dali_mix.loading.loader import MixLoader
from dali_mix.sources.reading import read_images
from dali_mix.tools.bench.setting import CUTMIX_ALPHA, MIXUP_ALPHA, SMOOTHING, Alternative, Batches, Setting

_READER = "Reader"
_INTERPOLATION = {"bilinear": types.INTERP_TRIANGULAR, "bicubic": types.INTERP_CUBIC}
"""NVIDIA's pipeline has the first: antialiased, as all alternatives are."""


def pipeline_options(setting: Setting) -> dict[str, Any]:
    """Arguments of every pipeline."""
    return {
        "batch_size": setting.batch_size,
        "num_threads": setting.workers,
        "device_id": setting.backend.device_id,
        "seed": setting.seed,
    }


@contextmanager
def _open_mixed(choices: Mapping[str, float], setting: Setting, half: bool = False) -> Iterator[Batches]:
    """Ours.  ``choices`` as ``random_mix`` takes them; ``half`` as the trainer sets it with ``--amp``."""
    with MixLoader(_mixed(choices, half, setting, **pipeline_options(setting))) as loader:
        yield ((batch.images, batch.targets) for batch in endless(loader))


@pipeline_def
def _mixed(choices, half, setting):  # type: ignore[no-untyped-def]
    """Open the pipeline as ``pipelines.imagenet`` makes it."""
    jpegs, labels = read_images(setting.folder, training=True)
    images = random_resized_crop(
        jpegs,
        setting.img_size,
        decoder=setting.backend.decoder,
        interpolation=setting.interpolation,
        decoder_settings=setting.decoder_settings,
    )
    mirror = fn.random.coin_flip()
    leaving = normalization(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, half=half)
    mixed = mix.random_mix(
        images,
        labels,
        num_classes=setting.num_classes,
        choices=choices,
        smoothing=SMOOTHING,
        cutmix_alpha=CUTMIX_ALPHA,
        mixup_alpha=MIXUP_ALPHA,
        mirror=mirror,
        image_size=setting.img_size,
        normalization=leaving,
    )
    return batch_outputs(mixed)


@contextmanager
def _open_nvidia(setting: Setting) -> Iterator[Batches]:
    """The training pipeline of DALI's ``docs/examples/use_cases/pytorch/resnet50/main.py``, iterated as there."""
    yield nvidia_batches(_nvidia(setting, **pipeline_options(setting)))


def nvidia_batches(pipeline: Pipeline) -> Batches:
    """Images and labels of a pipeline that reads with :func:`decoded`, epoch after epoch."""
    loader = DALIClassificationIterator(
        pipeline, reader_name=_READER, last_batch_policy=LastBatchPolicy.PARTIAL, auto_reset=True
    )
    return ((outputs[0]["data"], outputs[0]["label"].squeeze(-1).long()) for outputs in endless(loader))


@contextmanager
def _open_nvidia_mixup(setting: Setting) -> Iterator[Batches]:
    """The same, then timm's ``Mixup`` on the device, as timm's ``train.py`` calls it without its prefetcher."""
    mixup = Mixup(MIXUP_ALPHA, CUTMIX_ALPHA, label_smoothing=SMOOTHING, num_classes=setting.num_classes)
    with _open_nvidia(setting) as batches:
        yield (mixup(images, labels) for images, labels in batches)


@pipeline_def(exec_dynamic=True)  # type: ignore[call-overload]  # missing in DALI's types
def _nvidia(setting):  # type: ignore[no-untyped-def]
    images, labels = decoded(setting)
    images = fn.crop_mirror_normalize(
        resized(images, setting),
        dtype=types.FLOAT,
        output_layout="CHW",
        crop=(setting.img_size, setting.img_size),
        mean=[255 * value for value in IMAGENET_DEFAULT_MEAN],
        std=[255 * value for value in IMAGENET_DEFAULT_STD],
        mirror=fn.random.coin_flip(probability=0.5),
    )
    return images, labels


def decoded(setting: Setting) -> tuple[DataNode, DataNode]:
    """NVIDIA's reader and decoder: random crops, uint8 (h, w, 3), and labels, both on the setting's device."""
    on_gpu = setting.backend.decoder == "mixed"
    jpegs, labels = fn.readers.file(
        files=list(setting.folder.files),
        labels=setting.folder.labels.tolist(),
        random_shuffle=True,
        pad_last_batch=True,
        name=_READER,
    )
    images = fn.decoders.image_random_crop(
        jpegs,
        device=setting.backend.decoder,
        output_type=types.RGB,
        preallocate_width_hint=5980 if on_gpu else 0,
        preallocate_height_hint=6430 if on_gpu else 0,
        random_aspect_ratio=[0.8, 1.25],
        random_area=[0.1, 1.0],
        num_attempts=100,
        **setting.decoder_settings.arguments(setting.backend.decoder),
    )
    return images, labels.gpu() if on_gpu else labels


def resized(images: DataNode, setting: Setting) -> DataNode:
    """The images in the setting's size, as NVIDIA's pipelines have it."""
    size = setting.img_size
    interp_type = _INTERPOLATION[setting.interpolation]
    return cast(DataNode, fn.resize(images, resize_x=size, resize_y=size, interp_type=interp_type))


@pipeline_def
def _decode_only(setting):  # type: ignore[no-untyped-def]
    return decoded(setting)


@pipeline_def
def _decode_and_resize(setting):  # type: ignore[no-untyped-def]
    images, labels = decoded(setting)
    return resized(images, setting), labels


@contextmanager
def _open_crops(graph: Callable[..., Pipeline], setting: Setting) -> Iterator[Batches]:
    """Reading and decoding alone: no alternative that decodes so can be faster.

    The images differ in size, so that a batch is a list of tensors, which own DALI's buffers.
    """
    pipeline = graph(setting, **pipeline_options(setting))
    pipeline.build()

    def batches() -> Batches:
        while True:
            images: Any
            images, labels = pipeline.run()
            yield [torch.from_dlpack(image) for image in images], _labels(labels)

    yield batches()


@contextmanager
def _open_images(graph: Callable[..., Pipeline], setting: Setting) -> Iterator[Batches]:
    """The same for images of one size: a batch is one tensor (B, H, W, 3)."""
    pipeline = graph(setting, **pipeline_options(setting))
    pipeline.build()

    def batches() -> Batches:
        while True:
            images, labels = pipeline.run()
            yield torch.from_dlpack(images.as_tensor()), _labels(labels)

    yield batches()


def _labels(labels: Any) -> torch.Tensor:
    return torch.from_dlpack(labels.as_tensor()).flatten().long()


def endless(loader: Any) -> Iterator[Any]:
    """Epoch after epoch; each ``for`` loop over a loader is one."""
    return itertools.chain.from_iterable(itertools.repeat(loader))


DALI_LOADERS: Mapping[str, Alternative] = {
    "none": Alternative(functools.partial(_open_mixed, {})),
    "cutmix": Alternative(functools.partial(_open_mixed, {"cutmix": 1.0})),
    "mixup": Alternative(functools.partial(_open_mixed, {"mixup": 1.0})),
    "random_mix": Alternative(functools.partial(_open_mixed, {"cutmix": 0.5, "mixup": 0.5})),
    "none_half": Alternative(functools.partial(_open_mixed, {}, half=True)),
    "random_mix_half": Alternative(functools.partial(_open_mixed, {"cutmix": 0.5, "mixup": 0.5}, half=True)),
    "nvidia": Alternative(_open_nvidia),
    "nvidia_mixup": Alternative(_open_nvidia_mixup),
    "decode": Alternative(functools.partial(_open_crops, _decode_only)),
    "decode_resize": Alternative(functools.partial(_open_images, _decode_and_resize)),
}
