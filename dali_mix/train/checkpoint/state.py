"""The state of a run as files of a checkpoint, and back: all that decides which bits come next.

``model.safetensors`` and ``model_ema.safetensors`` hold weights in timm's names, ``state.pt`` what else all ranks
share, ``rank-R.pt`` what each has of its own, and ``run.pt``, which is small, which run it is and how far it has come.
The ``.pt`` files hold tensors and plain types only, and are read as such.
"""

from __future__ import annotations

import io
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

from dali_mix.errors import first_line
from dali_mix.methods.old_checkpoints import with_losses, with_methods
from dali_mix.train.checkpoint.optimizer import load_optimizer
from dali_mix.train.checkpoint.schema import SchemaError, check_rank, check_run, check_shared
from dali_mix.train.checksums import CheckpointError, verify
from dali_mix.train.loop import Trainer
from dali_mix.train.untrusted import UntrustedError, load_data
from dali_mix.train.weights import weights_bytes

_WEIGHTS, _AVERAGE, _SHARED, _RUN = "model.safetensors", "model_ema.safetensors", "state.pt", "run.pt"


def shared_files(trainer: Trainer, record: dict[str, Any]) -> dict[str, Callable[[], bytes | memoryview]]:
    """Make the files that one rank writes for all.

    Args:
        trainer: between two updates.
        record: what ``run.pt`` says of the run, plain types.
    """
    methods = {method.name: method.get_task_state() for method in trainer.step.methods}
    state = {
        "updates": trainer.updates,
        "skipped": trainer.skipped,
        "optimizer": trainer.updater.optimizer.state_dict(),
        "scheduler": trainer.scheduler.state_dict(),
        "scaler": trainer.updater.precision.scaler.state_dict(),
        "methods": {name: state for name, state in methods.items() if state},
    }
    files: dict[str, Callable[[], bytes | memoryview]] = {
        _RUN: lambda: _to_buffer(record),
        _WEIGHTS: lambda: weights_bytes(trainer.model),
        _SHARED: lambda: _to_buffer(state),
    }
    if trainer.ema is not None:
        average = trainer.ema.module
        files[_AVERAGE] = lambda: weights_bytes(average)
    return files


def check(path: Path) -> None:
    """Check that a checkpoint is whole, and that its files hold what they should.

    Raises:
        CheckpointError: naming what is wrong.
    """
    names = verify(path)
    record = read_run(path)
    wanted = {_WEIGHTS, _SHARED, _RUN, *map(rank_file, range(record["fingerprint"]["ranks"]))}
    if missing := wanted - set(names):
        raise CheckpointError(f"{path} is damaged: it has no {' and no '.join(sorted(missing))}")
    read_shared(path)
    for name in names:
        if match := _RANK_FILE.fullmatch(name):
            read_rank(path, int(match[1]), record)
        elif name.endswith(".safetensors"):
            _read_names(path / name)


def read_run(path: Path) -> dict[str, Any]:
    """Read the record in ``run.pt``: which run a checkpoint is of, and how far it had come.

    Raises:
        CheckpointError: if it cannot be read as data, or a field is not what it should be.
    """
    return _read(path / _RUN, check_run)


def read_shared(path: Path) -> dict[str, Any]:
    """Read what ``state.pt`` of a checkpoint holds, which all ranks share.

    Raises:
        CheckpointError: as :func:`read_run`.
    """
    return _read(path / _SHARED, check_shared, with_methods)


def read_rank(path: Path, rank: int, record: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read what ``rank-R.pt`` of a checkpoint holds, which is one rank's.

    Args:
        path: of the checkpoint.
        rank: whose file.
        record: from :func:`read_run`, if it has been read already.

    Raises:
        CheckpointError: as :func:`read_run`.
    """
    known = read_run(path) if record is None else record
    return _read(path / rank_file(rank), lambda own: check_rank(own, known), _with_losses)


def rank_file(rank: int) -> str:
    """Return the name of a rank's file."""
    return f"rank-{rank}.pt"


_RANK_FILE = re.compile(r"rank-(\d+)\.pt")


def load_weights(path: Path, trainer: Trainer) -> None:
    """Load the weights of a checkpoint, and their moving average.

    Raises:
        CheckpointError: if they do not fit the model.
    """
    _load_module(trainer.model, path / _WEIGHTS)
    if trainer.ema is not None:
        _load_module(trainer.ema.module, path / _AVERAGE)


def load_shared(state: dict[str, Any], trainer: Trainer, *, exact: bool) -> None:
    """Load what ``state.pt`` holds of a trainer.

    Args:
        exact: False takes only what does not depend on settings: rates and schedule stay the trainer's own.

    Raises:
        CheckpointError: if it belongs to another model or optimizer.
    """
    own = trainer.scheduler.state_dict()
    if exact and (differing := sorted(name for name in own.keys() | state["scheduler"].keys()
                                      if not _alike(own.get(name), state["scheduler"].get(name)))):  # fmt: skip
        raise CheckpointError(f"its schedule is not that of these settings: {', '.join(differing)}")
    load_optimizer(trainer.updater.optimizer, state["optimizer"], exact=exact)
    try:
        if state["scaler"] or exact:
            trainer.updater.precision.scaler.load_state_dict(state["scaler"])
        for method in trainer.step.methods:
            method.load_task_state(state["methods"].get(method.name))
    except (ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"its loss scaler or a method does not fit: {first_line(error)}") from error
    if exact:
        trainer.scheduler.load_state_dict(state["scheduler"])
        trainer.updates, trainer.skipped = state["updates"], state["skipped"]


def _alike(own: Any, saved: Any) -> bool:
    """Whether a field of a schedule has the same kind; the values are the settings', which are compared before."""
    if isinstance(own, (list, tuple)):
        return isinstance(saved, (list, tuple)) and len(own) == len(saved) and all(map(_alike, own, saved))
    numbers = (int, float)
    return type(own) is type(saved) or (type(own) in numbers and type(saved) in numbers)


def rank_state(trainer: Trainer, progress: dict[str, Any]) -> bytes:
    """Make the content of this rank's file: its random numbers, its BatchNorm statistics and ``progress``."""
    state = progress | {"rng": rng_state(trainer.world.device)}
    if trainer.world.size > 1:
        # Each rank's statistics are of its own batches until an epoch ends; the averages follow them.
        state["buffers"] = [dict(module.named_buffers()) for module in _modules(trainer)]
    return bytes(_to_buffer(state))


def check_buffers(state: dict[str, Any], trainer: Trainer) -> None:
    """Check the statistics in a rank's state before anything is built on them.

    Raises:
        CheckpointError: if they are not those of this model.
    """
    if trainer.world.size == 1:
        return
    saved = state.get("buffers")
    own = [dict(module.named_buffers()) for module in _modules(trainer)]
    fits = isinstance(saved, list) and len(saved) == len(own)
    if not fits or any(_shapes(one) != _shapes(other) for one, other in zip(own, saved or [], strict=True)):
        raise CheckpointError("its statistics of BatchNorm are not those of this model")


def _shapes(buffers: Any) -> dict[str, Any] | None:
    if not isinstance(buffers, dict):
        return None
    return {name: getattr(value, "shape", None) for name, value in buffers.items()}


def load_rank(state: dict[str, Any], trainer: Trainer) -> None:
    """Undo :func:`rank_state`; to be called last, as building a model or a pipeline draws random numbers."""
    if trainer.world.size > 1:
        for module, buffers in zip(_modules(trainer), state["buffers"], strict=True):
            for name, buffer in module.named_buffers():
                buffer.copy_(buffers[name])
    set_rng_state(state["rng"], trainer.world.device)


def _modules(trainer: Trainer) -> list[nn.Module]:
    return [trainer.model, *([trainer.ema.module] if trainer.ema is not None else [])]


def rng_state(device: torch.device) -> dict[str, Any]:
    """Return the state of the generators that PyTorch, timm and NumPy draw from; plain types and tensors."""
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


def _with_losses(own: dict[str, Any]) -> dict[str, Any]:
    return own | {"tally": with_losses(own["tally"])} if "tally" in own else own


def _read(
    file: Path,
    check_content: Callable[[dict[str, Any]], None],
    renewed: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> dict[str, Any]:
    """The content of a file, in today's form, checked."""
    try:
        content = renewed(load_data(file))
        check_content(content)
    except UntrustedError as error:
        raise CheckpointError(f"{file.parent} is refused: {file.name} {error}") from error
    except OSError as error:
        raise CheckpointError(f"{file.parent} is damaged: {file.name} cannot be read: {error.strerror}") from error
    except SchemaError as error:
        raise CheckpointError(f"{file.parent} is damaged: {file.name} holds no state of a run: {error}") from error
    return content


def _read_names(file: Path) -> None:
    try:
        with safetensors.safe_open(file, "pt") as tensors:
            tensors.keys()
    except Exception as error:
        raise CheckpointError(f"{file.parent} is damaged: {file.name} cannot be read: {first_line(error)}") from error


def _load_module(module: nn.Module, file: Path) -> None:
    try:
        state = safetensors.torch.load_file(file)
        lost = next(
            (name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()), ""
        )
        if lost:
            raise ValueError(f"{lost} is not finite")
        module.load_state_dict(state)
    except Exception as error:
        raise CheckpointError(f"{file.name} does not fit the model: {first_line(error)}") from error
