"""Turns settings into the choice among methods, as pipelines take it."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from dali_mix.errors import ConfigError
from dali_mix.fn.mixing.base import methods as graph_methods
from dali_mix.train.settings.methods import method_names, short_form_kinds
from dali_mix.train.settings.sections import Settings


def short_forms() -> list[str]:
    """List the flags that choose a method without ``--mix``: those of timm, whose value is alpha, and switches."""
    return ["mixup", "cutmix", *short_form_kinds()]


def shares(settings: Settings) -> dict[str, float]:
    """Compute the probability per batch of each method, by its name.

    timm's two probabilities keep their meaning, and share what the step's methods leave: one of them beside
    ``--mixup 0.8``, without a probability of its own, takes half of the batches.
    """
    methods = settings.methods
    if methods.mix:
        return dict(methods.mix)
    mixup, cutmix = methods.mixup > 0, methods.cutmix > 0 or methods.cutmix_minmax is not None
    default = 0.5 if mixup or cutmix else 1.0
    in_step = {
        name: default if form.prob is None else form.prob for name, form in settings.short_forms.items() if form.on
    }
    mixed = (1 - sum(in_step.values())) * methods.mixup_prob
    switch = methods.mixup_switch_prob if mixup else 1.0
    choices = {
        "cutmix": mixed * switch if cutmix else 0.0,
        "mixup": mixed * (1 - switch if cutmix else 1.0) if mixup else 0.0,
    } | in_step
    return {name: probability for name, probability in choices.items() if probability > 0}


def choices(settings: Settings) -> dict[Any, float]:
    """Return what ``random_mix`` takes: methods of the graph as values, those of the training step by their names."""
    in_graph = graph_methods()
    return {_value(name, settings) if name in in_graph else name: share for name, share in shares(settings).items()}


def _value(name: str, settings: Settings) -> Any:
    value: Any = settings.options.get(name) or graph_methods()[name]()
    alpha = 0.0 if settings.methods.mix else getattr(settings.methods, name, 0.0)
    return dataclasses.replace(value, alpha=alpha) if alpha else value


def how_to_choose(method: str) -> str:
    """Name the flag that chooses a method: "--cutmix", "--mix resizemix=SHARE"."""
    return f"--{method}" if method in short_forms() else f"--mix {method}=SHARE"


def check_mix(mix: Mapping[str, float]) -> None:
    """Refuse what ``--mix`` cannot choose.

    Raises:
        ConfigError: for an unknown method, or shares that are more than all batches.
    """
    known = method_names()
    for name in mix:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}; --import FILE adds others"
            raise ConfigError(f"--mix: {name!r} is not a method; {hint}")
    total = sum(mix.values())
    if total > 1 + 1e-6:
        raise ConfigError(f"--mix: the shares are {total:g} together; they may be 1 at most")
