"""The methods that settings can choose: their names, and what options they declare."""

from __future__ import annotations

import dataclasses
from typing import Any

from dali_mix.fn.mixing.base import methods as graph_methods
from dali_mix.methods import registered


def option_kinds() -> dict[str, type[Any]]:
    """The class of the options of every method that has some, by the method's name."""
    step = {kind.name: kind.Options for kind in registered() if kind.name}
    return {name: kind for name, kind in (step | graph_methods()).items() if dataclasses.fields(kind)}


def step_methods() -> set[str]:
    """The names of those that the training step serves."""
    return {kind.name for kind in registered() if kind.name}


def method_names() -> list[str]:
    """The names of all methods, sorted."""
    return sorted(step_methods() | graph_methods().keys())
