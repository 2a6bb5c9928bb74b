"""One epoch of training."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dali_mix.batch import Batch
from dali_mix.loading.recovery import TolerantLoader
from dali_mix.methods import StepMethod
from dali_mix.train.distributed import World, shared_rng
from dali_mix.train.epoch_statistics import EpochStatistics
from dali_mix.train.progress import Progress
from dali_mix.train.reading import Reading
from dali_mix.train.settings.sections import Log, Recovery
from dali_mix.train.step import TrainStep
from dali_mix.train.undo import Kept
from dali_mix.train.updater import Updater

_log = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where it stopped."""


@dataclass
class Trainer:
    """What an epoch needs.

    Fields:
        step: the methods and the model.
        updater: makes updates from losses.
        scheduler: timm's.
        world: this rank.
        seed: for what all ranks draw alike.
        log: how often the loss is shown.
        recovery: when training stops, as updates were not finite.
        parallel: the step wrapped by DDP where there are several ranks, else None.
        watch: called with every batch before its step, and what was drawn for it.
        accumulate: batches per update.
        ema: moving average of the weights, or None.
        synchronize: wait for the device after every step.
        must_stop: whether this rank has been asked to stop.
        after_update: called after every update with the epoch, its statistics, and whether to stop; what has become of
            that update is known after :meth:`settle`.  Of several ranks one that must stop is heard an update later.
        updates: done so far in the run; skipped ones count, as the schedule goes on.
        skipped: the newest updates in a row that were skipped.
        last_finite: number of the newest update that was not.
        waited_s: time in seconds that this host has waited for the device.
    """

    step: TrainStep
    updater: Updater
    scheduler: Any
    world: World
    seed: int
    log: Log
    recovery: Recovery
    parallel: DistributedDataParallel | None = None
    accumulate: int = 1
    ema: ModelEmaV3 | None = None
    synchronize: bool = False
    watch: Callable[[Batch, Any], None] = lambda *_: None
    must_stop: Callable[[], bool] = lambda: False
    after_update: Callable[[int, EpochStatistics, bool], None] = lambda *_: None
    updates: int = 0
    skipped: int = 0
    last_finite: int = 0
    waited_s: float = 0.0
    _statistics: Kept = field(init=False)
    _averaged: list[Tensor] = field(init=False)
    _pending: _Pending | None = field(init=False, default=None)
    _stop_agreed: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._statistics = Kept(_norm_statistics(self.model))
        self._averaged = [] if self.ema is None else list(self.ema.module.state_dict().values())

    @property
    def model(self) -> nn.Module:
        """The model under training, whose moving average is kept."""
        return self.step.model

    def updates_per_epoch(self, batches: int) -> int:
        """Count the updates in an epoch of so many batches; the last one may hold fewer."""
        return math.ceil(batches / self.accumulate)

    def train_epoch(
        self,
        loader: TolerantLoader,
        epoch: int,
        progress: Progress,
        statistics: EpochStatistics,
        max_steps: int | None = None,
    ) -> None:
        """Train for the rest of an epoch, or of its first ``max_steps`` batches, and add it up in ``statistics``."""
        statistics.start()
        self.step.train()
        self.updater.optimizer.zero_grad(set_to_none=True)
        steps = min(len(loader), max_steps or len(loader))
        losses: list[Tensor] = []
        counts: Counter[str] = Counter()
        due = False
        for index, batch in _numbered(loader, statistics, steps):
            batch = batch.to(self.world.device)  # elsewhere only with --dali-device
            method = self.step.method_of(batch.branch)
            plan = self._draw_plan(method, batch, epoch, index)
            with self.updater.precision.autocast():
                self.watch(batch, plan)
            statistics.lr, statistics.img_size = self.learning_rate, batch.images.shape[-1]
            first, last = self._group(index, steps)
            if index == first:
                losses, counts = [], Counter()
                if self.recovery.nonfinite_limit:
                    self._statistics.keep()
            losses.append(self._train_batch(batch, plan, last - first, index == last - 1))
            count = len(batch.labels) * self.world.size
            statistics.add_batch(count)
            counts.update(("loss", *method.parts))
            progress.advance(count)
            due = due or index % self.log.log_interval == 0 or index == steps - 1
            if index == last - 1:
                share, lr = statistics.batches / steps, statistics.lr
                show = partial(self._show, progress, epoch, statistics, share, lr) if due else None
                self._end_group(losses, _Group(epoch, statistics, counts, show), last=index == steps - 1)
                due = False
        if hasattr(self.updater.optimizer, "sync_lookahead") and not statistics.closed:
            self.updater.optimizer.sync_lookahead()  # as timm's trainer: what is evaluated are the slow weights

    def _group(self, index: int, steps: int) -> tuple[int, int]:
        """First batch of the group that makes an update with this one, and the end of the group."""
        first = index - index % self.accumulate
        return first, min(first + self.accumulate, steps)

    def _draw_plan(self, method: StepMethod, batch: Batch, epoch: int, index: int) -> Any:
        if type(method).plan is StepMethod.plan:
            return None  # a generator that draws nothing would take longer than all else that the loop does
        return method.plan(batch.images.shape[-2:], shared_rng(self.seed, epoch, index))

    def _train_batch(self, batch: Batch, plan: Any, group: int, exchange: bool) -> Tensor:
        """Forward and backward of one of the ``group`` batches of an update; returns its losses, (1 + parts,)."""
        step = self.step if self.parallel is None else self.parallel
        with self._gradient_exchange(exchange):
            with self.updater.precision.autocast():
                result = step(batch, plan)
            self.updater.backward(result["loss"] / group if group > 1 else result["loss"])
        loss = result["loss"].detach()
        zero = torch.zeros_like(loss)
        return torch.stack([loss, *(result.get(part, zero) for part in self.step.parts)])

    def _end_group(self, losses: list[Tensor], group: _Group, *, last: bool) -> None:
        """The update, of which the device leaves no trace where something is not finite; all ranks decide alike."""
        self.settle()
        sums = torch.stack(losses).double()
        finite = self.updater.clip_gradients(look=bool(self.recovery.nonfinite_limit))
        refused, stop = self._agree(sums, finite)
        revoked = self.updater.update(refused)
        if refused is not None:
            self._statistics.put_back(refused)
        if self.ema is not None:
            self._update_average(self.ema, revoked)
        self.updates += 1
        self.scheduler.step_update(self.updates)
        group.statistics.add_losses(("loss", *self.step.parts), sums, refused)
        self._pending = self._pend(group, refused, revoked, stop, sums[-1, 0])
        if self.synchronize and self.world.device.type == "cuda":
            torch.cuda.synchronize(self.world.device)
        if last:
            self.settle()
        stop_now = self._stop_agreed or (self.world.size == 1 and self.must_stop())
        self.after_update(group.epoch, group.statistics, stop_now)

    def _agree(self, losses: Tensor, finite: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What the ranks tell each other, in one exchange on the device: whether to refuse the update, and to stop.

        Returns:
            float32 () each, 0 or 1; None for what nobody asks.
        """
        device, alone = losses.device, self.world.size == 1
        refused = stop = None
        if self.recovery.nonfinite_limit:
            all_finite = losses.isfinite().all()
            refused = (~(all_finite if finite is None else all_finite & finite)).float()
        if not alone:
            # Filled by the device: a copy from the host would wait for it.
            stop = torch.full((), float(self.must_stop()), device=device)
            flags = self.world.reduce_sum(torch.stack([stop if refused is None else refused, stop])).clamp(max=1)
            refused, stop = None if refused is None else flags[0], flags[1]
        return refused, stop

    def _update_average(self, ema: ModelEmaV3, revoked: Tensor | None) -> None:
        if revoked is None:
            ema.update(self.model, step=self.updates + 1)
        elif ema.device is not None and ema.device != revoked.device:
            # On the host, which waits for the weights in any case.
            if not Reading(revoked[None]).wait()[0]:
                ema.update(self.model, step=self.updates + 1)
        else:
            kept = Kept(self._averaged)
            ema.update(self.model, step=self.updates + 1)
            kept.put_back(revoked)

    def _pend(
        self, group: _Group, refused: Tensor | None, revoked: Tensor | None, stop: Tensor | None, loss: Tensor
    ) -> _Pending:
        """What will be known of the update that has just been launched."""
        reading = None
        answers = (refused, revoked, stop)
        if group.show is not None or any(answer is not None for answer in answers):
            zero = torch.zeros_like(loss)
            known = [zero if answer is None else answer.to(loss) for answer in answers]
            reading = Reading(torch.stack([*known, loss]))
        return _Pending(group, group.statistics.batches, self.updates, reading)

    def settle(self) -> None:
        """Take in what has become of the newest update; needed before the next one and before a state is saved.

        It is read only here, when the device has long gone on to the next update: launching that one does not wait.

        Raises:
            TrainingError: if too many updates in a row were refused.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        start = time.perf_counter()
        refused, revoked, stop, loss = pending.reading.wait() if pending.reading else (0.0, 0.0, 0.0, math.nan)
        self.waited_s += time.perf_counter() - start
        if revoked:
            self.updater.forget()
        self._stop_agreed = bool(stop)
        group = pending.group
        if refused:
            self._count_refused(pending)
        else:
            self.skipped, self.last_finite = 0, pending.number
            group.statistics.count_update(group.counts)
        if group.show is not None:
            group.show(loss)

    def _count_refused(self, pending: _Pending) -> None:
        statistics = pending.group.statistics
        self.skipped += 1
        statistics.skipped += 1
        where = f"epoch {pending.group.epoch + 1}, batch {pending.batch}"
        if self.skipped >= self.recovery.nonfinite_limit:
            raise TrainingError(
                f"the loss or its gradient was not finite in {self.skipped} updates in a row, the last at {where} "
                f"(--nonfinite-limit {self.recovery.nonfinite_limit}); lower --lr or lengthen --warmup-epochs"
            )
        if statistics.skipped == 1:
            _log.warning("%s: the loss or its gradient is not finite; the update is skipped", where)

    def _gradient_exchange(self, now: bool) -> AbstractContextManager:
        """Ranks exchange gradients once per update, not once per batch."""
        return nullcontext() if now or self.parallel is None else self.parallel.no_sync()

    def _show(
        self, progress: Progress, epoch: int, statistics: EpochStatistics, share: float, lr: float, loss: float
    ) -> None:
        """Show a loss beside the share and the rate of its update, and the speed by now."""
        progress.show(epoch, share, loss, lr, img_per_s=statistics.img_per_s, data_wait=statistics.data_wait)

    @property
    def learning_rate(self) -> float:
        """The largest of all parameter groups, which is ``--lr`` without its layer decay."""
        return max(
            float(group["lr"]) / float(group.get("lr_scale", 1.0) or 1.0)
            for group in self.updater.optimizer.param_groups
        )


@dataclass(frozen=True)
class _Group:
    """The batches of an update.

    Fields:
        epoch, statistics: that they belong to.
        counts: for each loss how many of them have it.
        show: to be called with their last loss, None if nobody wants to see it.
    """

    epoch: int
    statistics: EpochStatistics
    counts: Counter[str]
    show: Callable[[float], None] | None


@dataclass(frozen=True)
class _Pending:
    """An update that has been launched, and of which the host does not know yet what became of it.

    Fields:
        group: its batches.
        batch: number of the last of them in its epoch.
        number: of the update in the run.
        reading: whether it was refused and revoked, whether any rank must stop, and the loss; None if nobody asks.
    """

    group: _Group
    batch: int
    number: int
    reading: Reading | None


def _norm_statistics(model: nn.Module) -> Iterator[Tensor]:
    """The running statistics of a model, which a forward changes."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            yield from module.buffers()


def _numbered(loader: TolerantLoader, statistics: EpochStatistics, steps: int) -> Iterator[tuple[int, Batch]]:
    """The batches that the statistics lack, with their numbers; DALI prepares the next ones in its own threads."""
    batches = iter(loader)
    for index in range(statistics.batches, steps):
        before = time.perf_counter()
        batch = next(batches)
        statistics.waited += time.perf_counter() - before
        yield index, batch
