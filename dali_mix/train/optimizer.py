"""Optimizer, schedule, mixed precision and moving average of a run, from its settings."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.utils import ModelEmaV3
from torch import nn

from dali_mix.errors import ConfigError, first_line
from dali_mix.methods import StepMethod
from dali_mix.train.settings.sections import Ema, Optimizer, Schedule

_log = logging.getLogger(__name__)

# Not Adagrad, whose fused kernel PyTorch 2.11 has on the CPU only.
_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
KERNELS = {"foreach", "fused", "capturable", "differentiable"}
"""Settings of torch's optimizers that choose how a step is computed."""


def create_optimizer(
    section: Optimizer, lr: float, model: nn.Module, methods: Iterable[StepMethod], device: torch.device
) -> Any:
    """Create timm's optimizer of the model's parameters; those that methods have of their own are groups behind them.

    Args:
        section: which optimizer, and its options.
        lr: learning rate.
        model: whose parameters it updates.
        methods: of the training step.
        device: of the model.

    Raises:
        ConfigError: for an unknown optimizer, or options that it does not take.
    """
    known = [str(name) for name in list_optimizers()]
    if section.opt.lower().removeprefix("lookahead_") not in known:
        close = difflib.get_close_matches(section.opt, known, n=3)
        hint = f"close: {', '.join(close)}" if close else "timm.optim.list_optimizers() lists them"
        raise ConfigError(f"--opt {section.opt} is not an optimizer of timm; {hint}")
    settings = optimizer_kwargs(cfg=SimpleNamespace(**vars(section), lr=lr))
    twice = sorted(settings.keys() & section.opt_kwargs)
    if twice:
        raise ConfigError(f"--opt-kwargs {twice[0]} has a flag of its own; use that")
    settings = _fused(section.opt, section.opt_kwargs) | settings | section.opt_kwargs
    try:
        optimizer = create_optimizer_v2(model, **settings)
    except Exception as error:  # whatever a constructor makes of nonsense
        raise ConfigError(f"--opt {section.opt} refuses its settings: {first_line(error)}") from error
    if getattr(optimizer, "is_second_order", False):
        raise ConfigError(f"--opt {section.opt} needs second derivatives, which this trainer does not compute")
    _try_step(section.opt, settings, device)
    added = [group for method in methods for group in _own_groups(method, section.weight_decay)]
    for group in added:
        optimizer.add_param_group(group)
    if added and optimizer.state:  # Adagrad makes its state at the start: make it again, of all weights
        optimizer = type(optimizer)(optimizer.param_groups, **optimizer.defaults)
    return optimizer


def _own_groups(method: StepMethod, weight_decay: float) -> list[dict[str, Any]]:
    """Weights, and what timm's optimizers do not decay: biases and scales of norms."""
    own = method.own_parameters
    decayed, kept = ([each for each in own if (each.ndim > 1) == decays] for decays in (True, False))
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _try_step(name: str, settings: dict[str, Any], device: torch.device) -> None:
    """Two steps of a parameter of its own: many settings are refused, or break, only there.

    Raises:
        ConfigError: for such settings.
    """
    kwargs = {key: value for key, value in settings.items() if not key.startswith("layer_decay")}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        parameter = nn.Parameter(torch.ones(2, 2, device=device))
        try:
            optimizer = create_optimizer_v2([parameter], **kwargs)
            for _ in range(2):
                parameter.grad = torch.full_like(parameter, 0.5)
                optimizer.step()
        except Exception as error:
            raise ConfigError(
                f"--opt {name} cannot step with its settings: {first_line(error)}; see --opt-kwargs"
            ) from error


def _fused(name: str, chosen: dict[str, Any]) -> dict[str, Any]:
    """Ask for the fused kernels of torch's optimizers that heed ``found_inf``, unless the user has asked for others."""
    base = get_optimizer_class(name.lower().removeprefix("lookahead_"), bind_defaults=False)
    return {"fused": True} if base in _FUSED and not chosen.keys() & KERNELS else {}


def learning_rate(section: Schedule, opt: str, images_per_update: int) -> float:
    """Return ``--lr``, or what timm's rule makes of ``--lr-base`` (train.py).

    Args:
        section: the schedule.
        opt: name of the optimizer.
        images_per_update: over all ranks.
    """
    if section.lr is not None:
        return section.lr
    ratio = images_per_update / section.lr_base_size
    adaptive = any(name in opt.lower() for name in ("ada", "lamb"))
    scale = section.lr_base_scale or ("sqrt" if adaptive else "linear")
    return section.lr_base * (math.sqrt(ratio) if scale == "sqrt" else ratio)


def create_scheduler(section: Schedule, seed: int, optimizer: Any, updates_per_epoch: int) -> tuple[Any, int]:
    """Create timm's scheduler, and tell the number of epochs with cool-down.

    Args:
        section: the schedule.
        seed: of its noise.
        optimizer: whose learning rates it sets.
        updates_per_epoch: of this run.

    Raises:
        ConfigError: if it has no learning rate somewhere.
    """
    if section.warmup_epochs >= section.epochs:
        lengths = section.warmup_epochs, section.epochs
        _log.warning("--warmup-epochs %d is not shorter than --epochs %d: --lr is never reached", *lengths)
    try:
        scheduler, epochs = create_scheduler_v2(
            optimizer, **(scheduler_kwargs(section) | {"noise_seed": seed}), updates_per_epoch=updates_per_epoch
        )
        length = epochs * updates_per_epoch if section.sched_on_updates else epochs
        for at in (0, 1, length // 2, length - 1, length):
            rates = scheduler._get_lr(at)
            if any(isinstance(rate, complex) or not math.isfinite(rate) for rate in rates):
                raise ValueError(f"it is {rates[0]}")
    except Exception as error:  # of timm's arithmetic: overflows, divisions by zero, powers of negative numbers
        raise ConfigError(
            f"--sched {section.sched} has no learning rate with these settings: {first_line(error)}; see the flags "
            "beside --lr in --help"
        ) from error
    return scheduler, epochs


def create_ema(section: Ema, model: nn.Module) -> ModelEmaV3 | None:
    """Create the moving average of the weights; None without ``--model-ema``."""
    if not section.model_ema:
        return None
    device = torch.device("cpu") if section.model_ema_force_cpu else None
    return ModelEmaV3(model, decay=section.model_ema_decay, use_warmup=section.model_ema_warmup, device=device)


@dataclass
class Precision:
    """Mixed precision, with a loss scaler where it is float16.

    Fields:
        device: type of the device, "cuda" or "cpu".
        enabled: False computes in float32.
        requested: "float16", "bfloat16", or None for bfloat16 where the device has it, else float16.
    """

    device: str
    enabled: bool
    requested: str | None = None
    dtype: torch.dtype = field(init=False)
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        bfloat16 = self.device != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
        if self.requested is not None:
            bfloat16 = self.requested == "bfloat16"
        self.dtype = torch.bfloat16 if bfloat16 else torch.float16
        self.scaler = torch.amp.GradScaler(self.device, enabled=self.enabled and not bfloat16)

    def autocast(self) -> AbstractContextManager:
        """Return the context for a forward."""
        return torch.autocast(self.device, self.dtype, enabled=self.enabled)
