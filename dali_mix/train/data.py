"""The images of a run and the loaders that read them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch

from dali_mix.errors import ConfigError
from dali_mix.fn import Augmentation
from dali_mix.fn.image.decoder_settings import DecoderSettings
from dali_mix.fn.image.settings import Crop
from dali_mix.fn.sections import Mixing, Output, Reading
from dali_mix.loading.loader import Batch
from dali_mix.loading.recovery import TolerantLoader
from dali_mix.options import flags_of
from dali_mix.sources import Source
from dali_mix.sources.listing import is_folder
from dali_mix.sources.synthetic import write_synthetic_folder
from dali_mix.train.bad_files import BadFiles
from dali_mix.train.distributed import World
from dali_mix.train.settings.choices import choices
from dali_mix.train.settings.sections import Methods, Settings
from dali_mix.train.sizes import SizeSchedule
from dali_mix.train.splits import open_splits

PipelineFactory: TypeAlias = Callable[..., Any]  # a DALI Pipeline, which has no types
Pipelines: TypeAlias = Mapping[str, tuple[PipelineFactory, PipelineFactory]]
"""Name for ``--pipeline`` to what makes the training and the validation pipeline."""


@dataclass(frozen=True)
class Data:
    """The images of a run.

    Fields:
        train: None where only validation is wanted.
        val: for validation.
        num_classes: of both.
        listed: both as they were listed, with the files that are excluded.
    """

    train: Source | None
    val: Source
    num_classes: int
    listed: tuple[Source, ...]


def open_data(settings: Settings, world: World) -> Data:
    """List the images and check the class count."""
    data_dir = _write_demo_data(settings.run.output, world) if settings.entry.demo else settings.data.data_dir
    if data_dir is None or not is_folder(data_dir):
        raise ConfigError(f"--data-dir {data_dir} does not exist; give a folder with train/ and val/")
    train, val, listed = open_splits(settings.data, data_dir, settings.run.eval_only)
    found = len(val.classes)
    if settings.data.num_classes is not None and settings.data.num_classes != found:
        source = (train or val).name
        raise ConfigError(
            f"--num-classes {settings.data.num_classes} contradicts the {found} class folders in {source}; leave the "
            f"flag out, or point --data-dir at the right data"
        )
    return Data(train, val, found, listed)


def _write_demo_data(output: Path, world: World) -> Path:
    folder = output / "demo-data"
    if world.is_main:
        try:
            write_synthetic_folder(folder)
        except OSError as error:
            raise ConfigError(f"--output {output} cannot be written: {error.strerror}") from error
    world.wait()
    return folder


@dataclass(frozen=True)
class IdleLoader:
    """The validation loader of a rank for which no image is left."""

    num_samples: int
    batch_size: int

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[Batch]:
        return iter(())

    def close(self) -> None:
        """Do nothing, as there is nothing to release."""


class Loaders:
    """Makes the loaders of this rank.

    Args:
        settings: of the run.
        data: from :func:`open_data`.
        config: of the model (timm's ``resolve_input_data_config``).
        world: this rank.
        pipelines: what ``--pipeline`` chooses from.

    Fields:
        backend: that DALI runs on, "gpu" or "cpu".
        bad_files: what the loaders could not use.
    """

    def __init__(
        self, settings: Settings, data: Data, config: dict[str, Any], world: World, pipelines: Pipelines
    ) -> None:
        if settings.data.pipeline not in pipelines:
            raise ConfigError(f"--pipeline {settings.data.pipeline} is unknown; there are {', '.join(pipelines)}")
        self._settings, self._data, self._world = settings, data, world
        self._build_train, self._build_val = pipelines[settings.data.pipeline]
        on_gpu = (settings.reading.dali_device or ("cpu" if settings.device.device == "cpu" else "gpu")) == "gpu"
        self._common: dict[str, Any] = {
            "img_size": square_side(config),
            "num_classes": data.num_classes,
            # Autocast takes half images as they are.  For bfloat16 too: DALI has no such type, and float16 is finer for
            # values of this size, so what the first layer rounds is what it would have rounded anyway.
            "output": Output(mean=config["mean"], std=config["std"], half=settings.precision.amp),
            "reading": Reading(
                shard_id=world.rank,
                num_shards=world.size,
                device_id=world.device.index or 0,
                prefetch_queue_depth=settings.reading.dali_prefetch,
                decoder_settings=self._settings.decoder,
            ),
            # Without an explicit choice the pipeline looks for a GPU itself, and says if there is none.
            "device": "gpu" if on_gpu else "cpu",
            "num_threads": settings.reading.workers,
        }
        self._config = config
        self.backend = "gpu" if on_gpu and torch.cuda.is_available() else "cpu"
        self.sizes = SizeSchedule.of(settings.sizes, settings.schedule.epochs, settings.run.seed)
        self.bad_files = BadFiles(settings.recovery.on_bad_image, settings.recovery.max_bad_fraction)

    @property
    def augments(self) -> bool:
        """Whether more is done to training images, once they are cropped, than to flip them left to right."""
        taken = "augmentation" in inspect.signature(self._build_train).parameters
        return taken and not augmentation(self._settings).only_flips

    def validation(self) -> TolerantLoader | IdleLoader:
        """Open a loader of every validation image once, over all ranks."""
        source = self._data.val
        settings = self._common | {
            "batch_size": self._settings.reading.validation_batch_size or self._settings.reading.batch_size,
            "crop_pct": self._config["crop_pct"],
            "crop_mode": self._config["crop_mode"],
            "interpolation": self._config["interpolation"],
        }
        shards = min(self._world.size, len(source))
        # DALI takes memory for a whole batch.
        settings["batch_size"] = min(settings["batch_size"], math.ceil(len(source) / shards))
        if self._world.rank >= len(source):
            return IdleLoader(len(source), settings["batch_size"])
        settings["reading"] = replace(settings["reading"], num_shards=shards)
        build = partial(self._build_val, **_known(self._build_val, settings))
        report = self.bad_files.reporter(source)
        return TolerantLoader(build, source, "partial", stand_in="left_out", on_bad_image=report)

    def training(self, mixing: bool = True, epoch: int = 0) -> TolerantLoader:
        """Open a loader of shuffled, augmented and, with ``mixing``, mixed batches, from an epoch of the run on.

        A state that is loaded into the loader has the last word on the epoch.

        Raises:
            ConfigError: if there are fewer images than one batch.
        """
        settings, crop = self._settings, self._settings.crop
        if crop.no_aug:
            crop = replace(crop, interpolation=self._config["interpolation"])
        arguments = self._common | {
            "batch_size": settings.reading.batch_size,
            "choices": choices(settings) if mixing else {},
            "mixing": settings.mixing,
            "crop": crop,
            "augmentation": augmentation(settings),
            "reading": replace(self._common["reading"], branch_seed=settings.run.seed),
            "seed": settings.run.seed,
        }
        if self.sizes is not None:
            arguments["img_size"] = self.sizes
        self._refuse_lost_flags()
        source = self._data.train
        assert source is not None
        build = partial(self._build_train, **_known(self._build_train, arguments))
        report = self.bad_files.reporter(source)
        # The trainer knows how much of an epoch is left, and asks for that.
        loader = TolerantLoader(build, source, on_bad_image=report, after_break="rest")
        loader.begin_at(epoch)  # builds the pipeline, and refuses a data set smaller than one batch
        return loader

    def _refuse_lost_flags(self) -> None:
        """A flag was changed that a pipeline has no parameter for."""
        flags, defaults = self._settings.flags(), Settings.of().flags()
        for build, through in ((self._build_train, _THROUGH_TRAINING), (self._build_val, _THROUGH_VALIDATION)):
            for parameter in through.keys() - inspect.signature(build).parameters:
                for name in through[parameter]:
                    if flags[name] != defaults[name]:
                        flag = name.replace("_", "-")
                        raise ConfigError(
                            f"--{flag} has no effect with --pipeline {self._settings.data.pipeline}: "
                            f"{build.__name__} has no parameter {parameter!r}"
                        )


def _known(build: PipelineFactory, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that a pipeline has parameters for."""
    return {name: value for name, value in settings.items() if name in inspect.signature(build).parameters}


_READ = {
    "reading": ("dali_prefetch", *flags_of(DecoderSettings)),
    "output": ("mean", "std"),
    "num_threads": ("workers",),
}
_THROUGH_TRAINING = _READ | {
    "crop": (*flags_of(Crop), "train_img_sizes"),
    "augmentation": flags_of(Augmentation),
    "mixing": flags_of(Mixing),
    "choices": flags_of(Methods),
}
_THROUGH_VALIDATION = _READ | {"crop_pct": ("crop_pct",), "interpolation": ("interpolation",)}
"""Parameter of a pipeline to the settings that go through it."""


def augmentation(settings: Settings) -> Augmentation:
    """Return what happens to each training image."""
    return Augmentation(hflip=0.0) if settings.crop.no_aug else settings.augmentation


def square_side(config: dict[str, Any]) -> int:
    """Return the side of the model's images in pixels."""
    _, height, width = config["input_size"]
    if height != width:
        raise ConfigError(f"the pipeline makes square images, but the model wants {height} x {width} pixels")
    if config["crop_pct"] > 1:
        raise ConfigError(f"the model's crop_pct is {config['crop_pct']}; choose one in (0, 1] with --crop-pct")
    return int(height)
