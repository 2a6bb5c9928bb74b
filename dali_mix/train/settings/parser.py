"""The parser of the trainer's command line, made of what the sections say of themselves."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from timm.utils import ParseKwargs

from dali_mix import __version__
from dali_mix.errors import ConfigError
from dali_mix.options import Check, shortened
from dali_mix.terminal import HelpFormatter
from dali_mix.train.settings.sections import Setting, all_settings, sections


class Parser(argparse.ArgumentParser):
    """Raises ConfigError; argparse would print the usage of every flag and leave."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse finds wrong with a flag."""
        raise ConfigError(shortened(message, 1000))


def build_parser(prog: str = "train_imagenet.py") -> Parser:
    """Build the parser of all flags; where timm 1.0.31's ``train.py`` has one, its name, type, default and meaning."""
    parser = Parser(
        prog=prog,
        description="Train an image classifier: DALI decodes, augments and mixes, or the step mixes by the model.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"dali_mix {__version__}",
                        help="Show the version and exit.")  # fmt: skip
    groups: dict[str, argparse._ActionsContainer] = {"": parser}
    titles = {section.name: section.metadata["group"] for section in sections()}
    titles["short_forms"] = titles["methods"]
    for each in all_settings():
        title = titles.get(each.section, "options of methods")
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        try:
            _add(groups[title], each)
        except argparse.ArgumentError as error:  # a "--no-" form
            raise ConfigError(f"the method {each.method} would have a flag that there is already: {error}") from error
    # Neither is a setting: the one says --data-dir, the other nothing.
    groups["data"].add_argument("data", nargs="?", type=Path, metavar="DIR",
                                help="The same as --data-dir (deprecated in timm).")  # fmt: skip
    groups["device and precision"].add_argument("--local_rank", "--local-rank", type=int, default=0,
                                                help="Ignored, as torchrun's environment counts.")  # fmt: skip
    return parser


class _Pairs(argparse.Action):
    """NAME=VALUE ..., to a dict; as timm's ``ParseKwargs``, but with a check of the values."""

    def __init__(self, *args: Any, check: Callable[[str], Any], **options: Any) -> None:
        super().__init__(*args, **options)
        self._check = check

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """See ``argparse.Action``."""
        pairs: dict[str, Any] = {}
        for text in values:
            name, equals, value = text.partition("=")
            if not equals or not name:
                raise argparse.ArgumentError(self, f"{shortened(text)!r} is not {self.metavar}")
            if name in pairs:
                raise argparse.ArgumentError(self, f"{shortened(name)} is given twice")
            try:
                pairs[name] = self._check(value)
            except argparse.ArgumentTypeError as error:
                raise argparse.ArgumentError(self, str(error)) from error
        setattr(namespace, self.dest, pairs)


def _add(group: argparse._ActionsContainer, setting: Setting) -> None:
    name, default, option = setting.flag, setting.default, setting.option
    long = f"--{name.replace('_', '-')}"
    short = [alias for alias in option.aliases if not alias.startswith("--")]
    named = [*short, long, *(alias for alias in option.aliases if alias not in short)]
    common: dict[str, Any] = {"dest": name, "default": default, "help": option.help.replace("%", "%%")}
    if isinstance(default, bool):
        # With a "--no-" form, so that a recipe's switch can be turned off.
        action = argparse.BooleanOptionalAction if option.negatable else "store_true"
        group.add_argument(*named, action=action, **common)
        return
    common |= {"metavar": option.metavar or (None if option.choices else _metavar(option.check))}
    if option.pairs:
        kind: dict[str, Any] = {"action": _Pairs, "check": option.check} if option.check else {"action": ParseKwargs}
        group.add_argument(*named, nargs="*", **kind, **common)
        return
    nargs = len(default) if option.nargs is None and isinstance(default, tuple) else option.nargs
    const = {} if option.const is None else {"const": option.const}
    group.add_argument(*named, type=option.check or str, nargs=nargs, choices=option.choices, **const, **common)


def _metavar(check: Any) -> str | None:
    """The metavar of an option that names none, as those of methods."""
    if not isinstance(check, Check):
        return None
    return "N" if check.kind is int else "F"
