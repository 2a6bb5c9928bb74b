"""One epoch of training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dali_mix.data import Batch, MixLoader
from dali_mix.smmix import SMMix
from dali_mix.train.distributed import World, shared_rng
from dali_mix.train.report import Progress
from dali_mix.train.step import StepLosses


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where it stopped."""


@dataclass
class Precision:
    """Mixed precision: bfloat16 where the device has it, else float16 with a loss scaler.

    Fields:
        device: type of the device, "cuda" or "cpu".
        enabled: False computes in float32.
    """

    device: str
    enabled: bool
    dtype: torch.dtype = field(init=False)
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        bfloat16 = self.device != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
        self.dtype = torch.bfloat16 if bfloat16 else torch.float16
        self.scaler = torch.amp.GradScaler(self.device, enabled=self.enabled and not bfloat16)

    def autocast(self) -> AbstractContextManager:
        """The context for a forward."""
        return torch.autocast(self.device, self.dtype, enabled=self.enabled)


@dataclass
class Trainer:
    """What an epoch needs.

    Fields:
        step: the module of the step, wrapped by DDP where there are several ranks.
        stage: SMMix, or None.
        optimizer, scheduler: timm's; the scheduler is stepped at every update.
        precision: how the forward computes.
        world: this rank.
        seed: for what all ranks draw alike.
        log_interval: updates between readings of the loss, each of which waits for the device.
        watch: called with every batch before its step, and the window side drawn for it.
    """

    step: nn.Module
    stage: SMMix | None
    optimizer: torch.optim.Optimizer
    scheduler: Any
    precision: Precision
    world: World
    seed: int
    log_interval: int
    watch: Callable[[Batch, int | None], None]

    def train_epoch(self, loader: MixLoader, epoch: int, progress: Progress) -> dict[str, float]:
        """Train for one epoch; returns the "train_*", "lr" and "img_per_s" columns of the summary."""
        self.step.train()
        start = time.perf_counter()
        steps = len(loader)
        learning_rate = self.learning_rate
        sums = torch.zeros(len(StepLosses._fields), dtype=torch.float64, device=self.world.device)
        images = smmix_steps = 0
        for index, batch in enumerate(loader):
            square = self._draw_square(batch, epoch, index)
            with self.precision.autocast():
                self.watch(batch, square)
            losses = self._update(batch, square)
            learning_rate = self.learning_rate
            self.scheduler.step_update(epoch * steps + index + 1)
            sums += torch.stack([part.detach().double() for part in losses])
            smmix_steps += batch.branch == "smmix"
            images += len(batch.labels) * self.world.size
            progress.advance(len(batch.labels) * self.world.size)
            if index % self.log_interval == 0 or index == steps - 1:
                progress.show(epoch, index / steps, self._read_loss(losses.loss, epoch, index), learning_rate)
        row = self._summarise(sums, steps, smmix_steps)
        return row | {"lr": learning_rate, "img_per_s": images / (time.perf_counter() - start)}

    def _draw_square(self, batch: Batch, epoch: int, index: int) -> int | None:
        if self.stage is None or batch.branch != "smmix":
            return None
        sides = self.stage.sides(self.stage.grid(batch.images.shape[-2:]))
        return int(shared_rng(self.seed, epoch, index).integers(sides.start, sides.stop))

    def _update(self, batch: Batch, square: int | None) -> StepLosses:
        with self.precision.autocast():
            losses = self.step(batch, square)
        self.optimizer.zero_grad(set_to_none=True)
        scaler = self.precision.scaler
        scaler.scale(losses.loss).backward()
        scaler.step(self.optimizer)
        scaler.update()
        return losses

    def _read_loss(self, loss: Tensor, epoch: int, index: int) -> float:
        """The loss as a number, which waits for the device."""
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at epoch {epoch + 1}, update {index + 1}; lower --lr or lengthen --warmup-epochs"
            )
        return value

    @property
    def learning_rate(self) -> float:
        """Of the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def _summarise(self, sums: Tensor, steps: int, smmix_steps: int) -> dict[str, float]:
        """Means over the epoch and all ranks; the parts that only SMMix has, over SMMix steps."""
        loss, classification, fine_grained, consistency = (self.world.reduce_sum(sums) / self.world.size).tolist()
        row = {"train_loss": loss / steps, "train_classification": classification / steps}
        if smmix_steps:
            row["train_fine_grained"] = fine_grained / smmix_steps
            row["train_consistency"] = consistency / smmix_steps
        return row
