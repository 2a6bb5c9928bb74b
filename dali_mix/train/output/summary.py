"""``summary.csv``: what happened in each epoch."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from dali_mix.files import replace_file
from dali_mix.train.columns import COLUMNS, TRAIN_LOSS, is_column


class Summary:
    """``summary.csv``, one row per epoch, on disk as soon as the epoch is over.

    Args:
        path: the file; one that is there already is replaced.
        rows: of the epochs before this process, to go on from; they are written first.
        parts: of the training loss, which have a column "train_PART" each.

    Fields:
        columns: of the file, in every row.

    Raises:
        ValueError: if a row has a key that is no column.
    """

    def __init__(self, path: Path, rows: Sequence[dict[str, float]] = (), parts: Sequence[str] = ()) -> None:
        self._path = path
        self.rows: list[dict[str, float]] = list(rows)
        earlier = (name for row in rows for name in row if name not in COLUMNS and is_column(name))
        after = COLUMNS.index(TRAIN_LOSS) + 1
        added = dict.fromkeys([*(f"train_{part}" for part in parts), *earlier])
        self.columns = (*COLUMNS[:after], *added, *COLUMNS[after:])
        self._write()

    def add(self, row: dict[str, float]) -> None:
        """Append a row; a column that has no value this time stays empty.

        Raises:
            ValueError: if the row has a key that is no column.
        """
        self._cells(row)
        self.rows.append(row)
        self._write()

    def _write(self) -> None:
        # The whole file: after a full disk it is complete again.
        lines = [self.columns, *(self._cells(row) for row in self.rows)]
        replace_file(self._path, lambda temporary: _write(temporary, lines))

    def _cells(self, row: dict[str, float]) -> list[str]:
        unknown = sorted(set(row) - set(self.columns))
        if unknown:
            raise ValueError(f"the summary has no column {', '.join(unknown)}")
        return [_cell(row.get(name)) for name in self.columns]

    def best(self, metric: str = "eval_top1") -> dict[str, float] | None:
        """Find the best row so far, the earliest of equals; None while no row has the metric.

        Args:
            metric: an "eval_*" column; of a loss the lowest is best, of an accuracy the highest.

        Raises:
            ValueError: if the metric is no such column.
        """
        if metric not in COLUMNS or not metric.startswith("eval_"):
            raise ValueError(f"{metric!r} is not an eval_* column of the summary")
        # NaN compares as neither better nor worse, so one in the first row would win for ever.
        evaluated = [row for row in self.rows if (value := row.get(metric)) is not None and not math.isnan(value)]
        choose = min if metric.endswith("_loss") else max
        return choose(evaluated, key=lambda row: row[metric], default=None)


def _write(path: Path, lines: Sequence[Sequence[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
