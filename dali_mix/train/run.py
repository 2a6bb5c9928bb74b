"""A whole run: what ``train_imagenet.py`` does between its command line and its exit code."""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.utils import distribute_bn, random_seed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dali_mix.data import MixLoader
from dali_mix.errors import ConfigError, DataError
from dali_mix.smmix import SMMix
from dali_mix.train import prepare
from dali_mix.train.arguments import parse_args
from dali_mix.train.checkpoint import save_checkpoint, save_weights
from dali_mix.train.distributed import World, open_world
from dali_mix.train.evaluate import evaluate
from dali_mix.train.loop import Precision, Trainer, TrainingError
from dali_mix.train.preview import Preview
from dali_mix.train.report import Progress, Summary, table
from dali_mix.train.step import TrainStep

_log = logging.getLogger(__name__)


def main(
    build_train: prepare.PipelineFactory, build_val: prepare.PipelineFactory, argv: Sequence[str] | None = None
) -> int:
    """Run the command line.

    Args:
        build_train, build_val: make the pipelines, with the parameters of ``pipelines.imagenet``.
        argv: the command line, None for this process's own.

    Returns:
        The exit code: 0 done, 1 training had to stop, 2 settings or data that cannot work, 130 interrupted.
    """
    args = parse_args(argv)
    try:
        with open_world(args.device) as world:
            _configure_logging(world)
            _run(args, world, build_train, build_val)
    except (ConfigError, DataError, TrainingError) as error:
        _complain(f"error: {error}")
        return 1 if isinstance(error, TrainingError) else 2
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    return 0


def _run(
    args: argparse.Namespace, world: World, build_train: prepare.PipelineFactory, build_val: prepare.PipelineFactory
) -> None:
    random_seed(args.seed, world.rank)
    data = prepare.open_data(args, world)
    model, config = prepare.create_model(args, data.num_classes, world)
    stage = prepare.create_stage(args, model, config, data.num_classes)
    train_loader, val_loader = prepare.open_loaders(args, data, config, world, build_train, build_val)
    with ExitStack() as stack:
        stack.callback(val_loader.close)
        if train_loader is None:
            _evaluate_only(args, model, val_loader, world)
            return
        stack.callback(train_loader.close)
        preview = Preview(data.val.classes, config["mean"], config["std"], args.smoothing, stage)
        _train(args, world, model, stage, (train_loader, val_loader), preview)


def _evaluate_only(args: argparse.Namespace, model: nn.Module, loader: MixLoader, world: World) -> None:
    precision = Precision(world.device.type, args.amp)
    metrics = evaluate(model, loader, world, precision.autocast)
    if world.is_main:
        print(table([("images", str(loader.num_samples)), *_metric_rows(metrics)]))


def _train(
    args: argparse.Namespace,
    world: World,
    model: nn.Module,
    stage: SMMix | None,
    loaders: tuple[MixLoader, MixLoader],
    preview: Preview,
) -> None:
    train_loader, val_loader = loaders
    trainer = _build_trainer(args, world, model, stage, len(train_loader), preview)
    folder = _open_folder(args, world)
    summary = Summary(folder / "summary.csv") if folder else None
    images_per_epoch = len(train_loader) * args.batch_size * world.size
    progress = Progress(args.epochs, images_per_epoch, shown=world.is_main)
    try:
        for epoch in range(args.epochs):
            start = time.perf_counter()
            preview.restart()
            row = trainer.train_epoch(train_loader, epoch, progress)
            if world.size > 1:
                # Each rank has BatchNorm statistics of its own batches; all evaluate, and save, the mean.
                distribute_bn(model, world.size, reduce=True)
            metrics = evaluate(model, val_loader, world, trainer.precision.autocast)
            row.update({f"eval_{name}": value for name, value in metrics.items()})
            row.update(epoch=epoch, seconds=time.perf_counter() - start)
            if folder and summary:
                summary.add(row)
                progress.epoch_done(row)
                state = _state(args, trainer, model, epoch, metrics)
                save_checkpoint(folder, epoch, state, keep=args.checkpoint_hist, is_best=summary.best() is row)
                preview.save(folder / "preview.png")
    finally:
        progress.close()
    if folder and summary:
        save_weights(model, folder / "model.safetensors")
        print(_final_table(args, model, summary, folder))


def _build_trainer(
    args: argparse.Namespace,
    world: World,
    model: nn.Module,
    stage: SMMix | None,
    steps_per_epoch: int,
    preview: Preview,
) -> Trainer:
    optimizer = prepare.create_optimizer(args, model, stage, world)
    args.sched_on_updates = True
    if args.warmup_epochs >= args.epochs:
        _log.warning(
            "--warmup-epochs %d is not shorter than --epochs %d: --lr is never reached", args.warmup_epochs, args.epochs
        )
    scheduler, _ = create_scheduler_v2(optimizer, **scheduler_kwargs(args), updates_per_epoch=steps_per_epoch)
    step: nn.Module = TrainStep(model, stage)
    if world.size > 1:
        step = DistributedDataParallel(step, device_ids=[world.device] if world.device.type == "cuda" else None)
    return Trainer(
        step=step,
        stage=stage,
        optimizer=optimizer,
        scheduler=scheduler,
        precision=Precision(world.device.type, args.amp),
        world=world,
        seed=args.seed,
        log_interval=args.log_interval,
        watch=preview.watch if world.is_main else _ignore,
    )


def _ignore(*_: object) -> None:
    return None


def _open_folder(args: argparse.Namespace, world: World) -> Path | None:
    """The run's folder with ``args.yaml``, on the main rank; an older run of the same name is left alone."""
    if not world.is_main:
        return None
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
    (folder / "args.yaml").write_text(yaml.safe_dump(_plain(vars(args)), default_flow_style=None))
    _log.info("writing to %s", folder)
    return folder


def _state(
    args: argparse.Namespace, trainer: Trainer, model: nn.Module, epoch: int, metrics: dict[str, float]
) -> dict[str, Any]:
    token_head = trainer.stage.token_head if trainer.stage else None
    return {
        "arch": args.model,
        "epoch": epoch,
        "state_dict": model.state_dict(),
        "token_head": token_head.state_dict() if token_head else None,
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.precision.scaler.state_dict(),
        "metrics": metrics,
        "args": _plain(vars(args)),
    }


def _plain(value: Any) -> Any:
    """Paths as text and tuples as lists, so that YAML and ``torch.load(weights_only=True)`` read it."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _final_table(args: argparse.Namespace, model: nn.Module, summary: Summary, folder: Path) -> str:
    best, last = summary.best(), summary.rows[-1]
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    rows = [
        ("model", f"{args.model}, {millions:.2f} M parameters"),
        ("epochs", str(args.epochs)),
        *_metric_rows({name: last[f"eval_{name}"] for name in ("loss", "top1", "top5")}),
        ("best top-1", f"{best['eval_top1']:.2f} % in epoch {int(best['epoch']) + 1}, model_best.pth.tar"),
        ("time", f"{sum(row['seconds'] for row in summary.rows):.0f} s"),
        ("weights", str(folder / "model.safetensors")),
        ("per epoch", str(folder / "summary.csv")),
    ]
    if (folder / "preview.png").exists():
        rows.append(("preview", str(folder / "preview.png")))
    return table(rows)


def _metric_rows(metrics: dict[str, float]) -> list[tuple[str, str]]:
    return [
        ("loss", f"{metrics['loss']:.3f}"),
        ("top-1", f"{metrics['top1']:.2f} %"),
        ("top-5", f"{metrics['top5']:.2f} %"),
    ]


def _complain(message: str) -> None:
    """Say why the run ends, once: what stops one rank mostly stops all.

    Rank 0 speaks first; the launcher then stops the others while they wait here.  If rank 0 is well,
    the others do speak.
    """
    if os.environ.get("RANK", "0") != "0":
        time.sleep(5)
    print(f"train_imagenet.py: {message}", file=sys.stderr)


def _configure_logging(world: World) -> None:
    """Plain lines from the main rank; only errors from the others."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)
    logging.getLogger("dali_mix").setLevel(logging.INFO if world.is_main else logging.ERROR)
