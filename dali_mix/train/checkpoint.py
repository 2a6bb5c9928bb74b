"""Checkpoints and weights on disk."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from timm.models import load_state_dict
from torch import Tensor, nn

from dali_mix.errors import ConfigError

_CHECKPOINT = re.compile(r"checkpoint-(\d+)\.pth\.tar$")


def save_checkpoint(folder: Path, epoch: int, state: dict[str, Any], *, keep: int, is_best: bool) -> None:
    """Write ``checkpoint-EPOCH.pth.tar`` and remove all but the newest ``keep``.

    A file is complete or absent: it is written beside its place and moved there.

    Args:
        is_best: make it ``model_best.pth.tar`` too, which stays when the checkpoint goes.
        state: plain types and tensors only, so that it loads with ``weights_only=True``; the model's
            state under "state_dict", where timm looks for it.
    """
    path = folder / f"checkpoint-{epoch}.pth.tar"
    _replace(path, lambda temporary: torch.save(state, temporary))
    if is_best:
        _replace(folder / "model_best.pth.tar", lambda temporary: shutil.copyfile(path, temporary))
    numbered = {int(match[1]): old for old in folder.iterdir() if (match := _CHECKPOINT.fullmatch(old.name))}
    for number in sorted(numbered)[:-keep]:
        numbered[number].unlink()


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the model's state as safetensors, in timm's names."""
    state: dict[str, Tensor] = {name: value.contiguous() for name, value in model.state_dict().items()}
    _replace(path, lambda temporary: temporary.write_bytes(safetensors.torch.save(state)))


def load_weights(model: nn.Module, path: Path) -> None:
    """Load the model's state from a checkpoint or a safetensors file.

    Raises:
        ConfigError: if the file cannot be read or does not fit the model.
    """
    try:
        state = load_state_dict(str(path), weights_only=True)
    except Exception as error:
        raise ConfigError(f"{path} cannot be read as weights: {_first_line(error)}") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise ConfigError(f"{path} does not fit the model: {' '.join(lines[1:2]).strip() or lines[0]}") from error


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    os.replace(temporary, path)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
