"""The state of a run as files of a checkpoint, and back: all that decides which bits come next.

``model.safetensors`` and ``model_ema.safetensors`` hold weights in timm's names, ``state.pt`` what else all ranks
share, ``rank-R.pt`` what each has of its own, and ``run.pt``, which is small, which run it is and how far it has come.
The ``.pt`` files hold tensors and plain types only, and are read as such.
"""

from __future__ import annotations

import io
import logging
import pickle
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

from dali_mix.train.checkpoint.store import CheckpointError, verify
from dali_mix.train.loop import Trainer
from dali_mix.train.optimization import KERNELS
from dali_mix.train.weights import weights_bytes

_log = logging.getLogger(__name__)

_WEIGHTS, _AVERAGE, _SHARED, _FACTS = "model.safetensors", "model_ema.safetensors", "state.pt", "run.pt"
_FACT_NAMES = {"fingerprint", "computed_by", "launcher", "position", "batches", "rows", "first_epoch"}


def shared_files(trainer: Trainer, facts: dict[str, Any]) -> dict[str, Callable[[], bytes | memoryview]]:
    """The files that one rank writes for all.

    Args:
        trainer: between two updates.
        facts: of the run, plain types.
    """
    token_head = trainer.stage.token_head if trainer.stage else None
    state = {
        "updates": trainer.updates,
        "skipped": trainer.skipped,
        "optimizer": trainer.updater.optimizer.state_dict(),
        "scheduler": trainer.scheduler.state_dict(),
        "scaler": trainer.updater.precision.scaler.state_dict(),
        "token_head": token_head.state_dict() if token_head else None,
    }
    files: dict[str, Callable[[], bytes | memoryview]] = {
        _FACTS: lambda: _to_buffer(facts),
        _WEIGHTS: lambda: weights_bytes(trainer.model),
        _SHARED: lambda: _to_buffer(state),
    }
    if trainer.ema is not None:
        average = trainer.ema.module
        files[_AVERAGE] = lambda: weights_bytes(average)
    return files


def check(path: Path) -> None:
    """Check that a checkpoint is whole and holds nothing but data.

    Raises:
        CheckpointError: naming what is wrong.
    """
    names = verify(path)
    missing = {_WEIGHTS, _SHARED, _FACTS, rank_file(0)} - set(names)
    if missing:
        raise CheckpointError(f"{path} is damaged: it has no {' and no '.join(sorted(missing))}")
    read_facts(path)
    for name in names:
        if name.endswith(".pt"):
            _read(path / name)
        else:
            _read_names(path / name)


def read_facts(path: Path) -> dict[str, Any]:
    """``run.pt`` of a checkpoint.

    Raises:
        CheckpointError: if it cannot be read as data, or lacks an entry.
    """
    facts = _read(path / _FACTS)
    if missing := _FACT_NAMES - facts.keys():
        raise CheckpointError(f"{path} is damaged: {_FACTS} has no {' and no '.join(sorted(missing))}")
    return facts


def read_shared(path: Path) -> dict[str, Any]:
    """``state.pt`` of a checkpoint.

    Raises:
        CheckpointError: if it cannot be read as data.
    """
    return _read(path / _SHARED)


def read_rank(path: Path, rank: int) -> dict[str, Any]:
    """``rank-R.pt`` of a checkpoint.

    Raises:
        CheckpointError: if it cannot be read as data.
    """
    return _read(path / rank_file(rank))


def rank_file(rank: int) -> str:
    """Name of a rank's own file."""
    return f"rank-{rank}.pt"


def load_modules(path: Path, trainer: Trainer) -> None:
    """Weights and moving average of a checkpoint.

    Raises:
        CheckpointError: if they do not fit the model.
    """
    _load_module(trainer.model, path / _WEIGHTS)
    if trainer.ema is not None:
        _load_module(trainer.ema.module, path / _AVERAGE)


def load_shared(state: dict[str, Any], trainer: Trainer, *, exact: bool) -> None:
    """What ``state.pt`` holds of a trainer.

    Args:
        exact: False takes only what does not depend on settings: rates and schedule stay the trainer's own.

    Raises:
        CheckpointError: if it belongs to another model or optimizer.
    """
    optimizer = trainer.updater.optimizer
    content = state["optimizer"]
    groups = list(zip(optimizer.state_dict()["param_groups"], content["param_groups"], strict=False))
    if exact and any(bool(own.get(name)) != bool(saved.get(name)) for own, saved in groups for name in KERNELS):
        _log.warning("the optimizer's steps are computed by other kernels than before; the last bits may differ")
    if len(content["param_groups"]) == len(optimizer.param_groups):
        # How a step is computed is this process's choice.  Where settings are too, the rest of what a group has is
        # state, as the step count of timm's lamb and adan.
        content = content | {
            "param_groups": [
                saved | {name: own[name] for name in own if name != "params" and (name in KERNELS or not exact)}
                for own, saved in groups
            ]
        }
    try:
        optimizer.load_state_dict(content)
        _match_layout(optimizer)
        if state["scaler"] or exact:
            trainer.updater.precision.scaler.load_state_dict(state["scaler"])
        if trainer.stage is not None and trainer.stage.token_head is not None and state["token_head"] is not None:
            trainer.stage.token_head.load_state_dict(state["token_head"])
    except (ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"its optimizer state does not fit this model and --opt: {error}") from error
    if exact:
        trainer.scheduler.load_state_dict(state["scheduler"])
        trainer.updates, trainer.skipped = state["updates"], state["skipped"]


def _match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Lay the state out in memory as the weights are: fused kernels read both in the order of the memory."""
    for parameter, entries in getattr(optimizer, "_base_optimizer", optimizer).state.items():
        for name, value in entries.items():
            fits = isinstance(value, torch.Tensor) and value.shape == parameter.shape
            if fits and value.stride() != parameter.stride():
                entries[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def own_state(trainer: Trainer, facts: dict[str, Any]) -> bytes:
    """What only this rank knows: its random numbers, its BatchNorm statistics and ``facts``, as a file's content."""
    state = facts | {"rng": rng_state(trainer.world.device)}
    if trainer.world.size > 1:
        # Each rank's statistics are of its own batches until an epoch ends; the averages follow them.
        state["buffers"] = [dict(module.named_buffers()) for module in _modules(trainer)]
    return bytes(_to_buffer(state))


def load_own(state: dict[str, Any], trainer: Trainer) -> None:
    """Undo :func:`own_state`; to be called last, as building a model or a pipeline draws random numbers."""
    if trainer.world.size > 1:
        for module, buffers in zip(_modules(trainer), state["buffers"], strict=True):
            for name, buffer in module.named_buffers():
                buffer.copy_(buffers[name])
    set_rng_state(state["rng"], trainer.world.device)


def _modules(trainer: Trainer) -> list[nn.Module]:
    return [trainer.model, *([trainer.ema.module] if trainer.ema is not None else [])]


def rng_state(device: torch.device) -> dict[str, Any]:
    """The random number generators of this process that PyTorch, timm and NumPy draw from; plain types and tensors."""
    version, words, gauss = random.getstate()
    name, keys, *rest = cast(tuple[str, NDArray[np.uint32], int, int, float], np.random.get_state(legacy=True))
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, keys.tolist(), *(float(value) if isinstance(value, float) else int(value) for value in rest)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Undo :func:`rng_state`."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


def _to_buffer(state: dict[str, Any]) -> memoryview:
    """The content of a ``.pt`` file."""
    # In memory: a full disk is then an OSError of one write, where torch.save reports a broken archive.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer()


def _read(file: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle's age; either it loads, or the error is what counts
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{file.parent} is refused: {file.name} holds more than data") from error
    except Exception as error:
        raise CheckpointError(f"{file.parent} is damaged: {file.name} cannot be read: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file.parent} is damaged: {file.name} holds no state")
    return content


def _read_names(file: Path) -> None:
    try:
        with safetensors.safe_open(file, "pt") as tensors:
            tensors.keys()
    except Exception as error:
        raise CheckpointError(f"{file.parent} is damaged: {file.name} cannot be read: {_first_line(error)}") from error


def _load_module(module: nn.Module, file: Path) -> None:
    try:
        module.load_state_dict(safetensors.torch.load_file(file))
    except Exception as error:
        raise CheckpointError(f"{file} does not fit the model: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
