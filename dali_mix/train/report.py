"""What the person at the terminal sees, and ``summary.csv``."""

from __future__ import annotations

import csv
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

_log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 20.0

COLUMNS = (
    "epoch",
    "train_loss",
    "train_classification",
    "train_fine_grained",
    "train_consistency",
    "eval_loss",
    "eval_top1",
    "eval_top5",
    "lr",
    "img_per_s",
    "seconds",
)
"""Of ``summary.csv``, in every row."""


class Summary:
    """``summary.csv``, one row per epoch, on disk as soon as the epoch is over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[dict[str, float]] = []
        with path.open("w", newline="") as file:
            csv.writer(file).writerow(COLUMNS)

    def add(self, row: dict[str, float]) -> None:
        """Append a row; a column that has no value this time stays empty."""
        self.rows.append(row)
        with self._path.open("a", newline="") as file:
            csv.writer(file).writerow([_cell(row.get(name)) for name in COLUMNS])

    def best(self) -> dict[str, float]:
        """The row with the highest top-1."""
        return max(self.rows, key=lambda row: row["eval_top1"])


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


class Progress:
    """A bar over the whole run with loss, img/s and time left; plain lines where there is no terminal."""

    def __init__(self, epochs: int, images_per_epoch: int, shown: bool) -> None:
        self._epochs = epochs
        self._start = self._last_line = time.perf_counter()
        self._bar = tqdm(
            total=epochs * images_per_epoch,
            unit="img",
            unit_scale=True,
            smoothing=0.05,
            # None: no bar where stderr is not a terminal.
            disable=None if shown else True,
            file=sys.stderr,
            leave=False,
        )

    def advance(self, images: int) -> None:
        """Count images of one update."""
        self._bar.update(images)

    def show(self, epoch: int, share: float, loss: float, lr: float) -> None:
        """Write the newest loss beside the bar, or now and then on a line of its own.

        Args:
            epoch: counted from 0.
            share: of the epoch that is done.
            loss, lr: of the newest update.
        """
        if self._bar.disable and time.perf_counter() > self._last_line + _SECONDS_BETWEEN_LINES:
            self._last_line = time.perf_counter()
            _log.info(f"epoch {epoch + 1}/{self._epochs}  {share:4.0%}  loss {loss:.3f}  lr {lr:.2e}")
        self._bar.set_description(f"epoch {epoch + 1}/{self._epochs}", refresh=False)
        self._bar.set_postfix_str(f"loss {loss:.3f} lr {lr:.2e}")

    def epoch_done(self, row: dict[str, float]) -> None:
        """Print the epoch's line, above the bar if there is one."""
        done = int(row["epoch"]) + 1
        left = (time.perf_counter() - self._start) / done * (self._epochs - done)
        line = (
            f"epoch {done}/{self._epochs}  loss {row['train_loss']:.3f}  top-1 {row['eval_top1']:.2f} %  "
            f"top-5 {row['eval_top5']:.2f} %  lr {row['lr']:.2e}  {row['img_per_s']:.0f} img/s  "
            f"left {tqdm.format_interval(left)}"
        )
        self._bar.clear()
        _log.info(line)
        self._last_line = time.perf_counter()
        self._bar.refresh()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Two aligned columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)
