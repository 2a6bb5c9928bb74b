"""Weights in and out: safetensors that plain timm loads, and the files of others."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from timm.models import clean_state_dict
from torch import Tensor, nn

from dali_mix.errors import ConfigError
from dali_mix.smmix import SMMix
from dali_mix.train.files import replace_file

_log = logging.getLogger(__name__)

_STATE_KEYS = ("state_dict", "model", "state_dict_ema", "model_ema")
"""Where trainers keep the weights.  The averages come last: the SMMix authors' trainer saves one, but never updates it
(ChenMnZ/SMMix ``engine.py``), so theirs holds the initial weights."""

_TOKEN_HEAD = "token_head."


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the model's state as safetensors, in timm's names; whole or not at all."""
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    replace_file(path, lambda temporary: temporary.write_bytes(safetensors.torch.save(state)))


def load_weights(model: nn.Module, path: Path, stage: SMMix | None = None) -> None:
    """Load weights into a model, whoever wrote them.

    Args:
        model: of timm, or of ``dali_mix.models``.
        path: a safetensors file or a checkpoint of this trainer, of timm's, of the SMMix authors' or of
            the PVT authors'.  Loaded as data only: a pickle that would run code is refused.
        stage: gets the ``token_head`` of the SMMix authors' files and of this trainer's checkpoints; without
            one it is left out.

    Raises:
        ConfigError: if the file cannot be read or does not fit the model.

    A classifier for another number of classes is left out, and said: the model keeps its new one.
    """
    state, token_head = _split_token_head(_read(path))
    convert = _conversion_of(model)
    try:
        state = convert(state, model) if convert is not None else state
    except Exception as error:
        raise ConfigError(f"{path} does not fit the model: {_first_line(error)}") from error
    state = _without_other_classifier(model, state, path)
    missing, unexpected, shapes = _misfits(model.state_dict(), state)
    if missing or unexpected or shapes:
        kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        found = "; ".join(f"{kind}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
                          for kind, names in kinds if names)  # fmt: skip
        raise ConfigError(f"{path} does not fit the model: {found}")
    model.load_state_dict(state)
    if token_head:
        _load_token_head(stage, token_head, path)


def _read(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by their plain names, those of a token head under "token_head."."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(f"{path} cannot be read as weights: {_first_line(error)}") from error
    state: Any = content
    if isinstance(content, Mapping):
        state = next((content[key] for key in _STATE_KEYS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()) or not state:
        raise ConfigError(f"{path} cannot be read as weights: it holds no mapping of names to tensors")
    state = clean_state_dict(dict(state))  # "module." and "_orig_mod." of wrapped models
    if isinstance(content, Mapping) and isinstance(content.get("token_head"), Mapping):
        state |= {_TOKEN_HEAD + name: value for name, value in content["token_head"].items()}
    return state


def _split_token_head(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    head = {name.removeprefix(_TOKEN_HEAD): value for name, value in state.items() if name.startswith(_TOKEN_HEAD)}
    return {name: value for name, value in state.items() if not name.startswith(_TOKEN_HEAD)}, head


def _conversion_of(model: nn.Module) -> Any:
    """What timm does to files of the model's first authors (``checkpoint_filter_fn`` of its module)."""
    module = __import__(type(model).__module__, fromlist=["checkpoint_filter_fn"])
    return getattr(module, "checkpoint_filter_fn", None)


def _without_other_classifier(model: nn.Module, state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    config = getattr(model, "default_cfg", None) or {}
    names = config.get("classifier", "head")
    prefixes = tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
    own = model.state_dict()
    other = [
        name
        for name, value in state.items()
        if name.startswith(prefixes) and name in own and value.shape[:1] != own[name].shape[:1]
    ]
    if not other:
        return state
    _log.info("%s: its classifier is for %d classes and is left out", path, len(state[other[0]]))
    return state | {name: own[name] for name in other}


def _misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Names that the state lacks, that the model lacks, and whose shapes differ."""
    shapes = [name for name in state if name in own and state[name].shape != own[name].shape]
    return [name for name in own if name not in state], [name for name in state if name not in own], shapes


def _load_token_head(stage: SMMix | None, state: dict[str, Tensor], path: Path) -> None:
    if stage is None or stage.token_head is None:
        _log.info("%s: its token head is left out; only --smmix has use for it", path)
        return
    own = stage.token_head.state_dict()
    if any(_misfits(own, state)):
        _log.info("%s: its token head is for other classes and is left out", path)
        return
    stage.token_head.load_state_dict(state)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
