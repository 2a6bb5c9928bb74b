"""What a benchmark ran on, and its figures as text."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any, NamedTuple

import nvidia.dali
import timm
import torch
import torchvision

import dali_mix
from dali_mix.loading.device import select_backend
from dali_mix.native import implementation


class Column(NamedTuple):
    """A column of a table.

    Fields:
        key: of a figure of every alternative.
        title: what the figure is, with its unit.
        form: how its numbers are written, a format of Python's.
    """

    key: str
    title: str
    form: str


SPEED_COLUMNS = (Column("per_s", "{unit}", ".0f"), Column("ratio", "time / {baseline}", ".3f"))
"""The columns of :func:`dali_mix.tools.bench.timing.summarize`; ``{name}`` stands for an entry of the record."""


def environment() -> dict[str, Any]:
    """Machine and versions."""
    return {
        "cpu": _cpu_name(),
        "cpus": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "dali": nvidia.dali.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "dali_mix": dali_mix.__version__,
    }


def describe_mixing(device: str) -> str:
    """A line that says which implementation of the operators was measured.

    Args:
        device: that DALI was asked for.
    """
    on_gpu = select_backend(device).device_id is not None
    return f"native operators: {implementation('gpu' if on_gpu else 'cpu')}"


def format_table(record: dict[str, Any]) -> str:
    """The figures of a benchmark: one line per alternative, median and quartiles; then the lines that it adds.

    Args:
        record: "environment"; "results", for each alternative and each column's key a spread; "columns", else
            :data:`SPEED_COLUMNS`, with the entries that their titles name; "lines", if any.
    """
    columns = [Column(*column) for column in record.get("columns", SPEED_COLUMNS)]
    rows = [["", *(column.title.format_map(record) for column in columns)]]
    for name, figures in record["results"].items():
        rows.append([name, *(_cell(figures[column.key], column.form) for column in columns)])
    name_width, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [", ".join(f"{name} {value}" for name, value in record["environment"].items() if value is not None)]
    for name, *cells in rows:
        padded = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        lines.append("  ".join([f"{name:<{name_width}}", *padded]))
    return "\n".join([*lines, *record.get("lines", [])])


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
