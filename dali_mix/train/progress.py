"""What the person at the terminal, or the reader of a job's log, sees."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from dali_mix.text import show

_log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 20.0

# Without tqdm's own img/s: the caller's, in the postfix, leaves out evaluation.
_BAR_FORMAT = "{desc}run {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} img [{elapsed}<{remaining}{postfix}]"


class Progress:
    """A bar over the whole run with loss, img/s and time left; plain lines where there is no terminal.

    Args:
        epochs: of the whole run.
        images_per_epoch: over all ranks.
        shown: False shows nothing, as for all ranks but one.
        done_epochs: that an earlier process has trained; the time left is judged by this process's epochs alone.
    """

    def __init__(self, epochs: int, images_per_epoch: int, shown: bool, done_epochs: int = 0) -> None:
        self._epochs = epochs
        self._done_epochs = done_epochs
        self._shown = shown
        self._start = self._last_line = time.perf_counter()
        self._bar = tqdm(
            total=epochs * images_per_epoch,
            initial=done_epochs * images_per_epoch,
            bar_format=_BAR_FORMAT,
            unit_scale=True,
            # The mean since the start: it has evaluation and checkpoints in it, as the rest of the run will.
            smoothing=0,
            # None: no bar where stderr is not a terminal.
            disable=None if shown else True,
            file=sys.stderr,
            leave=False,
        )

    def advance(self, images: int) -> None:
        """Count images of one update."""
        self._bar.update(images)

    def show(
        self,
        epoch: int,
        share: float,
        loss: float,
        lr: float,
        *,
        img_per_s: float | None = None,
        data_wait: float | None = None,
    ) -> None:
        """Write the newest loss beside the bar, whose share is the run's, or now and then on a line of its own.

        Args:
            epoch: counted from 0.
            share: of the epoch that is done, in [0, 1].
            loss, lr: of the newest update.
            img_per_s: the training rate.
            data_wait: share of the time, in [0, 1], that training waited for data.
        """
        if not self._shown:
            return
        name = f"epoch {epoch + 1}/{self._epochs}"
        parts = [f"training loss {loss:.3f}", f"lr {lr:.2e}", *_speed(img_per_s, data_wait)]
        if self._bar.disable and time.perf_counter() > self._last_line + _SECONDS_BETWEEN_LINES:
            self._last_line = time.perf_counter()
            _log.info("  ".join([name, f"{share:4.0%}", *parts, *self._left(epoch + share)]))
        self._bar.set_description(name, refresh=False)
        self._bar.set_postfix_str("  ".join(parts))

    def epoch_done(self, row: dict[str, float]) -> None:
        """Print the epoch's line, above the bar if there is one.

        Args:
            row: of the summary; what it has no value for is left out.
        """
        if not self._shown:
            return
        done = int(row["epoch"]) + 1
        parts = [f"epoch {done}/{self._epochs}"]
        for column, form in (
            ("train_loss", "training loss {:.3f}"),
            ("eval_top1", "top-1 {:.2f} %"),
            ("eval_top5", "top-5 {:.2f} %"),
            ("eval_ema_top1", "EMA top-1 {:.2f} %"),
            ("lr", "lr {:.2e}"),
        ):
            if row.get(column) is not None:
                parts.append(form.format(row[column]))
        parts += [*_speed(row.get("img_per_s"), row.get("data_wait")), *self._left(done)]
        self._bar.clear()
        _log.info("  ".join(parts))
        self._last_line = time.perf_counter()
        self._bar.refresh()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()

    def _left(self, done: float) -> list[str]:
        """The time left of the run, as one part of a line; none while there is nothing to judge it by.

        Args:
            done: epochs of the whole run.
        """
        here = done - self._done_epochs
        if here <= 0:
            return []
        left = (time.perf_counter() - self._start) / here * (self._epochs - done)
        return [f"left {tqdm.format_interval(left)}"]


def _speed(img_per_s: float | None, data_wait: float | None) -> list[str]:
    parts = []
    if img_per_s is not None:
        parts.append(f"{img_per_s:.0f} img/s")
    if data_wait is not None:
        parts.append(f"data wait {100 * data_wait:.0f} %")
    return parts


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Format two aligned columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {show(value)}" for name, value in rows)
