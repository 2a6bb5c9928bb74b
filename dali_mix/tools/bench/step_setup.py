"""What the benchmark of the step trains: the trainer of the command line, eager and compiled, on one set of weights."""

from __future__ import annotations

import argparse
import copy
import dataclasses
from typing import Any

from torch import nn

from dali_mix.errors import ConfigError
from dali_mix.methods import Plain
from dali_mix.methods.attention import adapter_for
from dali_mix.sources.folder import scan_image_folder
from dali_mix.tools.bench.recipe import augmentation_settings, pipelines
from dali_mix.train.data import Data, Loaders
from dali_mix.train.distributed import World
from dali_mix.train.loop import Trainer
from dali_mix.train.model import build_trainer, compile_modules, create_loss, create_model, create_step
from dali_mix.train.settings.sections import Settings
from dali_mix.train.step import TrainStep

MIXUP_ALPHA = 0.8

_MIXED_BY: dict[str, dict[str, Any]] = {
    "plain": {},
    "mixup": {"mixup": MIXUP_ALPHA},
    "half smmix": {"mixup": MIXUP_ALPHA, "smmix": True},
    "smmix": {"smmix": True},
}
"""What is compared, and the trainer's flags for it."""

MIXES = tuple(_MIXED_BY)

_OWN = ("model", "model_kwargs", "img_size", "drop_path", "device", "amp", "amp_dtype", "batch_size", "model_ema",
        "clip_grad", "nonfinite_limit", "data_dir", "workers")  # fmt: skip
"""This benchmark's flags that are the trainer's."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """A model, and what trains it.

    Fields:
        settings: the trainer's.
        num_classes: of the classifier.
        world: the one process.
        config: of the model (timm's ``resolve_input_data_config``).
        trainer: eager, with SMMix if the model can be served.
        unserved: why it cannot; "" if it can.
    """

    settings: Settings
    num_classes: int
    world: World
    config: dict[str, Any]
    trainer: Trainer
    unserved: str


def prepare(args: argparse.Namespace, world: World) -> Setup:
    """The model, the methods and the trainer, all made as the command line makes them.

    Raises:
        ConfigError: for a model that cannot be made, images on which SMMix has no room for a window, or an
            augmentation that does not exist.
    """
    own = augmentation_settings(args) | {name: getattr(args, name) for name in _OWN}
    settings = Settings.of(own | {"opt": "adamw", "lr": 5e-4, "weight_decay": 0.05})
    model, config = create_model(settings.model, args.num_classes, world.device)
    unserved = _unserved(model)
    settings = settings.changed(smmix=not unserved)
    step = create_step(settings, model, args.num_classes, [config["input_size"][1:]])
    trainer, _ = build_trainer(settings, world, step, batches=1000)
    return Setup(settings, args.num_classes, world, config, trainer, unserved)


def _unserved(model: nn.Module) -> str:
    try:
        adapter_for(model)
    except ConfigError as error:
        return str(error)
    return ""


def only_plain(trainer: Trainer, setup: Setup) -> Trainer:
    """The trainer of a run without ``--smmix``, on the same weights and with the same optimizer."""
    step = TrainStep(Plain(trainer.model, setup.num_classes, loss=create_loss(setup.settings.loss)))
    return dataclasses.replace(trainer, step=step)


def compiled(trainer: Trainer, backend: str, mode: str | None) -> Trainer:
    """The trainer with ``--torchcompile``: another step, on the same parameters, buffers and optimizer.

    Raises:
        ConfigError: for a backend or mode that does not exist.
    """
    tensors = [*trainer.step.parameters(), *trainer.step.buffers()]
    step = copy.deepcopy(trainer.step, {id(tensor): tensor for tensor in tensors})
    compile_modules(step, trainer.world.device, backend, mode)
    return dataclasses.replace(trainer, step=step)


def open_loaders(setup: Setup, mixes: list[str]) -> dict[str, Any]:
    """The trainer's own loader of ``--data-dir`` for each of the mixes.

    Raises:
        ConfigError: for a folder that cannot be read, or more classes than the model has.
    """
    data_dir = setup.settings.data.data_dir
    assert data_dir is not None
    folder = scan_image_folder(data_dir)
    if len(folder.classes) > setup.num_classes:
        raise ConfigError(f"{folder.root} has {len(folder.classes)} classes: raise --num-classes")
    data = Data(folder, folder, setup.num_classes, ())
    opened = {}
    for mix in mixes:
        settings = setup.settings.changed(**{"smmix": False} | _MIXED_BY[mix])
        opened[mix] = Loaders(settings, data, setup.config, setup.world, pipelines()).training()
    return opened
