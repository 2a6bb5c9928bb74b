"""What the trainer's loop costs beside forward, backward and update, with a model of one layer."""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import io
import pstats
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dali_mix.batch import Batch
from dali_mix.methods import Plain
from dali_mix.tools.bench.report import Column
from dali_mix.tools.bench.step_setup import Setup
from dali_mix.tools.bench.step_work import ReadyBatches, synchronize, synthetic
from dali_mix.tools.bench.timing import difference, interleave, spread
from dali_mix.train.epoch_statistics import EpochStatistics
from dali_mix.train.loop import Trainer
from dali_mix.train.model import build_trainer
from dali_mix.train.output import Progress
from dali_mix.train.output.preview import Preview
from dali_mix.train.step import TrainStep

_STEPS = 100
"""Updates of the small model in a segment."""

_SIDE, _CLASSES, _IMAGES = 8, 10, 2
_PLACES = ("train_epoch", "_end_group")
"""The functions of the trainer that are the loop."""

_LISTED = 14


class _Terminal(io.StringIO):
    """The progress bar is drawn here, as it is for a user."""

    def isatty(self) -> bool:
        return True


def measure(setup: Setup, args: argparse.Namespace) -> dict[str, Any]:
    """Time the trainer's loop on batches that are ready, against the same updates written out.

    Args:
        setup: what is trained.
        args: of the command line.

    Returns:
        "results": "bare", forward, backward, optimizer step of one layer; "loop", the same by ``Trainer.train_epoch``
        with progress bar, preview, statistics and schedule; "model", an unmixed step of the benchmark's model: for each
        the "ms" per update and "above_ms", those above the bare one's.  "share": the loop's own part of a step of the
        model.  "seconds" per update and round; "lines" that say what the loop spends it on.
    """
    trainer = _small(setup)
    batch = Batch(
        torch.randn(_IMAGES, 3, _SIDE, _SIDE, device=setup.world.device),
        torch.full((_IMAGES, _CLASSES), 1 / _CLASSES, device=setup.world.device),
        torch.zeros(_IMAGES, dtype=torch.int64, device=setup.world.device),
        "mixup",
    )
    loop = _Loop(trainer, ReadyBatches(lambda: batch))
    model = _Loop(setup.trainer, ReadyBatches(synthetic(setup)["plain"]))
    work: dict[str, Callable[[], float]] = {
        "bare": lambda: _bare(trainer, batch),
        "loop": lambda: loop(_STEPS),
        "model": lambda: model(args.steps),
    }
    with contextlib.redirect_stderr(_Terminal()):
        interleave(work, rounds=1)  # the first updates also grow buffers, and choose and load kernels
        seconds = interleave(work, args.rounds, args.time_limit)
        profile = _profile(lambda: loop(_STEPS))
    above = {name: difference(values, seconds["bare"]) for name, values in seconds.items()}
    share = above["loop"]["median"] / statistics.median(seconds["model"])
    figures = {
        name: {
            "ms": spread([1000 * value for value in values]),
            "above_ms": {key: 1000 * value for key, value in above[name].items()},
        }
        for name, values in seconds.items()
    }
    return {
        "columns": [Column("ms", "ms / update", ".3f"), Column("above_ms", "ms above bare", ".3f")],
        "results": figures,
        "share": share,
        "seconds": seconds,
        "profile": profile,
        "lines": _lines(share, profile, args),
    }


def _lines(share: float, profile: list[dict[str, Any]], args: argparse.Namespace) -> list[str]:
    lines = [f"the loop's own part is {share:.2%} of an update of {args.model} with a batch of {args.batch_size}"]
    lines.append("what it calls, in microseconds per update under a profiler, which makes small calls look larger:")
    lines += [f"{entry['us']:10.1f}  {entry['function']}" for entry in profile]
    return lines


def _small(setup: Setup) -> Trainer:
    """The trainer of a model of one layer, with the same settings and a preview that watches."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * _SIDE * _SIDE, _CLASSES)).to(setup.world.device)
    step = TrainStep(Plain(model, _CLASSES))
    trainer, _ = build_trainer(setup.settings, setup.world, step, batches=1000)
    trainer.watch = Preview([str(index) for index in range(_CLASSES)], [0.0] * 3, [1.0] * 3, 0.0, step).watch
    return trainer


class _Loop:
    """Each call is a number of updates by the trainer's loop; it returns the seconds of one."""

    def __init__(self, trainer: Trainer, batches: ReadyBatches) -> None:
        self._trainer, self._batches = trainer, batches

    def __call__(self, updates: int) -> float:
        device = self._trainer.world.device
        progress = Progress(1, updates * 1000, shown=True)
        synchronize(device)
        start = time.perf_counter()
        self._trainer.train_epoch(self._batches, 0, progress, EpochStatistics(), max_steps=updates)  # type: ignore[arg-type]
        synchronize(device)
        seconds = time.perf_counter() - start
        progress.close()
        return seconds / updates


def _bare(trainer: Trainer, batch: Batch) -> float:
    """The same updates with nothing around them; seconds of one."""
    updater, device = trainer.updater, trainer.world.device
    synchronize(device)
    start = time.perf_counter()
    for _ in range(_STEPS):
        with updater.precision.autocast():
            loss = trainer.step(batch)["loss"]
        updater.precision.scaler.scale(loss).backward()
        updater.precision.scaler.step(updater.optimizer)
        updater.precision.scaler.update()
        updater.optimizer.zero_grad(set_to_none=True)
    synchronize(device)
    return (time.perf_counter() - start) / _STEPS


def _profile(work: Callable[[], object]) -> list[dict[str, Any]]:
    """What the loop calls directly, by the time that it takes."""
    profiler = cProfile.Profile()
    profiler.runcall(work)
    found = []
    for (_, _, name), (*_, callers) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        seconds = sum(times[3] for (_, _, caller), times in callers.items() if caller in _PLACES)
        if seconds and name not in _PLACES:
            found.append({"us": 1e6 * seconds / _STEPS, "function": name})
    return sorted(found, key=lambda entry: -entry["us"])[:_LISTED]
