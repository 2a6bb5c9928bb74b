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
from dali_mix.tools.bench.recipe import FLAGS, augmentation_settings, pipelines
from dali_mix.train.data import Data, Loaders
from dali_mix.train.distributed import World
from dali_mix.train.loop import Trainer
from dali_mix.train.model import build_trainer, compile_modules, create_loss, create_model, create_step
from dali_mix.train.settings import build_parser
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

_TRAINER: dict[str, Any] = {"checkpoint": None, "opt": "adamw", "lr": 5e-4, "weight_decay": 0.05, "momentum": 0.9}
_TRAINER |= {"torchcompile": None, "torchcompile_mode": None}  # of its copy only
"""What the trainer's own functions want to know beside this benchmark's flags."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """A model, and what trains it.

    Fields:
        settings: the trainer's, with this benchmark's flags among them.
        world: the one process.
        config: of the model (timm's ``resolve_input_data_config``).
        trainer: eager, with SMMix if the model can be served.
        unserved: why it cannot; "" if it can.
    """

    settings: argparse.Namespace
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
    own = {name: value for name, value in vars(args).items() if name not in FLAGS}
    defaults = vars(build_parser().parse_args([]))
    settings = argparse.Namespace(**(defaults | augmentation_settings(args) | own | _TRAINER))
    model, config = create_model(settings, args.num_classes, world)
    unserved = _unserved(model)
    settings.smmix = not unserved
    step = create_step(settings, model, config, args.num_classes)
    trainer, _ = build_trainer(settings, world, step, batches=1000)
    return Setup(settings, world, config, trainer, unserved)


def _unserved(model: nn.Module) -> str:
    try:
        adapter_for(model)
    except ConfigError as error:
        return str(error)
    return ""


def only_plain(trainer: Trainer, settings: argparse.Namespace) -> Trainer:
    """The trainer of a run without ``--smmix``, on the same weights and with the same optimizer."""
    step = TrainStep(Plain(trainer.model, settings.num_classes, loss=create_loss(settings)))
    return dataclasses.replace(trainer, step=step)


def compiled(trainer: Trainer, settings: argparse.Namespace, backend: str, mode: str | None) -> Trainer:
    """The trainer with ``--torchcompile``: another step, on the same parameters, buffers and optimizer.

    Raises:
        ConfigError: for a backend or mode that does not exist.
    """
    tensors = [*trainer.step.parameters(), *trainer.step.buffers()]
    step = copy.deepcopy(trainer.step, {id(tensor): tensor for tensor in tensors})
    named = vars(settings) | {"torchcompile": backend, "torchcompile_mode": mode}
    compile_modules(argparse.Namespace(**named), step, trainer.world.device)
    return dataclasses.replace(trainer, step=step)


def open_loaders(setup: Setup, mixes: list[str]) -> dict[str, Any]:
    """The trainer's own loader of ``--data-dir`` for each of the mixes.

    Raises:
        ConfigError: for a folder that cannot be read, or more classes than the model has.
    """
    folder = scan_image_folder(setup.settings.data_dir)
    if len(folder.classes) > setup.settings.num_classes:
        raise ConfigError(f"{folder.root} has {len(folder.classes)} classes: raise --num-classes")
    data = Data(folder, folder, setup.settings.num_classes, ())
    unmixed = vars(setup.settings) | {"mixup": 0.0, "smmix": False, "pipeline": "imagenet"}
    opened = {}
    for mix in mixes:
        args = argparse.Namespace(**(unmixed | _MIXED_BY[mix]))
        opened[mix] = Loaders(args, data, setup.config, setup.world, pipelines()).training()
    return opened
