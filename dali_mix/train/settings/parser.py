"""The parser of the trainer's command line, made of what the sections say of themselves."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any, NoReturn

from timm.utils import ParseKwargs

from dali_mix import __version__
from dali_mix.errors import ConfigError
from dali_mix.options import Option, flag_default_of, flag_of, options_of, shortened
from dali_mix.terminal import HelpFormatter
from dali_mix.train.settings.sections import sections


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
    parser.add_argument("--version", action="version", version=f"dali_mix {__version__}",
                        help="Show the version and exit.")  # fmt: skip
    groups: dict[str, argparse._ActionsContainer] = {"": parser}
    for section in sections():
        title = section.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        add_section(groups[title], section.metadata["kind"])
    # Neither is a setting: the one says --data-dir, the other nothing.
    groups["data"].add_argument("data", nargs="?", type=Path, metavar="DIR",
                                help="The same as --data-dir (deprecated in timm).")  # fmt: skip
    groups["device and precision"].add_argument("--local_rank", "--local-rank", type=int, default=0,
                                                help="Ignored, as torchrun's environment counts.")  # fmt: skip
    return parser


def add_section(group: argparse._ActionsContainer, section: type) -> None:
    """The flags of a section."""
    for field, own in options_of(section):
        _add(group, field, own)


def _add(group: argparse._ActionsContainer, field: dataclasses.Field[Any], own: Option) -> None:
    name, default = flag_of(field), flag_default_of(field)
    long = f"--{name.replace('_', '-')}"
    short = [alias for alias in own.aliases if not alias.startswith("--")]
    named = [*short, long, *(alias for alias in own.aliases if alias not in short)]
    common: dict[str, Any] = {"dest": name, "default": default, "help": own.help}
    if isinstance(default, bool):
        # With a "--no-" form, so that a recipe's switch can be turned off.
        group.add_argument(*named, action=argparse.BooleanOptionalAction if own.negatable else "store_true", **common)
        return
    common |= {"metavar": own.metavar}
    if own.pairs:
        group.add_argument(*named, nargs="*", action=ParseKwargs, **common)
        return
    const = {} if own.const is None else {"const": own.const}
    group.add_argument(*named, type=own.check or str, nargs=own.nargs, choices=own.choices, **const, **common)
