"""One epoch of training."""

from __future__ import annotations

import logging
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

from dali_mix.data import Batch, TolerantLoader
from dali_mix.smmix import SMMix
from dali_mix.train.distributed import World, shared_rng
from dali_mix.train.optimization import Updater
from dali_mix.train.report import Progress
from dali_mix.train.step import StepLosses
from dali_mix.train.tally import Tally

_log = logging.getLogger(__name__)


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
        nonfinite_limit: updates in a row that are skipped, because of a loss or gradient that is not finite, before
            training stops; 0 does not look, which saves waiting for the device after every backward.
        must_stop: whether this rank has been asked to stop.
        after_update: called after every update with the epoch, its tally, and whether any rank must stop.
        updates: done so far in the run; skipped ones count, as the schedule goes on.
        skipped: the newest updates in a row that were skipped.
        last_finite: number of the newest update that was not.
    """

    step: nn.Module
    model: nn.Module
    stage: SMMix | None
    updater: Updater
    scheduler: Any
    world: World
    seed: int
    log_interval: int
    accumulate: int = 1
    ema: ModelEmaV3 | None = None
    synchronize: bool = False
    nonfinite_limit: int = 10
    watch: Callable[[Batch, int | None], None] = lambda *_: None
    must_stop: Callable[[], bool] = lambda: False
    after_update: Callable[[int, Tally, bool], None] = lambda *_: None
    updates: int = 0
    skipped: int = 0
    last_finite: int = 0
    _statistics: _BatchNormStatistics = field(init=False)

    def __post_init__(self) -> None:
        self._statistics = _BatchNormStatistics(self.model)

    def updates_per_epoch(self, batches: int) -> int:
        """Updates in an epoch of so many batches; the last one may hold fewer."""
        return math.ceil(batches / self.accumulate)

    def train_epoch(
        self, loader: TolerantLoader, epoch: int, progress: Progress, tally: Tally, max_steps: int | None = None
    ) -> None:
        """Train for the rest of an epoch, or of its first ``max_steps`` batches, and add it up in ``tally``."""
        tally.start()
        self.step.train()
        self.updater.optimizer.zero_grad(set_to_none=True)
        steps = min(len(loader), max_steps or len(loader))
        losses: list[StepLosses] = []
        smmix = 0
        for index, batch in _numbered(loader, tally, steps):
            batch = batch.to(self.world.device)  # elsewhere only with --dali-device
            square = self._draw_square(batch, epoch, index)
            with self.updater.precision.autocast():
                self.watch(batch, square)
            tally.lr, tally.img_size = self.learning_rate, batch.images.shape[-1]
            first, last = self._group(index, steps)
            if index == first:
                losses, smmix = [], 0
                if self.nonfinite_limit:
                    self._statistics.keep()
            losses.append(self._train_batch(batch, square, last - first, index == last - 1))
            count = len(batch.labels) * self.world.size
            tally.add_batch(count)
            smmix += batch.branch == "smmix"
            progress.advance(count)
            if index % self.log_interval == 0 or index == steps - 1:
                self._show(progress, epoch, tally, losses[-1].loss.item(), steps)
            if index == last - 1:
                self._end_group(losses, smmix, epoch, tally)
        if hasattr(self.updater.optimizer, "sync_lookahead") and not tally.closed:
            self.updater.optimizer.sync_lookahead()  # as timm's trainer: what is evaluated are the slow weights

    def _group(self, index: int, steps: int) -> tuple[int, int]:
        """First batch of the group that makes an update with this one, and the end of the group."""
        first = index - index % self.accumulate
        return first, min(first + self.accumulate, steps)

    def _draw_square(self, batch: Batch, epoch: int, index: int) -> int | None:
        if self.stage is None or batch.branch != "smmix":
            return None
        sides = self.stage.sides(self.stage.grid(batch.images.shape[-2:]))
        return int(shared_rng(self.seed, epoch, index).integers(sides.start, sides.stop))

    def _train_batch(self, batch: Batch, square: int | None, group: int, exchange: bool) -> StepLosses:
        """Forward and backward of one of the ``group`` batches of an update."""
        with self._gradient_exchange(exchange):
            with self.updater.precision.autocast():
                losses = self.step(batch, square)
            self.updater.backward(losses.loss / group if group > 1 else losses.loss)
        return StepLosses(*(part.detach() for part in losses))

    def _end_group(self, losses: list[StepLosses], smmix: int, epoch: int, tally: Tally) -> None:
        """The update, unless something is not finite; all ranks decide alike."""
        sums = torch.stack([torch.stack(part) for part in losses]).double()
        if self.nonfinite_limit and not self._finite(sums):
            self._skip(epoch, tally)
        else:
            self.skipped, self.last_finite = 0, self.updates + 1
            tally.add_losses(sums, smmix)
            self.updater.update()
            if self.ema is not None:
                self.ema.update(self.model, step=self.updates + 1)
        self.updates += 1
        self.scheduler.step_update(self.updates)
        if self.synchronize and self.world.device.type == "cuda":
            torch.cuda.synchronize(self.world.device)
        self.after_update(epoch, tally, self.world.any(self.must_stop()))

    def _finite(self, losses: Tensor) -> bool:
        """Whether the update may be made, by the losses of all ranks and the gradient."""
        finite = losses.isfinite().all() & self.updater.gradients_finite().to(losses.device)
        return not self.world.reduce_sum((~finite).double()).item()

    def _skip(self, epoch: int, tally: Tally) -> None:
        """Forget an update: the weights stay, and so do the BatchNorm statistics that its forward has spoilt."""
        self.updater.skip()
        self._statistics.restore()
        self.skipped += 1
        tally.skipped += 1
        where = f"epoch {epoch + 1}, batch {tally.batches}"
        if self.skipped >= self.nonfinite_limit:
            raise TrainingError(
                f"the loss or its gradient was not finite in {self.skipped} updates in a row, the last at {where} "
                f"(--nonfinite-limit {self.nonfinite_limit}); lower --lr or lengthen --warmup-epochs"
            )
        if tally.skipped == 1:
            _log.warning("%s: the loss or its gradient is not finite; the update is skipped", where)

    def _gradient_exchange(self, now: bool) -> AbstractContextManager:
        """Ranks exchange gradients once per update, not once per batch."""
        if now or not isinstance(self.step, DistributedDataParallel):
            return nullcontext()
        return self.step.no_sync()

    def _show(self, progress: Progress, epoch: int, tally: Tally, loss: float, steps: int) -> None:
        share = tally.batches / steps
        speed = {"img_per_s": tally.img_per_s, "data_wait": tally.data_wait}
        progress.show(epoch, share, loss, tally.lr, **speed)

    @property
    def learning_rate(self) -> float:
        """The largest of all parameter groups, which is ``--lr`` without its layer decay."""
        return max(
            float(group["lr"]) / float(group.get("lr_scale", 1.0) or 1.0)
            for group in self.updater.optimizer.param_groups
        )


class _BatchNormStatistics:
    """The running statistics of a model, as they were before a forward."""

    def __init__(self, model: nn.Module) -> None:
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
        self._live = [buffer for norm in norms for buffer in norm.buffers()]
        self._kept: list[Tensor] = []

    def keep(self) -> None:
        if self._live:
            self._kept = self._kept or [buffer.clone() for buffer in self._live]
            torch._foreach_copy_(self._kept, self._live)

    def restore(self) -> None:
        if self._live:
            torch._foreach_copy_(self._live, self._kept)


def _numbered(loader: TolerantLoader, tally: Tally, steps: int) -> Iterator[tuple[int, Batch]]:
    """The batches that the tally lacks, with their numbers; DALI prepares the next ones in its own threads."""
    batches = iter(loader)
    for index in range(tally.batches, steps):
        before = time.perf_counter()
        batch = next(batches)
        tally.waited += time.perf_counter() - before
        yield index, batch
    if loader.delivered == len(loader):
        next(batches, None)  # ends the loader's epoch; that may have been done before a checkpoint
