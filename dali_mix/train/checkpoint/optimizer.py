"""The optimizer's part of a checkpoint: whether it fits, and how it gets back."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from dali_mix.train.checkpoint.store import CheckpointError
from dali_mix.train.optimizer import KERNELS

_log = logging.getLogger(__name__)

_MISFIT = "its optimizer state does not fit this model and --opt"


def load_optimizer(optimizer: torch.optim.Optimizer, content: dict[str, Any], *, exact: bool) -> None:
    """Load an optimizer's state.

    Args:
        optimizer: new, of timm.
        content: its saved state, of the form that a checkpoint's schema asks for.
        exact: False keeps the own settings, and begins anew, saying so, where the state is another optimizer's.

    Raises:
        CheckpointError: if it belongs to another model, or with ``exact`` to another optimizer; the optimizer is as
            it was.
    """
    own, saved = optimizer.state_dict()["param_groups"], content["param_groups"]
    if [len(group["params"]) for group in own] != [len(group["params"]) for group in saved]:
        raise CheckpointError(f"{_MISFIT}: it has {_count(saved)}, here are {_count(own)}")
    misfit = _misfit(optimizer, content["state"], saved)
    if misfit and not exact:
        _log.warning("the optimizer begins anew, as the checkpoint's is another one: %s", misfit)
        return
    if misfit:
        raise CheckpointError(f"{_MISFIT}: {misfit}")
    groups = list(zip(own, saved, strict=True))
    lost = {name for one, other in groups for name in one.keys() - other.keys()}
    if exact and lost:
        raise CheckpointError(f"{_MISFIT}: its groups have no {', '.join(sorted(lost))}")
    if exact and any(bool(one.get(name)) != bool(other.get(name)) for one, other in groups for name in KERNELS):
        _log.warning("the optimizer's steps are computed by other kernels than before; the last bits may differ")
    # How a step is computed is this process's choice.  Where settings are too, the rest of what a group has is
    # state, as the step count of timm's lamb and adan.
    merged = [
        other | {name: one[name] for name in one if name != "params" and (name in KERNELS or not exact)}
        for one, other in groups
    ]
    try:
        optimizer.load_state_dict(content | {"param_groups": merged})
    except (ValueError, KeyError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{_MISFIT}: {error}") from error
    _match_layout(optimizer)


def _count(groups: list[dict[str, Any]]) -> str:
    return f"{sum(len(group['params']) for group in groups)} weights in {len(groups)} groups"


def _misfit(optimizer: torch.optim.Optimizer, state: dict[Any, Any], groups: list[dict[str, Any]]) -> str:
    """What of a saved state the optimizer could not work with; "" if there is nothing."""
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parameters = dict(zip([number for group in groups for number in group["params"]], own, strict=True))
    strange = sorted(str(number) for number in state.keys() - parameters.keys())
    if strange:
        return f"it has entries of weight {strange[0]}, which is none of {len(parameters)}"
    wanted: dict[tuple[int, ...], set[str]] = {}
    for number, entries in state.items():
        parameter = parameters[number]
        shape = tuple(parameter.shape)
        if shape not in wanted:
            wanted[shape] = _names_of(optimizer, parameter)
        if missing := sorted(wanted[shape] - entries.keys()):
            return f"weight {number} has no {missing[0]}"
        for name, value in entries.items():
            if isinstance(value, Tensor) and not _is_shape_of(value, parameter, name):
                return f"{name} of weight {number} is {tuple(value.shape)}, the weight {shape}"
    return ""


_WHOLE = ("exp_avg", "momentum_buffer", "max_exp_avg_sq", "square_avg", "lookahead_slow_buff")
"""Entries that are as large as their weight whatever the optimizer; of others the square averages may be factored."""


def _is_shape_of(value: Tensor, parameter: nn.Parameter, name: str) -> bool:
    """Whether an entry is as large as its weight, a number, or a factor of it: the average over a dimension."""
    own, saved = tuple(parameter.shape), tuple(value.shape)
    if own == saved or (value.numel() == 1 and name not in _WHOLE):
        return True
    without = {own[:index] + kept + own[index + 1 :] for index in range(len(own)) for kept in ((), (1,))}
    return name not in _WHOLE and saved in without


def _names_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> set[str]:
    """The tensors that an optimizer keeps of a weight: those that it makes in a step of another one alike."""
    base = getattr(optimizer, "_base_optimizer", optimizer)
    group = next(group for group in base.param_groups if any(parameter is other for other in group["params"]))
    alike = nn.Parameter(torch.zeros_like(parameter))
    alike.grad = torch.zeros_like(alike)
    random = torch.get_rng_state()
    try:
        make: Any = type(base)
        probe = make([dict(group, params=[alike])])
        with torch.compiler.set_stance("force_eager"):
            probe.step()
    except Exception:  # an optimizer of its own kind is not asked
        return set()
    finally:
        torch.set_rng_state(random)
    return {name for name, value in probe.state[alike].items() if isinstance(value, Tensor)}


def _match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Lay the state out in memory as the weights are: fused kernels read both in the order of the memory."""
    for parameter, entries in getattr(optimizer, "_base_optimizer", optimizer).state.items():
        for name, value in entries.items():
            fits = isinstance(value, Tensor) and value.shape == parameter.shape
            if fits and value.stride() != parameter.stride():
                entries[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
