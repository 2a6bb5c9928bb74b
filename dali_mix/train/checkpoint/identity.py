"""What must be equal for a run to go on exactly: a state of other data or settings would be taken, and diverge."""

from __future__ import annotations

import os
import socket
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import nvidia.dali
import timm
import torch

from dali_mix import native
from dali_mix.train.data import Data, Loaders
from dali_mix.train.distributed import World
from dali_mix.train.settings.sections import Settings, all_settings, plain_settings

_MIXING, _AUGMENTATION, _ORDER = "mixing operators", "augmentation operators", "order of the images"
_NO_SETTINGS = ("training images", "training data", "ranks", "DALI backend", _AUGMENTATION, _MIXING, _ORDER)


def identify(settings: Settings, data: Data, loaders: Loaders, world: World) -> dict[str, Any]:
    """Return what a checkpoint says of the run it belongs to; plain types.

    "fingerprint" must be equal for an exact continuation, "computed_by" should be, "launcher" tells a restart by
    torchrun from another run.
    """
    return {
        "fingerprint": _fingerprint(settings, data, loaders, world),
        "computed_by": _computed_by(world.device),
        "launcher": _launcher(),
    }


def _computed_by(device: torch.device) -> dict[str, str | int]:
    """What decides how sums are rounded, and in what order they are taken."""
    found: dict[str, str | int] = {
        "torch": str(torch.__version__),
        "DALI": nvidia.dali.__version__,
        "timm": timm.__version__,
        "NumPy": np.__version__,
        "dali_mix": _own_version(),
        "device": device.type,
    }
    if device.type == "cuda":
        found |= {
            "GPU": torch.cuda.get_device_name(device),
            "CUDA": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),
        }
    else:
        # Each thread sums a part of its own; the instructions say how many numbers at once.
        found |= {
            "threads of torch": torch.get_num_threads(),
            "CPU instructions": torch.backends.cpu.get_cpu_capability(),
        }
    return found


def _own_version() -> str:
    try:
        return version("dali_mix")
    except PackageNotFoundError:  # a source tree that was never installed
        return ""


def _fingerprint(settings: Settings, data: Data, loaders: Loaders, world: World) -> dict[str, Any]:
    """Everything that decides the weights, by name; plain types."""
    values, train = plain_settings(settings), data.train
    return {name: values[name] for name in _decisive()} | {
        "training images": len(train) if train else 0,
        "training data": train.digest()[:16] if train else "",
        _ORDER: "dali_mix's",
        "ranks": world.size,
        "DALI backend": loaders.backend,
        _AUGMENTATION: native.implementation(loaders.backend) if loaders.augments else None,
        _MIXING: native.implementation(loaders.backend),
    }


def differences(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """List the names whose values differ, each with both: "--batch-size was 10, is 12".

    A setting that the saved run did not know, or left open, had the effect of its default: a new flag never makes an
    old checkpoint refuse.
    """
    # Before augmentation had an entry it was the portable graph's.
    then = {_AUGMENTATION: current.get(_AUGMENTATION) and "portable"} | saved
    if _ORDER in current:
        then.setdefault(_ORDER, "that of DALI's reader")
    for name, default in _decisive().items():
        if name in current and then.get(name) is None:
            then[name] = default
    names = [name for name in current if then.get(name) != current[name]]
    return [f"{_shown(name)} was {then.get(name)!r}, is {current[name]!r}{_remedy(name, then)}" for name in names]


def _decisive() -> dict[str, Any]:
    """The settings that change weights, with the values that they have where nothing is given."""
    defaults = plain_settings(Settings.of())
    decisive = [each.flag for each in all_settings() if each.option.saved and each.option.changes_weights]
    return {name: defaults[name] for name in decisive}


def _shown(name: str) -> str:
    """A setting's flag; what is no setting as it is."""
    return name if name in _NO_SETTINGS else f"--{name.replace('_', '-')}"


def _remedy(name: str, then: dict[str, Any]) -> str:
    if name == _ORDER:
        return " (the version that saved it still continues it exactly)"
    if name not in (_AUGMENTATION, _MIXING):
        return ""
    # A run of before whose mixing was native, but not its augmentation, can be had by neither switch.
    kinds = {then.get(_MIXING), then.get(_AUGMENTATION) or then.get(_MIXING)}
    for kind, switch in ("native", "on"), ("portable", "off"):
        if kinds == {kind}:
            return f" (--native {switch} takes the saved ones)"
    return " (saved before there was a choice)"


def _launcher() -> str:
    """Which torchrun started this process; the same after it has replaced its ranks, "" without one."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name is None:
        return ""
    parent = os.getppid()
    try:
        started = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        started = ""
    # "none" is the name of every torchrun that was given none.
    return f"{socket.gethostname()} {parent} {started}" if name == "none" else name
