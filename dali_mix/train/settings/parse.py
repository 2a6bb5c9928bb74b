"""Turns the command line into checked settings."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dali_mix.errors import ConfigError
from dali_mix.options import shortened
from dali_mix.text import show
from dali_mix.train.settings.checks import check
from dali_mix.train.settings.files import read_config, to_argv
from dali_mix.train.settings.imports import import_files
from dali_mix.train.settings.parser import Parser, build_parser
from dali_mix.train.settings.recipes import load_recipe
from dali_mix.train.settings.refused import refused_among
from dali_mix.train.settings.sections import Settings, all_settings


def parse_args(argv: Sequence[str] | None = None, prog: str = "train_imagenet.py") -> Settings:
    """Parse and check the command line; an error leaves with one line and exit code 2.

    A recipe comes first, then the lines of ``--config``, then the command line: the later wins.
    ``--demo`` is the recipe "demo" on data made on the spot.
    """
    tokens = list(sys.argv[1:] if argv is None else argv)
    parser = Parser(prog=prog, add_help=False, allow_abbrev=False)
    try:
        imported = _import_first(parser, tokens)
        parser = build_parser(prog)
        for flag, reason in refused_among(tokens):
            raise ConfigError(f"{flag} is not supported: {reason}")
        for token in tokens:
            if token.endswith("=--"):  # which argparse makes an empty list of
                raise ConfigError(f"{token[:-3]} takes a value, got --")
        args = _parse(parser, tokens)
        args = _parse(parser, [*_from_files(args, parser), *tokens])
        setattr(args, "import", [Path(file) for file in imported])
        settings = to_settings(args)
        check(settings)
    except ConfigError as error:
        parser.exit(2, show(f"{parser.prog}: error: {shortened(str(error), 1000)} (see --help)") + "\n")
    return settings


def _import_first(parser: Parser, tokens: list[str]) -> list[str]:
    """Run the files of all ``--import``, whose methods have flags that the whole parser then knows; returns them."""
    parser.add_argument("--import", dest="imports", nargs="+", action="extend", default=[])
    parser.add_argument("-c", "--config", type=Path)
    args, _ = parser.parse_known_args(tokens)
    files = args.imports
    if args.config and not files:
        written = read_config(args.config).get("import") or []
        files = written if isinstance(written, list) else [written]
    files = list(map(str, files))
    import_files(files)
    return files


def to_settings(args: argparse.Namespace) -> Settings:
    """Make the settings of a parsed command line, not yet checked against each other.

    Raises:
        ConfigError: if a value cannot work, or the data folder is given twice.
    """
    flags = {each.flag: getattr(args, each.flag) for each in all_settings()}
    if args.data is not None:
        if args.data_dir is not None:
            raise ConfigError(f"the data folder is given twice: {args.data} and --data-dir {args.data_dir}")
        flags["data_dir"] = args.data
    for name in ("mean", "std"):
        if flags[name] is not None and len(flags[name]) == 1:
            flags[name] = flags[name] * 3
    return Settings.of(flags)


def _parse(parser: Parser, argv: list[str]) -> argparse.Namespace:
    try:
        args, unknown = parser.parse_known_args(argv)
    except (ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, ConfigError):
            raise
        # From timm's ParseKwargs, the one flag type that is not ours.
        raise ConfigError("--model-kwargs and --opt-kwargs take NAME=VALUE pairs") from error
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        close = difflib.get_close_matches(unknown[0].partition("=")[0], flags, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"unrecognized arguments: {shortened(' '.join(unknown), 200)}{hint}")
    return args


def _from_files(args: argparse.Namespace, parser: Parser) -> list[str]:
    """The flags of recipe and configuration file; each is parsed alone first, so that an error names its file."""
    config = read_config(args.config) if args.config else {}
    config.pop("config", None)
    recipe = args.recipe or config.pop("recipe", None) or ("demo" if args.demo or config.get("demo") else None)
    sources: list[tuple[str, dict[str, Any]]] = []
    if recipe is not None:
        sources.append((f"recipe {recipe}", load_recipe(str(recipe))[1]))
    if args.config:
        sources.append((f"--config {args.config}", config))
    argv: list[str] = []
    for source, settings in sources:
        tokens = to_argv(settings, parser, source)
        try:
            _parse(parser, tokens)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error
        argv += tokens
    # A flag that takes a list may be the last: end it, or it would swallow a positional data folder.
    return [*argv, "--local_rank=0"] if argv else []
