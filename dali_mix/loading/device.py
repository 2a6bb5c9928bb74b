"""Which DALI backend a pipeline runs on."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import NamedTuple

import torch

from dali_mix.errors import ConfigError

_log = logging.getLogger(__name__)


class Backend(NamedTuple):
    """Where a pipeline runs.

    Fields:
        decoder: "mixed" or "cpu", the ``device`` of DALI's decoders.
        device_id: for ``Pipeline``; None builds a pipeline that never touches CUDA.
    """

    decoder: str
    device_id: int | None


def select_backend(device: str, device_id: int = 0) -> Backend:
    """Select the backend for ``device``: "gpu", or "cpu"; "gpu" falls back to "cpu" where there is none.

    Raises:
        ConfigError: for any other name.
    """
    if device not in ("gpu", "cpu"):
        raise ConfigError(f"device must be 'gpu' or 'cpu' (DALI's names), got {device!r}")
    if device == "gpu" and reason_for_cpu() is None:
        return Backend("mixed", device_id)
    if device == "gpu":
        _say_fallback_once()
    return Backend("cpu", None)


def reason_for_cpu() -> str | None:
    """Tell why "gpu" falls back to DALI's CPU backend; None where it does not."""
    if torch.cuda.is_available():
        return None
    if Path("/proc/driver/nvidia/version").exists():
        return f"PyTorch {torch.__version__} cannot use this machine's NVIDIA driver; install a build for its CUDA"
    return "no CUDA GPU found"


@functools.cache
def _say_fallback_once() -> None:
    _log.warning("%s: the same pipeline runs on DALI's CPU backend", reason_for_cpu())
