"""The methods that settings can choose: their names, and what options they declare."""

from __future__ import annotations

import dataclasses
from typing import Any

from dali_mix.errors import ConfigError
from dali_mix.fn.mixing.base import methods as graph_methods
from dali_mix.methods import registered
from dali_mix.options import option, probability


def option_kinds() -> dict[str, type[Any]]:
    """Return the class of the options of every method that has some, by the method's name."""
    step: dict[str, type[Any]] = {kind.name: kind.Options for kind in registered() if kind.name}
    graph: dict[str, type[Any]] = dict(graph_methods())
    for name in step.keys() & graph.keys():
        if dataclasses.fields(step[name]) and dataclasses.fields(graph[name]):
            raise ConfigError(f"{name} is a method of the graph and of the step, and both have options; give one of "
                              "them another name")  # fmt: skip
    return {name: kind for name, kind in (*step.items(), *graph.items()) if dataclasses.fields(kind)}


def step_methods() -> set[str]:
    """Return the names of the methods that the training step serves."""
    return {kind.name for kind in registered() if kind.name}


def method_names() -> list[str]:
    """Return the names of all methods, sorted."""
    return sorted(step_methods() | graph_methods().keys())


def short_form_kinds() -> dict[str, type[Any]]:
    """Return, by step method with a short form, the class of its two flags: "on", and "prob", its share or None."""
    return {kind.name: _short_form(kind.name, kind.short_form) for kind in registered() if kind.short_form}


def _short_form(name: str, about: str) -> type[Any]:
    share = f"Probability of {name}, by default 0.5 beside Mixup or CutMix, else 1."
    on = ("on", bool, option(False, help=about, flag=name))
    prob = ("prob", "float | None", option(None, probability, share, needs=name, flag=f"{name}_prob", metavar="PROB"))
    return dataclasses.make_dataclass(f"ShortForm_{name}", [on, prob], frozen=True, kw_only=True)
