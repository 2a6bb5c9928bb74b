"""``curves.png``: losses, accuracy and learning rate over the epochs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dali_mix.files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE_IN = (15.0, 5.2)
_MOST_MARKED = 40
_LOG_FROM_RATIO = 100.0
# Beyond this matplotlib's own arithmetic overflows; such a loss is as good as infinite.
_LARGEST = 1e30


class _Look(NamedTuple):
    label: str
    color: str
    style: str = "-"


# Colors that color-blind readers can tell apart (Okabe and Ito).
_OF_ALL_BATCHES = {
    "train_loss": _Look("training, all batches", "#0072B2"),
    "train_classification": _Look("training: classification", "#56B4E9", "--"),
}
_PART_COLORS = ("#009E73", "#CC79A7", "#E69F00", "#000000")
_VALIDATION = {"eval_loss": _Look("validation", "#D55E00")}
_ACCURACIES = {
    "eval_top1": _Look("model", "#D55E00"),
    "eval_ema_top1": _Look("EMA of the weights", "#0072B2"),
}
_RATE = {"lr": _Look("learning rate", "#444444")}


class _Points(NamedTuple):
    epochs: list[float]
    values: list[float]

    @property
    def finite(self) -> list[tuple[float, float]]:
        return [(x, y) for x, y in zip(self.epochs, self.values, strict=True) if not math.isnan(y)]


def draw_curves(rows: Sequence[Mapping[str, float]], path: Path) -> bool:
    """Draw the summary's rows as PNG, or return False if they have nothing to draw.

    An epoch without evaluation is passed over; at a value that is not finite the line is broken.

    Args:
        rows: of the summary; a missing column or None is no value.
        path: of the PNG; it is replaced as a whole.
    """
    parts = _looks_of_parts(rows)
    loss_looks = _OF_ALL_BATCHES | parts | _VALIDATION
    losses, accuracies, rate = (_collect(rows, looks) for looks in (loss_looks, _ACCURACIES, _RATE))
    if losses.get("train_classification") == losses.get("train_loss"):
        # Where classification is all there is, it would lie on the total.
        losses.pop("train_classification", None)
    drawn = [x for panel in (losses, accuracies, rate) for points in panel.values() for x, _ in points.finite]
    if not drawn:
        return False
    # Here, because half a second is too much for --help and for the ranks that draw nothing.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=_SIZE_IN, dpi=110)
    canvas = FigureCanvasAgg(figure)
    loss_axes, accuracy_axes, rate_axes = figure.subplots(1, 3)
    # Without saying so, the parts would seem not to add up.
    title = "Loss  (*: of the batches that have it)" if parts.keys() & losses.keys() else "Loss"
    _draw_panel(loss_axes, losses, loss_looks, title, "loss (mean over the epoch)")
    _draw_panel(accuracy_axes, accuracies, _ACCURACIES, "Validation accuracy", "top-1 (%)")
    _draw_panel(rate_axes, rate, _RATE, "Learning rate", "learning rate")
    _mark_best(accuracy_axes, accuracies)
    _scale_rate(rate_axes, rate)
    margin = max(0.5, 0.02 * (max(drawn) - min(drawn)))
    for axes in (loss_axes, accuracy_axes, rate_axes):
        axes.set_xlim(min(drawn) - margin, max(drawn) + margin)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    for axes in (loss_axes, accuracy_axes):
        if axes.get_legend_handles_labels()[0]:
            # Below the axis' label, where no curve can be.
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, fontsize=9, frameon=False)
    # Margins that matplotlib finds by itself, and savefig, draw all two times more.
    rows_of_legend = max(len(axes.get_legend_handles_labels()[0]) + 1 for axes in (loss_axes, accuracy_axes)) // 2
    bottom = (0.6 + 0.2 * rows_of_legend) / _SIZE_IN[1]
    figure.subplots_adjust(left=0.05, right=0.988, bottom=bottom, top=0.92, wspace=0.19)
    replace_file(path, canvas.print_png)
    return True


def _looks_of_parts(rows: Sequence[Mapping[str, float]]) -> dict[str, _Look]:
    """The looks of those parts of the training loss that only some batches have, in the order in which they come."""
    columns = dict.fromkeys(name for row in rows for name in row if name.startswith("train_"))
    parts = [name for name in columns if name not in _OF_ALL_BATCHES]
    return {
        name: _Look(f"training: {name.removeprefix('train_').replace('_', '-')}*", color, "--")
        for name, color in zip(parts, itertools.cycle(_PART_COLORS), strict=False)
    }


def _collect(rows: Sequence[Mapping[str, float]], columns: Mapping[str, _Look]) -> dict[str, _Points]:
    """The points of each column that has a finite value; epochs counted from 1, as on the terminal."""
    found = {}
    for column in columns:
        with_value = [row for row in rows if row.get(column) is not None]
        values = [row[column] if abs(row[column]) < _LARGEST else math.nan for row in with_value]
        points = _Points([row["epoch"] + 1 for row in with_value], values)
        if points.finite:
            found[column] = points
    return found


def _draw_panel(axes: Axes, panel: Mapping[str, _Points], looks: Mapping[str, _Look], title: str, unit: str) -> None:
    for column, points in panel.items():
        look = looks[column]
        marker = "o" if len(points.finite) <= _MOST_MARKED else ""
        axes.plot(
            points.epochs,
            points.values,
            color=look.color,
            linestyle=look.style,
            marker=marker,
            markersize=4,
            linewidth=1.6,
            label=look.label,
        )
    if not panel:
        axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", va="center", color="gray")
        axes.set_yticks([])
    axes.set_title(title, fontsize=13)
    axes.set_xlabel("epoch")
    axes.set_ylabel(unit)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4))  # no label is wider than the margin
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _mark_best(axes: Axes, accuracies: Mapping[str, _Points]) -> None:
    """A star on the highest point of each curve, the first of equals, with its value in the legend."""
    for column, points in accuracies.items():
        epoch, value = max(points.finite, key=lambda point: point[1])
        axes.plot(
            [epoch],
            [value],
            color=_ACCURACIES[column].color,
            linestyle="",
            marker="*",
            markersize=14,
            markeredgecolor="black",
            markeredgewidth=0.7,
            zorder=3,
            label=f"best: {value:.2f} %, epoch {epoch:.0f}",
        )


def _scale_rate(axes: Axes, rate: Mapping[str, _Points]) -> None:
    """A logarithmic axis where a linear one would show most of the schedule as zero."""
    values = [value for points in rate.values() for _, value in points.finite]
    # A schedule's last value is nearly zero; of a log scale it would take most.
    positive = [value for value in values[:-1] or values if value > 0]
    if positive and max(positive) > _LOG_FROM_RATIO * min(positive):
        axes.set_yscale("log", nonpositive="mask")
        axes.set_ylabel("learning rate (log scale)")
        axes.set_ylim(min(positive) / 2, 2 * max(values))
    elif positive:
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 4))
        # From zero: a rate that hardly changes should look like one.
        axes.set_ylim(bottom=0, top=1.05 * max(values))
