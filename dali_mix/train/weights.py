"""Weights in and out: safetensors that plain timm loads, and the files of others."""

from __future__ import annotations

import copy
import logging
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from timm.models import clean_state_dict, save_for_hf
from timm.utils import unwrap_model
from torch import Tensor, nn

from dali_mix.errors import ConfigError, first_line
from dali_mix.files import replace_file
from dali_mix.methods import StepMethod, registered
from dali_mix.methods.base import owner_of
from dali_mix.methods.old_checkpoints import with_methods
from dali_mix.train.checksums import verify, verify_member
from dali_mix.train.untrusted import UntrustedError, load_data

_log = logging.getLogger(__name__)

_PLAIN_KEYS = ("state_dict", "model")
_AVERAGE_KEYS = ("state_dict_ema", "model_ema")
"""Where trainers keep the weights and their moving averages.  The averages are never preferred: there are trainers that
save one, but never update it."""


def save_weights(model: nn.Module, path: Path, notes: dict[str, str] | None = None) -> None:
    """Write the model's state as safetensors, in timm's names; whole or not at all.

    Args:
        model: may be wrapped, by ``torch.compile``, for distributed training or as a moving average.
        path: what ``timm.create_model(name, checkpoint_path=path)`` then takes.
        notes: kept as the file's metadata.
    """
    replace_file(path, lambda temporary: temporary.write_bytes(weights_bytes(model, notes)))


def read_notes(path: Path) -> dict[str, str]:
    """Read the notes of :func:`save_weights`; none if the file cannot be read."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return {}


def weights_bytes(model: nn.Module, notes: dict[str, str] | None = None) -> bytes:
    """Make the bytes that :func:`save_weights` writes."""
    # safetensors takes neither views nor tensors that share memory, as channels_last and tied weights are.
    state = {
        name: value.detach().cpu().contiguous().clone() for name, value in unwrap_model(model).state_dict().items()
    }
    return safetensors.torch.save(state, notes)


def export_to_hub_folder(
    model: nn.Module, folder: Path, *, model_name: str, classes: Sequence[str] | None, config: Mapping[str, Any]
) -> None:
    """Write what ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads, and the Hugging Face hub shows.

    Args:
        model: made by ``timm.create_model``, which notes the options to make it with again; may be wrapped.
        folder: new or empty; whole or not written at all.
        model_name: for ``timm.create_model``.  A model of ``dali_mix.models`` needs that package imported first.
        classes: names of the classes in the order of the logits; None leaves them out.
        config: how images are prepared, as ``timm.data.resolve_input_data_config`` returns it.

    Raises:
        ConfigError: if the folder is in use, the names are not as many as the model's classes, or timm cannot write it.

    Source: ``timm.models.save_for_hf`` of timm 1.0.31.
    """
    require_new_folder(folder)
    # A copy: safetensors wants each tensor contiguous, the model may go on training as it is.
    plain = copy.deepcopy(unwrap_model(model)).cpu().to(memory_format=torch.contiguous_format)
    if classes is not None and len(classes) != plain.num_classes:
        raise ConfigError(f"there are {len(classes)} names of classes, the model has {plain.num_classes} classes")
    described: dict[str, Any] = {"pretrained_cfg": {"architecture": model_name.partition(".")[0]}}
    if classes is not None:
        described["label_names"] = list(classes)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            whole = Path(temporary) / "hub"
            save_for_hf(plain, str(whole), model_config=described, data_config=dict(config), safe_serialization=True)
            whole.replace(folder)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{folder} cannot be written: {first_line(error)}") from error


def require_new_folder(folder: Path) -> None:
    """Refuse a folder that an export would have to share.

    Args:
        folder: must not exist, or be empty.

    Raises:
        ConfigError: if it is in use.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is in use; give a new folder")


def load_weights(
    model: nn.Module, path: Path, methods: Iterable[StepMethod] = (), *, use_ema: bool = False, whole: bool = False
) -> None:
    """Load weights into a model, whoever wrote them.

    Args:
        model: of timm, or of ``dali_mix.models``; may be wrapped.
        path: a safetensors file, the folder of a checkpoint of this trainer, or a checkpoint of timm's or of
            other authors'.  Loaded as data only: a pickle that would run code is refused.
        methods: get what such files hold of theirs; what is another method's is left out.
        use_ema: the moving average of the weights, which must be there, instead of the weights.
        whole: the classifier too, as what is evaluated or exported is nothing without it.

    Raises:
        ConfigError: if the file cannot be read or does not fit the model, which then is as it was.

    Unless ``whole``, a classifier for another number of classes is left out, and said: the model keeps its new one.
    """
    model = unwrap_model(model)
    state, own = _read_split(path, use_ema)
    state = _without_other_classifier(model, _converted(model, state, path), path, whole)
    missing, unexpected, shapes = _misfits(model.state_dict(), state)
    if not (missing or unexpected):
        shapes = _load(model, state, shapes)
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    found = [f"{kind}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}" for kind, names in kinds if names]
    if found:
        raise ConfigError(f"{path} does not fit the model: {'; '.join(found)}")
    for name, tensors in own.items():
        _load_own(name, tensors, methods, path)


def read_weights(path: Path, *, use_ema: bool = False) -> dict[str, Tensor]:
    """Read the model's tensors in a file, by their plain names; the log says which they are.

    Args:
        path, use_ema: as :func:`load_weights` takes them.

    Raises:
        ConfigError: if the file cannot be read, or a checkpoint is not what was written.
    """
    return _read_split(path, use_ema)[0]


def _read_split(path: Path, use_ema: bool) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """The model's tensors, and for each method that has some there its own."""
    content = _content(path)
    state: Any = content
    if isinstance(content, Mapping):
        keys = _AVERAGE_KEYS if use_ema else _PLAIN_KEYS + _AVERAGE_KEYS
        held = [key for key in _PLAIN_KEYS + _AVERAGE_KEYS if isinstance(content.get(key), Mapping)]
        key = next((key for key in keys if key in held), None)
        if use_ema and key is None:
            raise ConfigError(f"{path} holds no moving average of the weights; leave out --use-ema")
        state = content if key is None else content[key]
        _tell_average(path, key, held)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()) or not state:
        raise ConfigError(f"{path} cannot be read as weights: it holds no mapping of names to tensors")
    if not all(isinstance(name, str) for name in state):
        raise ConfigError(f"{path} cannot be read as weights: the names of its tensors are no text")
    state = clean_state_dict(dict(state))  # "module." and "_orig_mod." of wrapped models
    own: dict[str, dict[str, Tensor]] = {}
    for name in list(state):
        if (owner := owner_of(name)) is not None:
            own.setdefault(owner.name, {})[name] = state.pop(name)
            if use_ema and owner.average_note and len(own[owner.name]) == 1:
                _log.warning("%s: %s", path, owner.average_note)
    kept = with_methods(content).get("methods") if isinstance(content, Mapping) else None
    for name, tensors in kept.items() if isinstance(kept, Mapping) else ():
        if isinstance(tensors, Mapping) and all(isinstance(value, Tensor) for value in tensors.values()):
            own[name] = dict(tensors)
    return state, own


def _tell_average(path: Path, key: str | None, held: list[str]) -> None:
    """timm's trainer takes the average where there is one, so it is said which of the two it was."""
    if key in _AVERAGE_KEYS:
        _log.info("%s: the moving average of its weights (%s) is loaded", path, key)
    elif any(other in _AVERAGE_KEYS for other in held):
        _log.info("%s: its weights (%s) are loaded, not their moving average, which --use-ema takes", path, key)


def _content(path: Path) -> Any:
    """What is in a file, as data only."""
    if path.is_dir():  # a checkpoint of this trainer
        names = verify(path)
        shared = _file_content(path / "state.pt")
        methods = with_methods(shared).get("methods") if isinstance(shared, Mapping) else None
        content = {"state_dict": _file_content(path / "model.safetensors"), "methods": methods}
        if "model_ema.safetensors" in names:
            content["state_dict_ema"] = _file_content(path / "model_ema.safetensors")
        return content
    verify_member(path)
    return _file_content(path)


def _file_content(path: Path) -> Any:
    try:
        return safetensors.torch.load_file(path) if path.suffix == ".safetensors" else load_data(path)
    except UntrustedError as error:
        raise ConfigError(f"{path} cannot be read as weights: it {error}") from error
    except Exception as error:
        raise ConfigError(f"{path} cannot be read as weights: {first_line(error)}") from error


def _converted(model: nn.Module, state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The state after what timm does to files of the model's first authors (``checkpoint_filter_fn`` of its module).

    Names that all are the model's own stay as they are: some of timm's functions take them for the authors' if one
    is lacking.  Shapes may still need it, as those of position embeddings do.
    """
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None or not any(_misfits(model.state_dict(), state)):
        return state
    try:
        return convert(state, model)
    except Exception as error:
        raise ConfigError(f"{path} does not fit the model: {first_line(error)}") from error


def _without_other_classifier(model: nn.Module, state: dict[str, Tensor], path: Path, whole: bool) -> dict[str, Tensor]:
    config = getattr(model, "default_cfg", None) or {}
    names = config.get("classifier", "head")
    prefixes = tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
    own = model.state_dict()
    headless = getattr(model, "num_classes", None) == 0
    other = [
        name
        for name, value in state.items()
        if name.startswith(prefixes) and (value.shape[:1] != own[name].shape[:1] if name in own else headless)
    ]
    if whole and not any(name.startswith(prefixes) for name in state) and not headless:
        raise ConfigError(f"{path} has no classifier; give weights that were trained for these classes")
    if not other:
        return state
    own_classes = getattr(model, "num_classes", 0)
    if whole:
        raise ConfigError(
            f"{path} has a classifier for {len(state[other[0]])} classes, the model {own_classes}; "
            "give its classes.txt with --class-map, or weights for these classes"
        )
    _log.info("%s: its classifier is for %d classes and is left out", path, len(state[other[0]]))
    kept = {name: value for name, value in state.items() if name not in other}
    return kept | {name: own[name] for name in other if name in own}


def _load(model: nn.Module, state: dict[str, Tensor], shapes: list[str]) -> list[str]:
    """Load a state with the model's names; returns those whose shapes, of ``shapes``, the model cannot adapt.

    PVT resamples its position embeddings as it loads.  If it fails the model is as it was.
    """
    before = {name: value.clone() for name, value in model.state_dict().items()} if shapes else {}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        model.load_state_dict(before)
        return re.findall(r"size mismatch for ([^:]+):", str(error)) or shapes
    return []


def _misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Names that the state lacks, that the model lacks, and whose shapes differ."""
    shapes = [name for name in state if name in own and state[name].shape != own[name].shape]
    return [name for name in own if name not in state], [name for name in state if name not in own], shapes


def _load_own(name: str, tensors: dict[str, Tensor], methods: Iterable[StepMethod], path: Path) -> None:
    """Give a method what is its own in a file."""
    prefixes = next((each.prefixes for each in registered() if each.name == name), ())
    what = " and ".join(prefix.rstrip(".").replace("_", " ") for prefix in prefixes) or f"part of {name}"
    method = next((each for each in methods if each.name == name), None)
    if method is None:
        _log.info("%s: its %s is left out; only the method %s has use for it", path, what, name)
        return
    try:
        method.load_task_state(tensors)
    except ValueError:
        _log.info("%s: its %s is for other classes and is left out", path, what)
