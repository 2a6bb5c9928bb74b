"""The parser of the trainer's command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from dali_mix import __version__
from dali_mix.errors import ConfigError
from dali_mix.terminal import HelpFormatter
from dali_mix.train.settings import model_flags, training_flags
from dali_mix.train.settings.types import shortened


class Parser(argparse.ArgumentParser):
    """Raises ConfigError; argparse would print the usage of every flag and leave."""

    def error(self, message: str) -> NoReturn:
        """What argparse calls for a flag that cannot work."""
        raise ConfigError(shortened(message, 1000))


def build_parser(prog: str = "train_imagenet.py") -> Parser:
    """All flags; where timm 1.0.31's ``train.py`` has one, its name, type, default and meaning."""
    parser = Parser(
        prog=prog,
        description="Train an image classifier: DALI decodes, augments and mixes; SMMix mixes by attention.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"dali_mix {__version__}", help="Show the version and exit.")
    add("-c", "--config", type=Path, metavar="FILE", help="YAML file of flags; the command line overrides it.")
    add(
        "--recipe",
        metavar="NAME",
        help="Published recipe to follow; --config and the command line override it.",
    )
    add(
        "--demo",
        action="store_true",
        help="Make a small data set, and train a small ViT on it with SMMix.",
    )
    model_flags.add_data(parser.add_argument_group("data"))
    model_flags.add_model(parser.add_argument_group("model"))
    model_flags.add_device(parser.add_argument_group("device and precision"))
    model_flags.add_norm_and_ema(parser.add_argument_group("batch norm and moving average"))
    training_flags.add_optimizer(parser.add_argument_group("optimizer"))
    training_flags.add_schedule(parser.add_argument_group("learning rate schedule"))
    training_flags.add_augmentation(parser.add_argument_group("augmentation"))
    training_flags.add_mixing(parser.add_argument_group("mixing and loss"))
    training_flags.add_sizes(parser.add_argument_group("progressive image size"))
    training_flags.add_run(parser.add_argument_group("run"))
    training_flags.add_recovery(parser.add_argument_group("recovery"))
    return parser
