"""What a single value may not be, whatever its flag: text that no file system, log or library takes."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dali_mix.errors import ConfigError
from dali_mix.text import is_utf8
from dali_mix.train.settings.sections import Settings, all_settings

_LONGEST_PATH, _LONGEST_NAME = 4095, 255
"""The limit of Linux, in bytes."""


def check_values(settings: Settings) -> None:
    """Check each value by itself.

    Raises:
        ConfigError: for control characters, a name that is not UTF-8, a path longer than the system's, an experiment
            outside of ``--output``, or a seed that NumPy refuses on the last rank.
    """
    for each in all_settings():
        value, option = each.value(settings), each.option
        flag = "--" + each.flag.replace("_", "-")
        for text in _texts(value):
            if any(unicodedata.category(character) == "Cc" for character in text):
                raise ConfigError(f"{flag} holds a control character: {text!r}; leave it out")
            if not option.any_bytes and not is_utf8(text):
                raise ConfigError(f"{flag} {text} is not UTF-8, and DALI, safetensors and TensorBoard take no other")
            if option.path or isinstance(value, Path):
                _check_length(flag, text)
    _check_experiment(settings.run.experiment)
    ranks = os.environ.get("WORLD_SIZE", "1")
    highest = 2**32 - (int(ranks) if ranks.isdecimal() else 1)
    seed = settings.run.seed
    if seed > highest:
        raise ConfigError(f"--seed must be at most {highest} with {ranks} ranks, got {seed}: each adds its number")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, (str, Path)):
        yield str(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _check_length(flag: str, path: str) -> None:
    longest = max(len(os.fsencode(part)) for part in path.split(os.sep))
    if len(os.fsencode(path)) > _LONGEST_PATH or longest > _LONGEST_NAME:
        raise ConfigError(
            f"{flag} is too long for a path, of which a name has at most {_LONGEST_NAME} bytes and all have "
            f"{_LONGEST_PATH}: {path[:40]}..."
        )


def _check_experiment(name: str) -> None:
    if name and (os.path.isabs(name) or {"", ".", ".."} & set(name.split(os.sep))):
        raise ConfigError(f"--experiment names a folder below --output, such as first or sweep/3, got {name!r}")
