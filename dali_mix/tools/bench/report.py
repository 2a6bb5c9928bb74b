"""What a benchmark ran on, and its figures as text."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import nvidia.dali
import timm
import torch

import dali_mix


def environment() -> dict[str, Any]:
    """Machine and versions."""
    return {
        "cpu": _cpu_name(),
        "cpus": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "dali": nvidia.dali.__version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "dali_mix": dali_mix.__version__,
    }


def format_table(record: dict[str, Any]) -> str:
    """The figures of a benchmark: one line per alternative, median and quartiles."""
    width = max(map(len, record["results"]))
    unit = record["unit"]
    lines = [", ".join(f"{name} {value}" for name, value in record["environment"].items() if value is not None)]
    lines.append(f"{'':<{width}}  {unit:>24}  {'time / ' + record['baseline']:>24}")
    for name, figures in record["results"].items():
        speed, ratio = figures["per_s"], figures["ratio"]
        lines.append(f"{name:<{width}}  {_cell(speed, '.0f'):>24}  {_cell(ratio, '.3f'):>24}")
    return "\n".join(lines)


def _cell(spread: dict[str, float], form: str) -> str:
    return f"{spread['median']:{form}} ({spread['low']:{form}}..{spread['high']:{form}})"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
