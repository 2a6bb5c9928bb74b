"""The alternatives of the step benchmark, and how one is timed: by the trainer's own loop."""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from dali_mix.batch import Batch
from dali_mix.methods.losses import smoothed_one_hot
from dali_mix.tools.bench.step_setup import MIXUP_ALPHA, Setup
from dali_mix.train.epoch_statistics import EpochStatistics
from dali_mix.train.loop import Trainer
from dali_mix.train.output import Progress

_SEED = 42
_SMOOTHING = 0.1

WARM_UP = 4
"""Updates of each alternative before the clock starts, two of each branch: the second may compile anew."""

_READY = 6
"""Batches of a loader that are used up first: an idle pipeline holds some ready, and they would come for nothing."""


class StepTime(NamedTuple):
    """What a segment took, per update.

    Fields:
        seconds: until the device had done all its work.
        host_wait_s: in which the host waited for the device.
        data_wait_s: in which the step waited for data.
        peak_mib: most memory that torch held on a GPU; None on the CPU.
        smmix: share of the batches that were SMMix's.
    """

    seconds: float
    host_wait_s: float
    data_wait_s: float
    peak_mib: float | None
    smmix: float


class ReadyBatches:
    """Stands for a loader, and has a batch whenever it is asked.

    Args:
        make: a batch.
    """

    def __init__(self, make: Callable[[], Batch]) -> None:
        self._make = make

    def __len__(self) -> int:
        return sys.maxsize

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._make, None)


def synthetic(setup: Setup) -> dict[str, Callable[[], Batch]]:
    """For each mix what makes its batches: ``torch.randn`` with a fixed seed, on the device, of the pipeline's type."""
    device, num_classes, batch_size = setup.world.device, setup.num_classes, setup.settings.reading.batch_size
    torch.manual_seed(_SEED)
    size = setup.config["input_size"][1:]
    images = torch.randn(batch_size, 3, *size).contiguous(memory_format=torch.channels_last).to(device)
    labels = torch.randint(num_classes, (batch_size,)).to(device)
    targets = smoothed_one_hot(labels, num_classes, _SMOOTHING)
    batch = Batch(images.half() if setup.settings.precision.amp else images, targets, labels, "none")
    rng = random.Random(_SEED)

    def mixup() -> Batch:
        lam = rng.betavariate(MIXUP_ALPHA, MIXUP_ALPHA)
        mixed, soft = (own * lam + own.flip(0) * (1 - lam) for own in (batch.images, batch.targets))
        return batch._replace(images=mixed, targets=soft, branch="mixup")

    def smmix() -> Batch:
        return batch._replace(branch="smmix")

    turns = itertools.cycle([mixup, smmix])
    return {"plain": lambda: batch, "mixup": mixup, "half smmix": lambda: next(turns)(), "smmix": smmix}


@dataclass
class Alternative:
    """One way to train, timed by calling it.

    Fields:
        trainer: of it.
        batches: endless.
        updates: in a segment.
        prepared: whether the batches come from a pipeline that works ahead.
        warm_up_s: seconds of its first updates, one by one.
    """

    trainer: Trainer
    batches: ReadyBatches
    updates: int
    prepared: bool = False
    warm_up_s: list[float] = field(default_factory=list)
    _segments: Iterator[int] = field(default_factory=itertools.count)

    def warm_up(self) -> None:
        """The first updates; they compile, choose kernels and grow buffers."""
        self.warm_up_s = [self._train(1).seconds for _ in range(WARM_UP)]

    def __call__(self) -> StepTime:
        """A segment; of a loader the batches that lay ready come first, and do not count."""
        if self.prepared:
            self._train(_READY)
        return self._train(self.updates)

    def _train(self, updates: int) -> StepTime:
        trainer, device, statistics = self.trainer, self.trainer.world.device, EpochStatistics()
        smmix: list[bool] = []
        trainer.watch = lambda batch, plan: smmix.append(batch.branch == "smmix")
        progress = Progress(1, 1, shown=False)
        synchronize(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        waited, start = trainer.waited_s, time.perf_counter()
        # Every segment as an epoch of its own: what is drawn for a batch depends on its number in it.
        trainer.train_epoch(self.batches, next(self._segments), progress, statistics, max_steps=updates)  # type: ignore[arg-type]
        launched = time.perf_counter()
        synchronize(device)
        end = time.perf_counter()
        on_gpu = device.type == "cuda"
        host_wait_s = trainer.waited_s - waited + end - launched if on_gpu else 0.0
        peak = torch.cuda.max_memory_allocated(device) / 2**20 if on_gpu else None
        share = sum(smmix) / len(smmix)
        return StepTime((end - start) / updates, host_wait_s / updates, statistics.waited / updates, peak, share)


def endless(loader: Any) -> ReadyBatches:
    """A loader's batches, one epoch after the other."""
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    return ReadyBatches(lambda: next(batches))


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
