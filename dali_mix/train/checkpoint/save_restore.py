"""A run's checkpoints: when they are written, what a failure to write one means, and how a run takes one over."""

from __future__ import annotations

import logging
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from dali_mix.errors import ConfigError, first_line
from dali_mix.loading.recovery import TolerantLoader
from dali_mix.train.checkpoint.resume import ResumePoint
from dali_mix.train.checkpoint.state import (
    check,
    check_buffers,
    load_shared,
    load_weights,
    rank_file,
    rank_state,
    read_rank,
    read_shared,
    shared_files,
)
from dali_mix.train.checkpoint.store import CheckpointError, CheckpointStore, Position
from dali_mix.train.epoch_statistics import EpochStatistics
from dali_mix.train.loop import Trainer, TrainingError

_log = logging.getLogger(__name__)


class Saver:
    """Writes checkpoints of a run; all ranks take part, the main one writes.

    Args:
        trainer: whose state is saved.
        store: of the main rank; None on the others.
        record: what every checkpoint says of the run, plain types.
        every: updates between checkpoints within an epoch, None for none.
    """

    def __init__(
        self, trainer: Trainer, store: CheckpointStore | None, record: dict[str, Any], every: int | None = None
    ) -> None:
        self._trainer, self._store, self._facts, self._every = trainer, store, record, every
        self._failed = self._proved = False
        self._saved: list[tuple[int, Path]] = []

    @property
    def last(self) -> Path | None:
        """The newest checkpoint of this process."""
        return self._saved[-1][1] if self._saved else None

    @property
    def last_good(self) -> Path | None:
        """The newest checkpoint whose weights have been seen to work: an update after it was finite."""
        good = [path for updates, path in self._saved if updates < self._trainer.last_finite and path.exists()]
        return good[-1] if good else None

    def continues(self, path: Path) -> None:
        """Name the checkpoint that the run began with."""
        self._saved.append((self._trainer.updates, path))

    def is_due(self) -> bool:
        """Whether the number of updates asks for a checkpoint.

        Not while updates are skipped: the weights are under suspicion, and must not push out those before.

        Raises:
            TrainingError: if too many updates were skipped.
        """
        if self._every is None or self._trainer.updates % self._every:
            return False
        self._trainer.settle()
        return not self._trainer.skipped

    def save(
        self, position: Position, loader: TolerantLoader, statistics: EpochStatistics, rows: list[dict[str, float]]
    ) -> bool:
        """Write a checkpoint.  If that fails training goes on, with a warning and the checkpoints there are.

        Returns:
            False if it failed; only the main rank knows.

        Raises:
            TrainingError: if the weights are not finite.
        """
        try:
            self.write(position, loader, statistics, rows)
        except OSError as error:
            if not self._failed:
                last = f"the newest is {self.last}" if self.last else "there is none yet"
                _log.warning(
                    "no checkpoint can be written to %s: %s; training goes on, %s", self._folder, error.strerror, last
                )
            self._failed = True
        else:
            self._failed = False
        return not self._failed

    def write(
        self, position: Position, loader: TolerantLoader, statistics: EpochStatistics, rows: list[dict[str, float]]
    ) -> None:
        """Write a checkpoint, or fail.

        Raises:
            OSError: on the main rank, if it cannot be written.
            TrainingError: if the weights are not finite.
        """
        trainer = self._trainer
        trainer.settle()
        self._check_weights(position)
        own = rank_state(trainer, {"loader": loader.state_dict(), "tally": statistics.state_dict()})
        everyone = trainer.world.gather(own)
        if self._store is None or everyone is None:
            return
        record = {"position": list(position), "batches": len(loader), "rows": rows}
        files = shared_files(trainer, self._facts | record)
        for rank, content in enumerate(everyone):
            files[rank_file(rank)] = partial(bytes, content)  # the very same bytes
        path = self._store.save(position, files)
        if not self._proved:
            self._prove(path)
        self._saved.append((trainer.updates, path))

    def _prove(self, path: Path) -> None:
        """Read back the first checkpoint with an optimizer's state: one that cannot be read must not be the last."""
        try:
            check(path)
        except CheckpointError as error:
            raise TrainingError(f"a checkpoint of this model and optimizer cannot be read again: {error}") from error
        self._proved = self._trainer.updates > 0

    @property
    def _folder(self) -> str:
        return os.fspath(self._store.folder) if self._store else ""

    def _check_weights(self, position: Position) -> None:
        # Equal on all ranks, which therefore decide alike.
        weights = [parameter.detach() for parameter in self._trainer.model.parameters()]
        if not nn.utils.get_total_norm(weights, norm_type=math.inf).isfinite():
            raise TrainingError(f"the weights are not finite after {position}, so they are not saved; lower --lr")


def restore(
    start: ResumePoint, trainer: Trainer, loader: TolerantLoader, *, same_loader: bool
) -> dict[str, Any] | None:
    """Take over the checkpoint that a run begins with, all but its random numbers.

    Args:
        start: where the run begins; it has a checkpoint.
        trainer: complete, as weights are put into the tensors that the optimizer and DDP know already.
        loader: of the training images, before its first batch.
        same_loader: whether the checkpoint's is of the same kind; the loader then goes on where that one stood.

    Returns:
        What the checkpoint holds of this rank, for :func:`dali_mix.train.checkpoint.state.load_rank`; None where
        the run does not go on exactly.

    Raises:
        CheckpointError: if the checkpoint cannot be read.
        ConfigError: if it does not fit the run.
    """
    path = start.checkpoint
    if path is None:
        raise ValueError("a new run has no checkpoint to restore")
    shared = read_shared(path)
    try:
        load_weights(path, trainer)
        load_shared(shared, trainer, exact=start.exact)
    except CheckpointError as error:
        raise ConfigError(f"{path} cannot be continued: {error}") from error
    if not start.exact:
        # Batches and epochs may be others than in the checkpoint, so its counts say nothing of this schedule.
        trainer.updates = start.position.epoch * trainer.updates_per_epoch(len(loader))
        trainer.scheduler.step(start.position.epoch)
        trainer.scheduler.step_update(trainer.updates)
        return None
    state = read_rank(path, trainer.world.rank)
    try:
        check_buffers(state, trainer)
        if same_loader:
            loader.load_state_dict(state["loader"])
    except (ConfigError, RuntimeError) as error:  # RuntimeError: DALI's of a pipeline's state
        raise ConfigError(f"{path} cannot be continued: {first_line(error)}") from error
    return state
