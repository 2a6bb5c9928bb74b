"""Loaders that augment as a recipe says and decode with DALI: the trainer's own, and what NVIDIA offers for it."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from nvidia.dali import fn, pipeline_def, types
from nvidia.dali import math as dali_math
from nvidia.dali.auto_aug import auto_augment, rand_augment
from nvidia.dali.data_node import DataNode
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, Mixup

from dali_mix.fn import Augmentation
from dali_mix.tools.bench.dali_loaders import (
    decoded,
    endless,
    nvidia_batches,
    pipeline_options,
    resized,
)
from dali_mix.tools.bench.recipe import LEVELS, pipelines
from dali_mix.tools.bench.setting import Alternative, Batches, Setting, recipe_of
from dali_mix.train.data import Data, Loaders
from dali_mix.train.distributed import World
from dali_mix.train.settings.sections import Settings

_NO_AUGMENTATION: dict[str, Any] = {"vflip": 0.0, "color_jitter": 0.0, "grayscale_prob": 0.0, "gaussian_blur_prob": 0.0}
_NO_AUGMENTATION |= {"aa": None, "reprob": 0.0}
"""The trainer's settings for images that are flipped at most."""

_AREA, _LOG_ASPECT = (0.02, 1 / 3), math.log(1 / 0.3)
"""The range of erased boxes, as timm has it."""


@contextmanager
def _open_trainers(setting: Setting, only_flip: bool = False, half: bool = False) -> Iterator[Batches]:
    """The trainer's own loader, with its pipeline; ``only_flip`` leaves all other augmentation out."""
    settings = _settings(setting, amp=half, **(_NO_AUGMENTATION if only_flip else {}))
    data = Data(setting.folder, setting.folder, setting.num_classes, ())
    mean_std = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    config = {"input_size": (3, setting.img_size, setting.img_size), "crop_pct": 1.0, "interpolation": "bilinear"}
    world = World(0, 1, setting.device)
    with Loaders(settings, data, config | mean_std, world, pipelines()).training() as loader:
        yield ((batch.images, batch.targets) for batch in endless(loader))


def _settings(setting: Setting, **changes: Any) -> Settings:
    """The recipe's, with those of the benchmark."""
    own = {
        "batch_size": setting.batch_size,
        "workers": setting.workers,
        "device": setting.device.type,
        "seed": setting.seed,
        "train_img_sizes": None,
        "on_bad_image": "error",  # what stands in for a bad file would not be what the others read
        **dataclasses.asdict(setting.decoder_settings),
    }
    return recipe_of(setting).settings.changed(**own | changes)


@contextmanager
def _open_nvidia(setting: Setting) -> Iterator[Batches]:
    """NVIDIA's pipeline with its own augmentation, then timm's ``Mixup`` on the device."""
    mixup = Mixup(**recipe_of(setting).timm_mixup(), num_classes=setting.num_classes)
    with warnings.catch_warnings(record=True):
        # DALI's policies call operators by names that DALI 2.4 has deprecated, and it says so past every filter.
        pipeline = _nvidia(setting, **pipeline_options(setting))
    batches = nvidia_batches(pipeline)
    yield (mixup(images, labels) for images, labels in batches)


@pipeline_def(exec_dynamic=True, enable_conditionals=True)  # type: ignore[call-overload]  # missing in DALI's types
def _nvidia(setting):  # type: ignore[no-untyped-def]
    """Make the pipeline of DALI's ``docs/examples/use_cases/pytorch/efficientnet/image_classification/dali.py``."""
    recipe = recipe_of(setting)
    size = setting.img_size
    images, labels = decoded(setting)
    images = resized(images, setting)
    images = _flip(images, recipe.augmentation)
    if recipe.rand_augment is not None:
        number, magnitude = recipe.rand_augment
        images = rand_augment.rand_augment(images, n=number, m=magnitude, num_magnitude_bins=LEVELS, shape=(size, size))
    elif recipe.augmentation.aa:
        images = auto_augment.auto_augment(images, shape=(size, size))
    if recipe.augmentation.jitter:
        images = _jitter(images, recipe.augmentation)
    if recipe.augmentation.reprob > 0:
        images = _erase(images, recipe.augmentation)
    images = fn.crop_mirror_normalize(
        images,
        dtype=types.FLOAT,
        output_layout="CHW",
        crop=(size, size),
        mean=[255 * value for value in IMAGENET_DEFAULT_MEAN],
        std=[255 * value for value in IMAGENET_DEFAULT_STD],
    )
    return images, labels


def _flip(images: DataNode, augmentation: Augmentation) -> DataNode:
    horizontal = fn.random.coin_flip(probability=augmentation.hflip)
    vertical = fn.random.coin_flip(probability=augmentation.vflip) if augmentation.vflip else 0
    return fn.flip(images, horizontal=horizontal, vertical=vertical)


def _jitter(images: DataNode, augmentation: Augmentation) -> DataNode:
    *strengths, hue = augmentation.jitter
    brightness, contrast, saturation = [fn.random.uniform(range=[max(0.0, 1 - x), 1 + x]) for x in strengths]
    turn: dict[str, Any] = {"hue": fn.random.uniform(range=[-360 * hue, 360 * hue])} if hue else {}
    prob = 1.0 if augmentation.color_jitter_prob is None else augmentation.color_jitter_prob
    if prob == 1.0 or fn.random.coin_flip(probability=prob, dtype=types.BOOL):
        images = fn.color_twist(images, brightness=brightness, contrast=contrast, saturation=saturation, **turn)
    return images


def _erase(images: DataNode, augmentation: Augmentation) -> DataNode:
    """One box with the mean color: ``fn.erase`` knows no noise."""
    root = dali_math.exp(fn.random.uniform(range=[-_LOG_ASPECT / 2, _LOG_ASPECT / 2]))
    side = dali_math.sqrt(fn.random.uniform(range=list(_AREA)))
    shape = dali_math.min(fn.stack(side * root, side / root), 1.0)
    anchor = fn.random.uniform(range=[0.0, 1.0], shape=[2]) * (1 - shape)
    if fn.random.coin_flip(probability=augmentation.reprob, dtype=types.BOOL):
        images = fn.erase(
            images,
            anchor=anchor,
            shape=shape,
            axis_names="HW",
            normalized=True,
            fill_value=[round(255 * value) for value in IMAGENET_DEFAULT_MEAN],
        )
    return images


RECIPE_LOADERS: Mapping[str, Alternative] = {
    "flip": Alternative(functools.partial(_open_trainers, only_flip=True), of_recipe=True),
    "recipe": Alternative(_open_trainers, of_recipe=True),
    "recipe_half": Alternative(functools.partial(_open_trainers, half=True), of_recipe=True),
    "nvidia_recipe": Alternative(
        _open_nvidia, of_recipe=True, lacks=("--aa 3a", "--aa rand-t...", "--grayscale-prob", "--gaussian-blur-prob")
    ),
}
