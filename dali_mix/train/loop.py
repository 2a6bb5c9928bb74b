"""One epoch of training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dali_mix.data import Batch, MixLoader
from dali_mix.smmix import SMMix
from dali_mix.train.distributed import World, shared_rng
from dali_mix.train.optimization import Updater
from dali_mix.train.report import Progress
from dali_mix.train.step import StepLosses


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where it stopped."""


@dataclass
class Trainer:
    """What an epoch needs.

    Fields:
        step: the module of the step, wrapped by DDP where there are several ranks.
        model: the model in it, whose moving average is kept.
        stage: SMMix, or None.
        updater: makes updates from losses.
        scheduler: timm's.
        world: this rank.
        seed: for what all ranks draw alike.
        log_interval: batches between readings of the loss, each of which waits for the device.
        watch: called with every batch before its step, and the window side drawn for it.
        accumulate: batches per update.
        ema: moving average of the weights, or None.
        synchronize: wait for the device after every step.
        updates: done so far in the run.
    """

    step: nn.Module
    model: nn.Module
    stage: SMMix | None
    updater: Updater
    scheduler: Any
    world: World
    seed: int
    log_interval: int
    watch: Callable[[Batch, int | None], None]
    accumulate: int = 1
    ema: ModelEmaV3 | None = None
    synchronize: bool = False
    updates: int = field(default=0)

    def updates_per_epoch(self, batches: int) -> int:
        """Updates in an epoch of so many batches; the last one may hold fewer."""
        return math.ceil(batches / self.accumulate)

    def train_epoch(
        self, loader: MixLoader, epoch: int, progress: Progress, max_steps: int | None = None
    ) -> dict[str, float]:
        """Train for one epoch, or its first ``max_steps`` batches.

        Returns:
            the "train_*", "lr", "img_size", "img_per_s" and "data_wait" columns of the summary.
        """
        self.step.train()
        self.updater.optimizer.zero_grad(set_to_none=True)
        steps = min(len(loader), max_steps or len(loader))
        clock = _Clock()
        sums = torch.zeros(len(StepLosses._fields), dtype=torch.float64, device=self.world.device)
        images = smmix_steps = 0
        for index, batch in enumerate(clock.batches(loader, steps)):
            batch = batch.to(self.world.device)  # elsewhere only with --dali-device
            square = self._draw_square(batch, epoch, index)
            with self.updater.precision.autocast():
                self.watch(batch, square)
            learning_rate = self.learning_rate
            losses = self._train_batch(batch, square, index, steps)
            sums += torch.stack([part.detach().double() for part in losses])
            smmix_steps += batch.branch == "smmix"
            count = len(batch.labels) * self.world.size
            images += count
            progress.advance(count)
            if index % self.log_interval == 0 or index == steps - 1:
                loss = self._read_loss(losses.loss, epoch, index)
                rate = images / clock.elapsed
                progress.show(
                    epoch, (index + 1) / steps, loss, learning_rate, img_per_s=rate, data_wait=clock.waiting_share
                )
        if hasattr(self.updater.optimizer, "sync_lookahead"):
            self.updater.optimizer.sync_lookahead()  # as timm's trainer: what is evaluated are the slow weights
        row = self._summarise(sums, steps, smmix_steps)
        return row | {
            "lr": learning_rate,
            "img_size": float(batch.images.shape[-1]),
            "img_per_s": images / clock.elapsed,
            "data_wait": clock.waiting_share,
        }

    def _draw_square(self, batch: Batch, epoch: int, index: int) -> int | None:
        if self.stage is None or batch.branch != "smmix":
            return None
        sides = self.stage.sides(self.stage.grid(batch.images.shape[-2:]))
        return int(shared_rng(self.seed, epoch, index).integers(sides.start, sides.stop))

    def _train_batch(self, batch: Batch, square: int | None, index: int, steps: int) -> StepLosses:
        """Forward, backward and, at the end of a group of ``accumulate`` batches, the update."""
        first = index - index % self.accumulate
        group = min(self.accumulate, steps - first)
        last_of_group = index == first + group - 1
        with self._gradient_exchange(last_of_group):
            with self.updater.precision.autocast():
                losses = self.step(batch, square)
            self.updater.backward(losses.loss / group if group > 1 else losses.loss)
        if last_of_group:
            self.updater.update()
            self.updates += 1
            if self.ema is not None:
                self.ema.update(self.model, step=self.updates)
            self.scheduler.step_update(self.updates)
        if self.synchronize and self.world.device.type == "cuda":
            torch.cuda.synchronize(self.world.device)
        return losses

    def _gradient_exchange(self, now: bool) -> AbstractContextManager:
        """Ranks exchange gradients once per update, not once per batch."""
        if now or not isinstance(self.step, DistributedDataParallel):
            return nullcontext()
        return self.step.no_sync()

    def _read_loss(self, loss: Tensor, epoch: int, index: int) -> float:
        """The loss as a number, which waits for the device."""
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at epoch {epoch + 1}, batch {index + 1}; lower --lr or lengthen --warmup-epochs"
            )
        return value

    @property
    def learning_rate(self) -> float:
        """The largest of all parameter groups, which is ``--lr`` without its layer decay."""
        return max(
            float(group["lr"]) / float(group.get("lr_scale", 1.0) or 1.0)
            for group in self.updater.optimizer.param_groups
        )

    def _summarise(self, sums: Tensor, steps: int, smmix_steps: int) -> dict[str, float]:
        """Means over the epoch and all ranks; the parts that only SMMix has, over SMMix steps."""
        loss, classification, fine_grained, consistency = (self.world.reduce_sum(sums) / self.world.size).tolist()
        row = {"train_loss": loss / steps, "train_classification": classification / steps}
        if smmix_steps:
            row["train_fine_grained"] = fine_grained / smmix_steps
            row["train_consistency"] = consistency / smmix_steps
        return row


class _Clock:
    """Time since the start of the epoch, and how much of it the step waited for data."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._waited = 0.0

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._start

    @property
    def waiting_share(self) -> float:
        return self._waited / self.elapsed

    def batches(self, loader: MixLoader, steps: int) -> Iterator[Batch]:
        """The loader's batches; DALI prepares the next ones in its own threads meanwhile."""
        batches = iter(loader)
        for _ in range(steps):
            before = time.perf_counter()
            batch = next(batches)
            self._waited += time.perf_counter() - before
            yield batch
        if steps == len(loader):
            next(batches, None)  # ends the loader's epoch
