"""A whole run: settings, data, model, epochs, results."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from timm.models import model_parameters
from timm.utils import random_seed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dali_mix.data import MixLoader
from dali_mix.errors import ConfigError, DataError
from dali_mix.smmix import SMMix
from dali_mix.train import building
from dali_mix.train.config import parse_args
from dali_mix.train.datasets import Data, Loaders, Pipelines, open_data
from dali_mix.train.distributed import World, open_world
from dali_mix.train.evaluate import evaluate
from dali_mix.train.loop import Trainer, TrainingError
from dali_mix.train.optimization import Precision, Updater, create_ema, create_optimizer, create_scheduler
from dali_mix.train.outputs import RunFolder, metric_rows
from dali_mix.train.preview import Preview
from dali_mix.train.report import Progress, table
from dali_mix.train.step import TrainStep

_log = logging.getLogger(__name__)


def main(pipelines: Pipelines, argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        pipelines: name for ``--pipeline`` to two functions, which make the training and the validation
            pipeline and have parameters named as those of ``pipelines.imagenet``.
        argv: the command line, None for this process's own.

    Returns:
        The exit code: 0 done, 1 training had to stop, 2 settings or data that cannot work, 130 interrupted.
    """
    args = parse_args(argv)
    try:
        with open_world(args.device, args.deterministic) as world:
            _configure_logging(world)
            _run(args, world, pipelines)
    except (ConfigError, DataError, TrainingError) as error:
        _complain(f"error: {error}")
        return 1 if isinstance(error, TrainingError) else 2
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except RuntimeError as error:
        if "use_deterministic_algorithms" not in str(error):
            raise
        _complain(f"error: --deterministic: {str(error).splitlines()[0]}")
        return 2
    return 0


def _run(args: argparse.Namespace, world: World, pipelines: Pipelines) -> None:
    random_seed(args.seed, world.rank)
    data = open_data(args, world)
    model, config = building.create_model(args, data.num_classes, world)
    stage = building.create_stage(args, model, config, data.num_classes)
    building.load_initial(args, model, stage)
    loaders = Loaders(args, data, config, world, pipelines)
    with ExitStack() as stack:
        validation = stack.enter_context(loaders.validation())
        if args.eval_only:
            _evaluate_only(args, model, validation, world)
            return
        run = _Run(args, world, data, model, stage, loaders, validation)
        stack.callback(run.close)
        if args.bench_steps:
            run.bench(args.bench_steps)
        else:
            run.train(Preview(data.val.classes, config["mean"], config["std"], args.smoothing, stage))


def _evaluate_only(args: argparse.Namespace, model: nn.Module, loader: MixLoader, world: World) -> None:
    precision = Precision(world.device.type, args.amp, args.amp_dtype)
    metrics = evaluate(model, loader, world, precision.autocast)
    if world.is_main:
        print(table([("images", str(loader.num_samples)), *metric_rows(metrics)]))


class _Run:
    """The epochs of a run."""

    def __init__(
        self,
        args: argparse.Namespace,
        world: World,
        data: Data,
        model: nn.Module,
        stage: SMMix | None,
        loaders: Loaders,
        validation: MixLoader,
    ) -> None:
        self._args, self._world, self._data = args, world, data
        self._loaders, self._validation = loaders, validation
        self._training = loaders.training()
        self.trainer, self._epochs = _build_trainer(args, world, model, stage, len(self._training))
        off: int = args.mixup_off_epoch
        if off >= self._epochs:
            _log.warning("--mixup-off-epoch %d has no effect: the run ends with epoch %d", off, self._epochs)

    def close(self) -> None:
        """Release the training pipeline."""
        self._training.close()

    def bench(self, steps: int) -> None:
        """Train for so many batches and say how fast; nothing is written."""
        trainer, world = self.trainer, self._world
        steps = min(steps, len(self._training))
        trainer.log_interval = steps
        _log.info(_description(self._args, trainer))
        progress = Progress(1, self._images(steps), shown=False)
        row = trainer.train_epoch(self._training, 0, progress, max_steps=steps)
        if world.is_main:
            lines = [
                ("batches", f"{steps} of {self._args.batch_size} on each of {world.size} rank(s)"),
                ("speed", f"{row['img_per_s']:.1f} img/s, start-up of the pipeline included"),
                ("data wait", f"{row['data_wait']:.1%} of the time"),
            ]
            if world.device.type == "cuda":
                lines.append(("memory", f"{torch.cuda.max_memory_allocated(world.device) / 2**30:.1f} GiB at most"))
            print(table(lines))

    def train(self, preview: Preview) -> None:
        """All epochs; the main rank writes and speaks."""
        args, world = self._args, self._world
        if world.is_main:
            self.trainer.watch = preview.watch
        folder = RunFolder(args, self._data.num_classes, self._data.val.classes) if world.is_main else None
        _log.info(_description(args, self.trainer))
        progress = Progress(self._epochs, self._images(len(self._training)), shown=world.is_main)
        try:
            for epoch in range(self._epochs):
                start = time.perf_counter()
                preview.restart()
                row = self._train_epoch(epoch, progress)
                row |= {"epoch": epoch, "seconds": time.perf_counter() - start}
                if folder:
                    folder.add_epoch(row, self.trainer, preview)
                    progress.epoch_done(row)
        finally:
            progress.close()
            if folder:
                folder.close()
        if folder:
            print(folder.finish(self.trainer))

    def _images(self, steps: int) -> int:
        return steps * self._args.batch_size * self._world.size

    def _train_epoch(self, epoch: int, progress: Progress) -> dict[str, float]:
        args, trainer, world = self._args, self.trainer, self._world
        if epoch and epoch == args.mixup_off_epoch:
            self._stop_mixing(epoch)
        row = trainer.train_epoch(self._training, epoch, progress)
        if not args.sync_bn:
            # Each rank has BatchNorm statistics of its own batches; all evaluate, and save, the same.
            world.share_batch_norm(trainer.model, args.dist_bn)
            if trainer.ema is not None and not args.model_ema_force_cpu:
                world.share_batch_norm(trainer.ema.module, args.dist_bn)
        if (epoch + 1) % args.val_interval == 0 or epoch + 1 == self._epochs:
            row |= self._evaluate()
        trainer.scheduler.step(epoch + 1)
        return row

    def _evaluate(self) -> dict[str, float]:
        trainer, args = self.trainer, self._args
        models = {"eval_": trainer.model}
        if trainer.ema is not None and not args.model_ema_force_cpu:
            models["eval_ema_"] = trainer.ema.module
        row: dict[str, float] = {}
        for prefix, model in models.items():
            metrics = evaluate(model, self._validation, self._world, trainer.updater.precision.autocast)
            row |= {prefix + name: value for name, value in metrics.items()}
        return row

    def _stop_mixing(self, epoch: int) -> None:
        _log.info("epoch %d: mixing is off from here on (--mixup-off-epoch)", epoch + 1)
        self._training.close()
        self._training = self._loaders.training(mixing=False, first_epoch=epoch)


def _build_trainer(
    args: argparse.Namespace, world: World, model: nn.Module, stage: SMMix | None, batches: int
) -> tuple[Trainer, int]:
    """The trainer, and the number of epochs with cool-down."""
    optimizer = create_optimizer(args, model, stage, world)
    precision = Precision(world.device.type, args.amp, args.amp_dtype)
    ema = create_ema(args, model)  # before compilation: it copies the model
    building.compile_modules(args, model, stage)
    step: nn.Module = TrainStep(model, stage, building.create_loss(args)).to(world.device)
    # Adaptive clipping leaves the classifier alone (Brock 2021, section 4.1), as timm's trainer does.
    clipped = model_parameters(model, exclude_head=True) if args.clip_mode == "agc" else step.parameters()
    if world.size > 1:
        on_gpu = world.device.type == "cuda"
        step = DistributedDataParallel(
            step, device_ids=[world.device] if on_gpu else None, broadcast_buffers=not args.no_ddp_bb
        )
    trainer = Trainer(
        step=step,
        model=model,
        stage=stage,
        updater=Updater(optimizer, precision, list(clipped), args.clip_grad, args.clip_mode),
        scheduler=None,
        world=world,
        seed=args.seed,
        log_interval=args.log_interval,
        watch=_ignore,
        accumulate=args.grad_accum_steps,
        ema=ema,
        synchronize=args.synchronize_step,
    )
    trainer.scheduler, epochs = create_scheduler(args, optimizer, trainer.updates_per_epoch(batches))
    return trainer, epochs


def _description(args: argparse.Namespace, trainer: Trainer) -> str:
    """What the defaults came to, in one line."""
    world, precision = trainer.world, trainer.updater.precision
    numbers = str(precision.dtype).removeprefix("torch.") if precision.enabled else "float32"
    total = args.batch_size * world.size * args.grad_accum_steps
    groups: list[dict[str, Any]] = trainer.updater.optimizer.param_groups
    initial = max(group.get("initial_lr", group["lr"]) for group in groups)
    return f"{args.model} on {world.size} x {world.device.type}, {numbers}, {total} images per update, lr {initial:.3g}"


def _ignore(*_: object) -> None:
    return None


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
