"""Trains the epochs of a run, from wherever it begins to the end or to a signal."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

from dali_mix.errors import ConfigError
from dali_mix.loading.loader import Batch
from dali_mix.loading.recovery import TolerantLoader
from dali_mix.train import bench
from dali_mix.train.bad_files import BAD_FILES
from dali_mix.train.checkpoint.resume import ResumePoint
from dali_mix.train.checkpoint.save_restore import Saver, restore
from dali_mix.train.checkpoint.state import load_rank
from dali_mix.train.checkpoint.store import CheckpointStore, Position
from dali_mix.train.data import Data, IdleLoader, Loaders
from dali_mix.train.distributed import World
from dali_mix.train.epoch_statistics import EpochStatistics
from dali_mix.train.evaluate import evaluate
from dali_mix.train.loop import TrainingError
from dali_mix.train.model import build_trainer, describe
from dali_mix.train.output import Progress
from dali_mix.train.output.folder import RunFolder
from dali_mix.train.output.preview import Preview
from dali_mix.train.run_folder import CHECKPOINTS, end_start
from dali_mix.train.settings.sections import Settings
from dali_mix.train.signals import Stopped, StopRequest, stop_signals
from dali_mix.train.step import TrainStep

_log = logging.getLogger(__name__)


class TrainingRun:
    """A run from its start, new or at a checkpoint, to its end or a signal.

    Args:
        settings: of the run.
        world: this rank.
        data: the images.
        step: new, its model on the device.
        loaders: makes the loaders of this rank.
        validation: one of them.
        start: where to begin.
        identity: of this run, for its checkpoints.

    Raises:
        ConfigError: if the checkpoint of ``start`` does not fit.
    """

    def __init__(
        self,
        settings: Settings,
        world: World,
        data: Data,
        step: TrainStep,
        loaders: Loaders,
        validation: TolerantLoader | IdleLoader,
        start: ResumePoint,
        identity: dict[str, Any],
    ) -> None:
        self._settings, self._world, self._data = settings, world, data
        self._loaders, self._validation, self._start = loaders, validation, start
        self._record = identity | {"skipped": start.skipped}
        # The loader first: the schedule needs the updates in an epoch, and only the loader knows its batches.
        self._training = self._open_training(start.position.epoch)
        self.trainer, self._epochs = build_trainer(settings, world, step, len(self._training))
        self._request = StopRequest()
        self._statistics = EpochStatistics()
        self._rows = list(start.rows)
        self._rank_state: dict[str, Any] | None = None
        watches = (listed.watch() for listed in data.listed if world.is_main)
        self._watches = [watch for watch in watches if watch is not None]
        if start.checkpoint is not None:
            if start.exact and start.position.epoch > self._epochs:
                raise ConfigError(
                    f"{start.checkpoint} claims {start.position.epoch} epochs of {self._epochs}; use another one"
                )
            self._restore(start)
        if not start.exact and start.position.epoch >= self._epochs:
            raise ConfigError(
                f"{start.checkpoint} is at the end of epoch {start.position.epoch}, and --epochs "
                f"{settings.schedule.epochs} leaves nothing to train"
            )
        off: int = settings.methods.mixup_off_epoch
        if off >= self._epochs:
            _log.warning("--mixup-off-epoch %d has no effect: the run ends with epoch %d", off, self._epochs)

    def close(self) -> None:
        """Release the training pipeline."""
        self._training.close()

    def bench(self, updates: int) -> None:
        """Time so many updates; nothing is written."""
        _log.info(describe(self._settings, self.trainer))
        figures = bench.report(self.trainer, self._training, self._settings, updates)
        if figures is not None:
            print(figures)

    def train(self, preview: Preview) -> None:
        """Train all epochs that are missing; the main rank writes and speaks.

        Raises:
            Stopped: after a signal, when the checkpoint is written.
        """
        settings, world, start = self._settings, self._world, self._start
        folder = RunFolder(settings, self._data.num_classes, self._data.val.classes, start) if world.is_main else None
        if folder:
            self._loaders.bad_files.write_to(folder.path / BAD_FILES)
        store = CheckpointStore(folder.path / CHECKPOINTS, settings.recovery.checkpoint_hist) if folder else None
        self._saver = Saver(self.trainer, store, self._record, settings.recovery.checkpoint_steps)
        if start.checkpoint is not None and start.exact:
            self._saver.continues(start.checkpoint)
        _log.info(describe(settings, self.trainer))
        progress = Progress(
            self._epochs, self._images(len(self._training)), shown=world.is_main, done_epochs=start.position.epoch
        )
        progress.advance(self._statistics.images)
        try:
            with stop_signals(speak=world.is_main) as self._request:
                self._connect(preview)
                if self._rank_state is not None:
                    load_rank(self._rank_state, self.trainer)  # last, as all that was built has drawn random numbers
                if start.folder is None or start.checkpoint is None:
                    self._save_first(start.position)
                end_start()
                for epoch in range(start.position.epoch, self._epochs):
                    try:
                        self._one_epoch(epoch, folder, progress, preview)
                    except TrainingError as error:
                        good = self._saver.last_good
                        raise TrainingError(f"{error}; the last good checkpoint is {good or 'none'}") from error
                self._require_updates()
                if folder:
                    self._finish(folder)
        finally:
            progress.close()
            if folder:
                folder.close()

    def _connect(self, preview: Preview) -> None:
        trainer = self.trainer
        if self._world.is_main:
            trainer.watch = preview.watch
        trainer.must_stop = lambda: bool(self._request)
        trainer.after_update = self._after_update

    def _save_first(self, position: Position) -> None:
        """A checkpoint before the first step, which also tells at once if the disk cannot take one."""
        try:
            self._saver.write(position, self._training, self._statistics, self._rows)
        except OSError as error:
            raise ConfigError(
                f"no checkpoint can be written to --output {self._settings.run.output}: {error.strerror}"
            ) from error

    def _one_epoch(self, epoch: int, folder: RunFolder | None, progress: Progress, preview: Preview) -> None:
        preview.restart()
        for watch in self._watches:
            if (change := watch.changed()) is not None:
                _log.warning("epoch %d: %s", epoch + 1, change)
        world, bad_files = self._world, self._loaders.bad_files
        row = self._train_epoch(epoch, progress)
        row |= {"epoch": epoch, "seconds": self._statistics.seconds}
        self._rows.append(row)
        self._record["skipped"] += self._statistics.skipped
        if folder:
            folder.add_epoch(row, self.trainer, preview)
            progress.epoch_done(row)
        self._statistics = EpochStatistics()
        if not self.trainer.skipped:
            self._save(Position(epoch + 1, 0))
        for found in world.gather(bad_files.new()) or []:
            bad_files.add(found)  # which may end the run, so the epoch is saved first

    def _train_epoch(self, epoch: int, progress: Progress) -> dict[str, float]:
        settings, trainer, world, statistics = self._settings, self.trainer, self._world, self._statistics
        if epoch and epoch == settings.methods.mixup_off_epoch:
            _log.info("epoch %d: mixing is off from here on (--mixup-off-epoch)", epoch + 1)
            if epoch != self._start.position.epoch:
                self._training.close()
                self._training = self._open_training(epoch)
        trainer.train_epoch(self._training, epoch, progress, statistics)
        if statistics.skipped:
            _log.warning("epoch %d: %d updates were skipped, as they were not finite", epoch + 1, statistics.skipped)
        if not settings.batch_norm.sync_bn and not statistics.closed:
            # Each rank has BatchNorm statistics of its own batches; all evaluate, and save, the same.
            world.share_batch_norm(trainer.model, settings.batch_norm.dist_bn)
            if trainer.ema is not None and settings.ema.evaluated:
                world.share_batch_norm(trainer.ema.module, settings.batch_norm.dist_bn)
        statistics.closed = True
        row = statistics.row(world)
        if (epoch + 1) % settings.log.val_interval == 0 or epoch + 1 == self._epochs:
            row |= self._evaluate(epoch)
        trainer.scheduler.step(epoch + 1)
        return row

    def _evaluate(self, epoch: int) -> dict[str, float]:
        trainer, settings = self.trainer, self._settings
        models = {"eval_": trainer.model}
        if trainer.ema is not None and settings.ema.evaluated:
            models["eval_ema_"] = trainer.ema.module
        row: dict[str, float] = {}
        for prefix, model in models.items():
            batches = self._until_stopped(epoch)
            metrics = evaluate(model, batches, self._world, trainer.updater.precision.autocast)
            row |= {prefix + name: metrics[name] for name in ("loss", "top1", "top5")}
        return row

    def _until_stopped(self, epoch: int) -> Iterator[Batch]:
        """The validation batches, unless a signal comes; ranks have more or fewer of them, but all ask as often."""
        share = math.ceil(self._validation.num_samples / self._world.size)
        rounds = math.ceil(share / self._validation.batch_size)
        batches = iter(self._validation)
        for index in range(rounds):
            if self._world.any(bool(self._request)):
                self._stop(epoch)
            if index < len(self._validation):
                yield next(batches)

    def _after_update(self, epoch: int, statistics: EpochStatistics, stop: bool) -> None:
        if stop:
            self._stop(epoch)
        if self._saver.is_due():
            self._save(Position(epoch, statistics.batches))

    def _save(self, position: Position) -> bool:
        return self._saver.save(position, self._training, self._statistics, self._rows)

    def _stop(self, epoch: int) -> None:
        """Write a checkpoint and leave."""
        saved = self._save(Position(epoch, self._statistics.batches))
        self._world.wait()  # the launcher ends all ranks when the first is gone
        last = self._saver.last
        where = f"epoch {epoch + 1}, after {self._statistics.batches} of {len(self._training)} batches"
        kept = f"the checkpoint is {last}" if saved else f"no checkpoint could be written, the last is {last}"
        raise Stopped(
            f"stopped by {self._request.name} at {where}; {kept}; the same command with --auto-resume goes on",
            self._request.exit_code,
        )

    def _finish(self, folder: RunFolder) -> None:
        try:
            table = folder.finish(self.trainer, self._loaders.bad_files.count, self._record["skipped"])
        except OSError as error:
            raise TrainingError(
                f"the final weights cannot be written to {folder.path}: {error.strerror}; make room, and run the same "
                f"command with --auto-resume: the last checkpoint is {self._saver.last}"
            ) from error
        print(table)

    def _require_updates(self) -> None:
        """A run that has not changed one weight is no success."""
        skipped, updates = self._record["skipped"], self.trainer.updates
        if updates and skipped >= updates:
            raise TrainingError(
                f"none of the {updates} updates was made, as the loss or its gradient was never finite: the weights "
                f"are still those of the start, and are not written; lower --lr or lengthen --warmup-epochs"
            )

    def _images(self, steps: int) -> int:
        return steps * self._settings.reading.batch_size * self._world.size

    def _open_training(self, epoch: int) -> TolerantLoader:
        off: int = self._settings.methods.mixup_off_epoch
        return self._loaders.training(mixing=not off or epoch < off, epoch=epoch)

    def _restore(self, start: ResumePoint) -> None:
        epoch, batch = start.position
        # Where mixing ends it takes another loader than the one that the checkpoint holds.
        same_loader = not epoch or start.position != Position(self._settings.methods.mixup_off_epoch, 0)
        self._rank_state = restore(start, self.trainer, self._training, same_loader=same_loader)
        if self._rank_state is None:
            return
        if batch:
            self._statistics = EpochStatistics.from_state(self._rank_state["tally"])
        # --max-bad-fraction counts over the whole run, so the files of before are added again.
        self._loaders.bad_files.take_over(self._training.bad_images)
