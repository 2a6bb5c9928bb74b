"""Settings from YAML, turned into flags so that they meet the same checks as the command line."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dali_mix.errors import ConfigError
from dali_mix.train.settings.refused import reason_to_refuse

_MAX_BYTES, _MAX_VALUES, _MAX_CHARACTERS = 1 << 16, 10_000, 2048
"""The sizes of a file, of what it holds with its aliases written out, and of one value: far more than all flags need,
and few enough that whoever prints, compares or converts them is done at once."""


def read_config(path: Path, flag: str = "--config ") -> dict[str, Any]:
    """The mapping in a YAML file; its keys are flag names with "_" or "-".

    Args:
        path: of the file.
        flag: what stands before the path in errors.

    Raises:
        ConfigError: if it cannot be read, is no mapping, or is larger than settings can be.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{flag}{path} cannot be read: {error.strerror}") from error
    try:
        if len(raw) > _MAX_BYTES:
            raise ConfigError(f"it is larger than {_MAX_BYTES >> 10} KiB")
        text = raw.decode()
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        _count_values(node, {})
        content = loader.construct_document(node) if node else None
    except ConfigError as error:
        raise ConfigError(f"{flag}{path} cannot be settings: {error}") from error
    except Exception as error:
        # Also what PyYAML lets out where a value is not of its tag: IndexError, KeyError, AttributeError ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{flag}{path} is not YAML: {reason}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{flag}{path} must hold lines of the form flag_name: value")
    return {str(key).replace("-", "_"): value for key, value in content.items()}


def _count_values(node: yaml.Node | None, known: dict[int, int]) -> int:
    """How many values a node holds once each alias is written out, which nested ones make exponentially many.

    Args:
        node: of the composed file, where an alias is the node that it stands for.
        known: numbers of the nodes that have been counted, by their ids; 0 while one is being counted.

    Raises:
        ConfigError: if there are too many, or a value is too long.
    """
    if node is None:
        return 0
    if id(node) in known:
        if not known[id(node)]:
            raise ConfigError("an alias stands for what it is part of")
        return known[id(node)]
    known[id(node)] = 0
    count = 1
    if isinstance(node, yaml.MappingNode):
        _refuse_twice(node)
    if isinstance(node, yaml.ScalarNode):
        if len(node.value) > _MAX_CHARACTERS:
            raise ConfigError(f"a value is longer than {_MAX_CHARACTERS} characters")
    else:
        parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        count += sum(_count_values(part, known) for part in parts)
    if count > _MAX_VALUES:
        raise ConfigError(f"it holds more than {_MAX_VALUES} values")
    known[id(node)] = count
    return count


def _refuse_twice(node: yaml.MappingNode) -> None:
    """Refuse a flag that is given twice, of which YAML would take the last value without a word."""
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            name = key.value.replace("-", "_")
            if name in seen:
                raise ConfigError(f"{name} is given twice")
            seen.add(name)


def to_argv(settings: Mapping[str, Any], parser: argparse.ArgumentParser, source: str) -> list[str]:
    """Make a command line that says the same.

    Args:
        settings: names of flags, with "_", to values; null leaves a flag at its default.
        parser: knows the flags.
        source: named in errors.

    Raises:
        ConfigError: for a name that is no flag, or a value of the wrong shape.
    """
    # Not from vars(parser): a store_true flag such as --no-aug has its own name as dest.
    actions = {action.dest: action for action in parser._actions if action.option_strings}
    argv: list[str] = []
    for name, value in settings.items():
        if name not in actions:
            if value is None and _reason(name):
                continue  # written down by a version that had this flag
            raise ConfigError(f"{source}: {_unknown(name, actions)}")
        if value is not None:
            argv += _tokens(actions[name], value, f"{source}: {name}")
    return argv


def _reason(name: str) -> str | None:
    return reason_to_refuse("--" + name.replace("_", "-"))


def _unknown(name: str, known: Mapping[str, Any]) -> str:
    reason = _reason(name)
    if reason is not None:
        return f"{name} is not supported: {reason}"
    close = difflib.get_close_matches(name, known, n=1)
    shown = name if name.isprintable() else repr(name)
    return f"{shown} is not a flag" + (f"; did you mean {close[0]}?" if close else "; see --help")


def _tokens(action: argparse.Action, value: Any, where: str) -> list[str]:
    flag = next(name for name in action.option_strings if name.startswith("--"))
    if action.nargs == 0:  # a switch
        if not isinstance(value, bool):
            raise ConfigError(f"{where} must be true or false, got {value!r}")
        off = f"--no-{flag[2:]}"
        return [flag] if value else [off] if off in action.option_strings else []
    if isinstance(value, dict):
        if action.nargs != "*":
            raise ConfigError(f"{where} takes a value, not a mapping")
        return [flag, *(f"{key}={item}" for key, item in value.items())]
    if isinstance(value, (list, tuple)):
        if action.nargs in (None, "?"):
            raise ConfigError(f"{where} takes one value, got {list(value)!r}")
        return [flag, *(_plain(item, where) for item in value)] if value else []
    if isinstance(value, bool):
        raise ConfigError(f"{where} takes a value, got {str(value).lower()}")
    return [flag, _plain(value, where)] if action.nargs not in (None, "?") else [f"{flag}={value}"]


def _plain(value: Any, where: str) -> str:
    """A value of a list as argparse takes it: a negative number without an exponent, no text that looks like a flag."""
    if isinstance(value, float):
        return np.format_float_positional(value, trim="-")
    text = str(value)
    if text.startswith("-") and not isinstance(value, int):
        raise ConfigError(f"{where} cannot hold {text!r}, which looks like a flag")
    return text
