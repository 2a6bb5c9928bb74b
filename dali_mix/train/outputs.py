"""What a run leaves behind, written by the main rank."""

from __future__ import annotations

import argparse
import datetime
import logging
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from dali_mix.errors import ConfigError
from dali_mix.train.checkpoint import save_checkpoint
from dali_mix.train.loop import Trainer
from dali_mix.train.preview import Preview
from dali_mix.train.report import Summary, Trackers, WandbOptions, draw_curves, table
from dali_mix.train.weights import save_weights

_log = logging.getLogger(__name__)


class RunFolder:
    """``output/EXPERIMENT``; an older run of the same name is left alone.

    Args:
        args: checked settings, written to ``args.yaml``, which ``--config`` takes.
        num_classes: of the data.
        classes: their names, written to ``classes.txt``, which ``--class-map`` takes.

    Raises:
        ConfigError: if it cannot be written.
    """

    def __init__(self, args: argparse.Namespace, num_classes: int, classes: tuple[str, ...]) -> None:
        self._args = args
        self.path = _make_folder(args)
        self.summary = Summary(self.path / "summary.csv")
        settings = plain_settings(args) | {"num_classes": num_classes}
        (self.path / "args.yaml").write_text(yaml.safe_dump(settings, default_flow_style=None))
        (self.path / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
        wandb = None
        if args.log_wandb:
            project = args.wandb_project or args.experiment or None
            wandb = WandbOptions(project, tuple(args.wandb_tags), args.wandb_resume_id or None, self.path.name)
        self._trackers = Trackers(self.path, settings, wandb=wandb)
        _log.info("writing to %s", self.path)

    def add_epoch(self, row: dict[str, float], trainer: Trainer, preview: Preview) -> None:
        """Write an epoch's row, curves, preview and checkpoint."""
        self.summary.add(row)
        epoch = int(row["epoch"])
        self._trackers.add(row, epoch)
        best = self._best()
        state = _state(self._args, trainer, row)
        save_checkpoint(self.path, epoch, state, keep=self._args.checkpoint_hist, is_best=best is row)
        draw_curves(self.summary.rows, self.path / "curves.png")
        preview.save(self.path / "preview.png")

    def finish(self, trainer: Trainer) -> str:
        """Write the final weights; returns the table for the terminal."""
        save_weights(trainer.model, self.path / "model.safetensors")
        if trainer.ema is not None:
            save_weights(trainer.ema.module, self.path / "model_ema.safetensors")
        return table(self._final_rows(trainer.model))

    def close(self) -> None:
        """Let the trackers finish."""
        self._trackers.close()

    def _best_column(self) -> str:
        """What the best epoch is best in: as in timm's trainer, the average's metric where it is evaluated."""
        averaged = self._args.model_ema and not self._args.model_ema_force_cpu
        return f"eval_ema_{self._args.eval_metric}" if averaged else f"eval_{self._args.eval_metric}"

    def _best(self) -> dict[str, float] | None:
        return self.summary.best(self._best_column())

    def _final_rows(self, model: nn.Module) -> list[tuple[str, str]]:
        rows, metric = self.summary.rows, self._args.eval_metric
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        lines = [
            ("model", f"{self._args.model}, {millions:.2f} M parameters"),
            ("epochs", str(len(rows))),
            *metric_rows(_metrics(rows[-1], "eval_")),
        ]
        if "eval_ema_top1" in rows[-1]:
            lines += [(f"EMA {name}", value) for name, value in metric_rows(_metrics(rows[-1], "eval_ema_"))]
        best = self._best()
        if best is not None:
            value = f"{_formatted(metric, best[self._best_column()])} in epoch {int(best['epoch']) + 1}"
            average = "EMA " if "ema" in self._best_column() else ""
            lines.append((f"best {average}{_LABELS[metric]}", f"{value}, model_best.pth.tar"))
        lines += [
            ("time", f"{sum(row['seconds'] for row in rows):.0f} s"),
            ("weights", " and ".join(str(path) for path in sorted(self.path.glob("model*.safetensors")))),
            ("per epoch", f"{self.path / 'summary.csv'}, curves.png"),
        ]
        if (self.path / "preview.png").exists():
            lines.append(("preview", str(self.path / "preview.png")))
        return lines


_LABELS = {"loss": "loss", "top1": "top-1", "top5": "top-5"}


def metric_rows(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """Loss, top-1 and top-5 for :func:`table`."""
    return [(_LABELS[name], _formatted(name, metrics[name])) for name in ("loss", "top1", "top5")]


def _metrics(row: dict[str, float], prefix: str) -> dict[str, float]:
    return {name: row[prefix + name] for name in _LABELS}


def _formatted(name: str, value: float) -> str:
    return f"{value:.3f}" if name == "loss" else f"{value:.2f} %"


def _make_folder(args: argparse.Namespace) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = args.experiment or f"{stamp}-{args.model.replace('/', '_')}"
    folder, count = args.output / name, 0
    try:
        while folder.exists():
            count += 1
            folder = args.output / f"{name}-{count}"
        folder.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"--output {args.output} cannot be written: {error.strerror}") from error
    return folder


def _state(args: argparse.Namespace, trainer: Trainer, row: dict[str, float]) -> dict[str, Any]:
    token_head = trainer.stage.token_head if trainer.stage else None
    return {
        "arch": args.model,
        "epoch": int(row["epoch"]),
        "updates": trainer.updates,
        "state_dict": trainer.model.state_dict(),
        "state_dict_ema": trainer.ema.module.state_dict() if trainer.ema else None,
        "token_head": token_head.state_dict() if token_head else None,
        "optimizer": trainer.updater.optimizer.state_dict(),
        "scaler": trainer.updater.precision.scaler.state_dict(),
        "metrics": dict(row),
        "args": plain_settings(args),
    }


def plain_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings as YAML and ``torch.load(weights_only=True)`` can read them, and ``--config`` takes them."""
    settings = {name: value for name, value in vars(args).items() if name not in ("config", "data", "recipe")}
    return _plain(settings)


def _plain(value: Any) -> Any:
    """Paths as text and tuples as lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
