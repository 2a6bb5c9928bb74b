"""Recipes that ship with the package: one YAML file each, what it is ("about") and its flags ("flags")."""

from __future__ import annotations

import difflib
from importlib import resources
from typing import Any

import yaml

from dali_mix.errors import ConfigError

_FOLDER = resources.files("dali_mix.train.settings") / "recipes"

ABOUT = ("title", "paper", "command", "expected", "source", "gpus", "batch", "chosen")
"""Keys of a recipe's "about", all required: ``chosen`` lists what no source gives."""


def recipe_names() -> list[str]:
    """List all recipes, sorted."""
    return sorted(path.name.removesuffix(".yaml") for path in _FOLDER.iterdir() if path.name.endswith(".yaml"))


def load_recipe(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what a recipe says about itself, and its flags.

    Raises:
        ConfigError: for an unknown name; proposes close ones.
    """
    names = recipe_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names)}"
        raise ConfigError(f"--recipe {name} is unknown; {hint}")
    content = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text())
    return content["about"], content["flags"]
