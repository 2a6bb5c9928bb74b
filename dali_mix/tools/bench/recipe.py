"""The augmentation that a benchmark is asked for: a recipe's and the trainer's flags, read by the trainer's parser."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dali_mix.errors import ConfigError
from dali_mix.fn import Augmentation
from dali_mix.options import flag_of, options_of
from dali_mix.train.data import Pipelines, augmentation
from dali_mix.train.pipelines import ready_made
from dali_mix.train.settings import build_parser, load_recipe, recipe_names
from dali_mix.train.settings.choices import shares
from dali_mix.train.settings.files import to_argv
from dali_mix.train.settings.parse import to_settings
from dali_mix.train.settings.sections import Settings, sections

FLAGS = ("recipe", "aa", "reprob", "remode", "recount", "color_jitter")
"""The trainer's, with its names."""

LEVELS = 11
"""The number of magnitudes in timm's strings, 0 to 10; DALI and torchvision have 31 unless told otherwise."""

_OF_ERASING = ("remode", "recount")


@dataclass(frozen=True)
class Recipe:
    """What happens to images, and how they are mixed.

    Fields:
        settings: the trainer's.
        augmentation: of each image.
        choices: as ``random_mix`` takes them.
    """

    settings: Settings
    augmentation: Augmentation
    choices: Mapping[str, float]

    @property
    def rand_augment(self) -> tuple[int, int] | None:
        """Number of operations and magnitude, from 0 to 10, of RandAugment; None for what is another policy."""
        kind, *parts = self.augmentation.aa.split("-")
        if kind != "rand":
            return None
        values = {part[0]: int(part[1:]) for part in parts if part[0] in "mn" and part[1:].isdigit()}
        return values.get("n", 2), min(10, values.get("m", 10))

    @property
    def features(self) -> set[str]:
        """What not every other loader has an equal of, by the flags that ask for it."""
        augmentation, settings = self.augmentation, self.settings
        asked = {
            "--aa 3a": augmentation.aa.startswith("3a"),
            "--aa rand-t...": any(part.startswith("t") for part in augmentation.aa.split("-")),
            "--grayscale-prob": augmentation.grayscale_prob > 0,
            "--gaussian-blur-prob": augmentation.gaussian_blur_prob > 0,
            "--mixup-mode": settings.mixing.mode != "batch",
            "--cutmix-minmax": settings.methods.cutmix_minmax is not None,
        }
        return {name for name, on in asked.items() if on}

    def timm_mixup(self) -> dict[str, Any]:
        """Arguments of timm's ``Mixup`` but for the classes; SMMix's batches stay unmixed, as in the graph."""
        methods, mixing = self.settings.methods, self.settings.mixing
        return {
            "mixup_alpha": methods.mixup,
            "cutmix_alpha": methods.cutmix,
            "cutmix_minmax": methods.cutmix_minmax,
            "prob": sum(share for name, share in self.choices.items() if name != "smmix"),
            "switch_prob": methods.mixup_switch_prob,
            "mode": mixing.mode,
            "label_smoothing": mixing.smoothing,
        }

    def describe(self) -> str:
        """A line that says what was asked for."""
        flags = self.settings.flags()
        chosen = {name: flags[name] for name in ("recipe", "aa", "color_jitter", "reprob")}
        shares = ", ".join(f"{name} {share:g}" for name, share in self.choices.items()) or "nothing"
        if not self.augmentation.jitter:
            del chosen["color_jitter"]
        if not self.augmentation.reprob:
            del chosen["reprob"]
        named = ", ".join(f"{name} {value}" for name, value in chosen.items() if value)
        return f"augmentation: {named or 'flips'}; mixed per batch: {shares}"


_HELP = {"recipe": f"Augmentation and mixing of a published recipe, one of {', '.join(recipe_names())}."}
"""Where the trainer's own help speaks of what is not here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A recipe, and the flags of the trainer that change its augmentation or stand alone."""
    actions = {action.dest: action for action in build_parser()._actions}
    group = parser.add_argument_group("augmentation", "as in the trainer, whose defaults hold for what is not given")
    for name in FLAGS:
        action = actions[name]
        # As text: the trainer's parser reads it, behind the recipe's flags.
        metavar = action.metavar or name.upper()
        group.add_argument(*action.option_strings, dest=name, metavar=metavar, help=_HELP.get(name, action.help))


def is_given(args: argparse.Namespace) -> bool:
    """Whether one of the flags was given."""
    return any(getattr(args, name) is not None for name in FLAGS)


def read_recipe(args: argparse.Namespace, **alone: Any) -> Recipe | None:
    """The trainer's settings with the recipe's flags and then the given ones; None where none was given.

    Args:
        args: with this module's flags.
        alone: the trainer's flags where there is no recipe.

    Raises:
        ConfigError: for an unknown recipe, a value that is not legal, or a flag that would have no effect.
    """
    given = {name: getattr(args, name) for name in FLAGS if getattr(args, name) is not None}
    if not given:
        return None
    parser = build_parser()
    name = given.get("recipe")
    flags = alone if name is None else load_recipe(name)[1]
    argv = [*to_argv(flags, parser, f"recipe {name}"), *to_argv(given, parser, "")]
    settings = to_settings(parser.parse_args(argv))
    pipeline = settings.data.pipeline
    if pipeline != "imagenet":
        raise ConfigError(f"--recipe {name} has --pipeline {pipeline}; only those with imagenet are measured")
    recipe = Recipe(settings, augmentation(settings), shares(settings))
    _check_effect(recipe, given)
    return recipe


def _check_effect(recipe: Recipe, given: Mapping[str, str]) -> None:
    for name in _OF_ERASING:
        if name in given and recipe.augmentation.reprob == 0:
            raise ConfigError(f"--{name} has no effect without --reprob")
    if recipe.augmentation.color_jitter and "color_jitter" in given and not recipe.augmentation.jitter:
        raise ConfigError(f"--color-jitter has no effect beside --aa {recipe.augmentation.aa}")


def augmentation_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The trainer's settings of augmentation and nothing else of a recipe; empty where no flag was given.

    Raises:
        ConfigError: see :func:`read_recipe`.
    """
    recipe = read_recipe(args)
    if recipe is None:
        return {}
    kinds = [section.metadata["kind"] for section in sections() if section.metadata["group"] == "augmentation"]
    names = [flag_of(field) for kind in kinds for field, _ in options_of(kind)]
    values = recipe.settings.flags()
    return {name: values[name] for name in names}


def pipelines() -> Pipelines:
    """What the trainer's ``--pipeline`` chooses from, as far as it is measured.

    Raises:
        ConfigError: if the ready-made pipelines are missing.
    """
    return {"imagenet": ready_made()["imagenet"]}
