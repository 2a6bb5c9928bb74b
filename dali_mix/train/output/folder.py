"""What a run leaves behind, written by the main rank."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from dali_mix.errors import ConfigError
from dali_mix.files import remove_leftovers, replace_file, replace_text
from dali_mix.methods import known_parts
from dali_mix.train.bad_files import BAD_FILES
from dali_mix.train.checkpoint.resume import ResumePoint
from dali_mix.train.class_names import class_notes
from dali_mix.train.loop import Trainer
from dali_mix.train.output import Summary, Trackers, WandbOptions, draw_curves, table
from dali_mix.train.output.preview import Preview
from dali_mix.train.run_folder import Place
from dali_mix.train.settings.sections import Settings, plain_settings
from dali_mix.train.weights import read_notes, save_weights

_log = logging.getLogger(__name__)

_REDRAW_S = 10.0
"""Between two drawings of the curves: each takes half a second, and epochs may be as short."""


class RunFolder:
    """``output/EXPERIMENT``; an older run of the same name is left alone unless it is continued.

    Args:
        settings: checked settings, written to ``args.yaml``, which ``--config`` takes.
        num_classes: of the data.
        classes: their names, written to ``classes.txt``, which ``--class-map`` takes.
        start: where the run begins.

    Raises:
        ConfigError: if it cannot be written.

    Later, when results of hours are at stake, a folder that can no longer be written is a warning, not an error.
    """

    def __init__(self, settings: Settings, num_classes: int, classes: tuple[str, ...], start: ResumePoint) -> None:
        self._settings = settings
        self._warned = False
        self._undrawn, self._drawn_at = False, time.monotonic()
        self._classes = class_notes(classes)
        self._place = Place.of(settings)
        self.path = start.folder or self._place.make_folder()
        written = plain_settings(settings) | {"num_classes": num_classes}
        try:
            self._prepare(written, classes, start)
        except OSError as error:
            if start.folder is None:
                # Just made, and no run: the next one may have the name.
                shutil.rmtree(self.path, ignore_errors=True)
            raise ConfigError(f"{self.path} cannot be written: {error.strerror}") from error
        if start.folder is None and start.checkpoint is not None:
            self._take_over_best(start.checkpoint.parents[1])
        wandb = None
        log = settings.log
        if log.log_wandb:
            project = log.wandb_project or settings.run.experiment or None
            wandb = WandbOptions(project, log.wandb_tags, log.wandb_resume_id or None, self.path.name)
        self._trackers = Trackers(self.path, written, wandb=wandb, first_step=start.position.epoch)
        _log.info("writing to %s", self.path)

    def _prepare(self, settings: dict[str, Any], classes: tuple[str, ...], start: ResumePoint) -> None:
        """What is in the folder before the first step."""
        remove_leftovers(self.path)
        self._place.note_start(self.path)
        self.summary = Summary(self.path / "summary.csv", start.rows, known_parts())
        replace_text(self.path / "args.yaml", yaml.safe_dump(settings, default_flow_style=None))
        replace_text(self.path / "classes.txt", "".join(f"{name}\n" for name in classes))

    def add_epoch(self, row: dict[str, float], trainer: Trainer, preview: Preview) -> None:
        """Write an epoch's row, curves, preview and, if it is the best so far, its weights."""
        with self._surviving():
            self.summary.add(row)
        with self._surviving():
            self._trackers.add(row, int(row["epoch"]))
        self._undrawn = True
        if time.monotonic() - self._drawn_at >= _REDRAW_S:
            self._draw_curves()
        with self._surviving():
            preview.save(self.path / "preview.png")
        with self._surviving():
            if self._best() is row:
                averaged = trainer.ema is not None and self._best_column().startswith("eval_ema_")
                model = trainer.ema.module if averaged and trainer.ema is not None else trainer.model
                save_weights(model, self.path / "model_best.safetensors", self._notes(row) | self._classes)

    def finish(self, trainer: Trainer, num_bad: int, skipped: int) -> str:
        """Write the final weights; returns the table for the terminal.

        Raises:
            OSError: if they cannot be written.
        """
        save_weights(trainer.model, self.path / "model.safetensors", self._classes)
        if trainer.ema is not None:
            save_weights(trainer.ema.module, self.path / "model_ema.safetensors", self._classes)
        rows = self._final_rows(trainer.model, num_bad)
        if skipped:
            rows.append(("skipped updates", f"{skipped} of {trainer.updates}, as they were not finite"))
        return table(rows)

    def close(self) -> None:
        """Draw what is missing in the curves, and let the trackers finish."""
        if self._undrawn:
            self._draw_curves()
        with self._surviving():
            self._trackers.close()

    def _draw_curves(self) -> None:
        with self._surviving():
            draw_curves(self.summary.rows, self.path / "curves.png")
        self._undrawn, self._drawn_at = False, time.monotonic()

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        """Results that cannot be written are told once; the training is worth more."""
        try:
            yield
        except OSError as error:
            if not self._warned:
                _log.warning("results cannot be written to %s: %s; training goes on", self.path, error.strerror)
            self._warned = True

    def _take_over_best(self, run: Path) -> None:
        """The best epoch so far may be one of the run that this one continues."""
        best, row = run / "model_best.safetensors", self._best()
        if row is not None and self._notes(row).items() <= read_notes(best).items():
            replace_file(self.path / best.name, lambda temporary: shutil.copyfile(best, temporary))

    def _notes(self, row: dict[str, float]) -> dict[str, str]:
        """What tells the weights of the best epoch from those of another one."""
        column = self._best_column()
        return {"epoch": str(int(row["epoch"])), column: repr(float(row[column]))}

    def _weights(self) -> list[Path]:
        paths = (self.path / "model.safetensors", self.path / "model_ema.safetensors")
        return [path for path in paths if path.exists()]

    def _best_column(self) -> str:
        """What the best epoch is best in: as in timm's trainer, the average's metric where it is evaluated."""
        averaged = self._settings.ema.evaluated
        return f"eval_{'ema_' if averaged else ''}{self._settings.log.eval_metric}"

    def _best(self) -> dict[str, float] | None:
        return self.summary.best(self._best_column())

    def _unkept(self, best: dict[str, float]) -> list[tuple[str, str]]:
        """A row that says so where the model itself was better than the average, which ``model_best`` holds."""
        metric, column = self._settings.log.eval_metric, f"eval_{self._settings.log.eval_metric}"
        own, average = self.summary.best(column), best[self._best_column()]
        if own is None or self._best_column() == column:
            return []
        if not (own[column] < average if metric == "loss" else own[column] > average):
            return []
        value = f"{_formatted(metric, own[column])} in epoch {int(own['epoch']) + 1}"
        return [("", f"the model itself had {value}: with --model-ema, model_best holds the average")]

    def _final_rows(self, model: nn.Module, num_bad: int) -> list[tuple[str, str]]:
        rows, metric = self.summary.rows, self._settings.log.eval_metric
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        lines = [
            ("model", f"{self._settings.model.model}, {millions:.2f} M parameters"),
            ("epochs", str(len(rows))),
            *metric_rows(_metrics(rows[-1], "eval_")),
        ]
        if "eval_ema_top1" in rows[-1]:
            lines += [(f"EMA {name}", value) for name, value in metric_rows(_metrics(rows[-1], "eval_ema_"))]
        best = self._best()
        if best is not None:
            value = f"{_formatted(metric, best[self._best_column()])} in epoch {int(best['epoch']) + 1}"
            average = "EMA " if "ema" in self._best_column() else ""
            file = ", model_best.safetensors" if (self.path / "model_best.safetensors").exists() else ""
            lines.append((f"best {average}{_LABELS[metric]}", value + file))
            lines += self._unkept(best)
        lines += [
            ("time", f"{sum(row['seconds'] for row in rows):.0f} s"),
            ("weights", " and ".join(str(path) for path in self._weights())),
            ("per epoch", f"{self.path / 'summary.csv'}, which counts epochs from 0, and curves.png"),
        ]
        bad_files = self.path / BAD_FILES
        if num_bad:
            lines.append(("bad images", f"{num_bad} replaced" + (f", see {bad_files}" if bad_files.exists() else "")))
        if (self.path / "preview.png").exists():
            lines.append(("preview", str(self.path / "preview.png")))
        return lines


_LABELS = {"loss": "validation loss", "top1": "top-1", "top5": "top-5"}


def metric_rows(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """Make rows for :func:`table` of loss, top-1 and top-5 on the validation images."""
    return [(_LABELS[name], _formatted(name, metrics[name])) for name in ("loss", "top1", "top5")]


def _metrics(row: dict[str, float], prefix: str) -> dict[str, float]:
    return {name: row[prefix + name] for name in _LABELS}


def _formatted(name: str, value: float) -> str:
    return f"{value:.3f}" if name == "loss" else f"{value:.2f} %"
