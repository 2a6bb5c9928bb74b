"""MixLoader: batches of a DALI pipeline as channels_last PyTorch tensors."""

from __future__ import annotations

import logging
import math
from typing import Any

from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.base_iterator import LastBatchPolicy
from nvidia.dali.plugin.pytorch import DALIGenericIterator

from dali_mix.errors import ConfigError, DataError
from dali_mix.loading.batch import Batch as Batch
from dali_mix.loading.batch import Outputs
from dali_mix.loading.checkpoint import adapted, at_next_epoch, move_to, reader_arguments, restore
from dali_mix.loading.dali_errors import cause_of, mistake_of
from dali_mix.loading.fingerprint import check_fingerprint, fingerprint_of
from dali_mix.loading.forking import require_own_dali
from dali_mix.loading.loops import EpochLoader

_POLICIES = {"drop": LastBatchPolicy.DROP, "partial": LastBatchPolicy.PARTIAL}
_DALI_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, MemoryError)
"""What DALI makes of the exceptions of its operators."""

_log = logging.getLogger(__name__)


class BatchError(DataError):
    """DALI could not deliver a batch.  The loader's ``state_dict`` is still that after the batch before."""


class MixLoader(EpochLoader):
    """Iterate a pipeline that outputs what ``random_mix`` gives, images, targets, labels, branch, or the first of them.

    Args:
        pipeline: with exactly one reader; images as HWC, or as CHW, which costs a copy.  Built on first use.
        last_batch: "drop" the incomplete batch (training), or deliver it "partial" (validation).  The
            reader must set ``pad_last_batch``, and for "partial" ``stick_to_shard`` too; for "drop" the
            number of images must be a multiple of the number of shards.
        after_break: what a new loop delivers where the one before was left within an epoch: the "next_epoch",
            as a DataLoader does, or the "rest" of that one.  A validation loop always begins with the first image.

    Raises:
        ConfigError: on first use, for a pipeline that cannot be iterated this way.
        DataError: while iterating, if DALI cannot deliver a batch; the loader is then spent.
            ``TolerantLoader`` goes on.

    Each ``iter`` stands for an epoch, as with a DataLoader, but all of one stream: see ``EpochLoader``.  The order of
    later epochs does not depend on whether one was left.  To leave one rebuilds the pipeline, which costs about what
    the first batch did; with a reader that sets ``random_shuffle``, and in a pipeline without checkpointing, the
    rest of the epoch is read and thrown away.  After :meth:`load_state_dict` the first loop delivers the rest of the
    epoch that the state was taken in.
    With DALI's default executor nothing is copied: the tensors own DALI's buffers, and stay valid as
    long as they are kept.
    """

    def __init__(self, pipeline: Pipeline, last_batch: str = "drop", *, after_break: str = "next_epoch") -> None:
        super().__init__(after_break)
        if last_batch not in _POLICIES:
            raise ConfigError(f"last_batch must be 'drop' or 'partial', got {last_batch!r}")
        if last_batch == "partial" and after_break == "rest":
            raise ConfigError("after_break='rest' is for training: with last_batch='partial' a loop begins anew")
        self._pipeline: Pipeline | None = pipeline
        self._last_batch = last_batch
        self._iterator: DALIGenericIterator | None = None
        self._meta: dict[str, Any] | None = None
        self._outputs: Outputs | None = None
        self._fingerprinted: dict[str, Any] | None = None
        self._delivered = 0
        self._failure: str | None = None

    def __len__(self) -> int:
        """Batches in an epoch on this rank; the same in every epoch."""
        meta = self._reader_meta()
        size, shards = meta["epoch_size"], meta["number_of_shards"]
        if self._last_batch == "drop":
            return size // shards // self.batch_size
        shard = meta["shard_id"]
        own = size * (shard + 1) // shards - size * shard // shards
        return math.ceil(own / self.batch_size)

    @property
    def batch_size(self) -> int:
        """Largest number of images in a batch."""
        return int(self._open_pipeline().max_batch_size)

    @property
    def num_samples(self) -> int:
        """Images in the data set, over all shards."""
        return int(self._reader_meta()["epoch_size"])

    @property
    def started(self) -> bool:
        """Whether a batch or the state has been asked for, so that no other state can be loaded."""
        return self._iterator is not None

    @property
    def delivered(self) -> int:
        """Batches delivered of the epoch in progress."""
        return self._delivered

    def _advance(self) -> Batch | None:
        if self._failure is not None:
            raise DataError(f"the loader stopped at an earlier error and delivers no more batches: {self._failure}")
        iterator = self._start()
        assert self._outputs is not None
        while True:
            position = self._position(iterator)
            try:
                outputs = next(iterator)[0]
            except StopIteration:
                self._end_epoch()
                return None
            except _DALI_ERRORS as error:
                # After an error DALI's iterator says StopIteration for ever, so that a loop which
                # catches errors would go on with empty epochs.
                mistake = mistake_of(error)
                self._failure = mistake or cause_of(error)
                self._move_to(position, iterator)
                kind = BatchError if mistake is None else DataError
                raise kind(f"DALI could not deliver batch {self._delivered + 1}: {self._failure}") from error
            if len(outputs["images"]):
                batch = self._outputs.batch(outputs)
                self._delivered += 1
                return batch

    def _skip_rest(self) -> bool:
        pipeline, iterator = self._open_pipeline(), self._start()
        meta = self._reader_meta()
        reader = reader_arguments(pipeline, meta["name"])
        checkpoint = None
        if pipeline._enable_checkpointing and reader is not None and not reader[1].get("random_shuffle"):
            made = math.ceil(meta["epoch_size_padded"] // meta["number_of_shards"] / self.batch_size)
            checkpoint = at_next_epoch(iterator.checkpoints()[0], meta["name"], made - self._delivered)
        if checkpoint is None:
            left = len(self) - self._delivered
            _log.warning("a loop was left within its epoch; %d batches are read and thrown away to end it", left)
            return False
        self._iterator = None
        move_to(pipeline, checkpoint)
        self._delivered = 0
        self._start()
        return True

    def _position(self, iterator: DALIGenericIterator) -> tuple[int, bool]:
        return self._open_pipeline()._consumer_iter, iterator._ever_consumed

    def _move_to(self, position: tuple[int, bool], iterator: DALIGenericIterator) -> None:
        """Make ``state_dict`` the one after the last good batch: DALI counts the failed one as delivered."""
        self._open_pipeline()._consumer_iter, iterator._ever_consumed = position

    def _end_epoch(self) -> None:
        if self._delivered != len(self):
            self._failure = f"the epoch ended after {self._delivered} of {len(self)} batches"
            raise DataError(self._failure)
        self._delivered = 0

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, exactly, also within an epoch; plain types only.

        Raises:
            ConfigError: if the pipeline was not made with ``enable_checkpointing=True``.
        """
        self._require_checkpointing()
        iterator = self._start()
        return {
            "delivered": self._delivered,
            "fingerprint": self._fingerprint(),
            "pipeline": iterator.checkpoints()[0],
        }

    def load_state_dict(self, state: dict[str, Any], *, unknown_data: bool = False) -> None:
        """Continue where ``state_dict`` was taken: the next batch is the one that came next there.

        Args:
            state: from ``state_dict``.
            unknown_data: take a state also where nothing tells whether it belongs to the same data, as for a graph
                that was deserialized.

        Raises:
            ConfigError: if the state comes from another data set, batch size, shard, number of shards or type of
                images (DALI itself would accept it and diverge), or if this loader has already run.
        """
        if self._iterator is not None:
            raise ConfigError("load_state_dict must come before the first batch; make a new pipeline and loader")
        check_fingerprint(state["fingerprint"], self._fingerprint(), unknown_data=unknown_data)
        pipeline = self._require_checkpointing()
        try:
            restore(pipeline, adapted(state["pipeline"], pipeline.checkpoint()))
        except ValueError as error:
            raise ConfigError(f"the loader's state is not one of this pipeline: {error}; begin anew") from error
        self._delivered = state["delivered"]
        self._continues = True

    def close(self) -> None:
        """Release the pipeline and its threads.  The loader cannot be used afterwards."""
        self._iterator = None
        self._pipeline = None

    def __enter__(self) -> MixLoader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open_pipeline(self) -> Pipeline:
        require_own_dali()
        if self._pipeline is None:
            raise ConfigError("the loader is closed")
        return self._pipeline

    def _require_checkpointing(self) -> Pipeline:
        pipeline = self._open_pipeline()
        if not pipeline._enable_checkpointing:
            raise ConfigError("the loader's state needs a pipeline made with enable_checkpointing=True")
        return pipeline

    def _reader_meta(self) -> dict[str, Any]:
        if self._meta is None:
            pipeline = self._open_pipeline()
            pipeline.build()
            readers = pipeline.reader_meta()
            if len(readers) != 1:
                raise ConfigError(f"MixLoader needs a pipeline with one named reader, found {sorted(readers)}")
            self._meta = dict(next(iter(readers.values())), name=next(iter(readers)))
            self._check_meta(self._meta)
        return self._meta

    def _check_meta(self, meta: dict[str, Any]) -> None:
        if self._last_batch == "partial" and not (meta["pad_last_batch"] and meta["stick_to_shard"]):
            raise ConfigError(
                "last_batch='partial' counts every image once only if the reader sets pad_last_batch=True and "
                "stick_to_shard=True"
            )
        if self._last_batch == "drop" and not meta["pad_last_batch"]:
            raise ConfigError(
                "last_batch='drop' needs a reader with pad_last_batch=True: without it every epoch begins where the "
                "last batch of the one before ended, and images are missed and repeated"
            )
        if self._last_batch == "drop" and meta["epoch_size"] % meta["number_of_shards"]:
            raise ConfigError(
                f"last_batch='drop' needs shards of equal size, or their epochs drift apart: {meta['epoch_size']} "
                f"images do not divide by {meta['number_of_shards']} shards; leave some out, or use read_images"
            )
        if self._last_batch == "drop" and meta["epoch_size"] // meta["number_of_shards"] < self.batch_size:
            raise ConfigError(
                f"{meta['epoch_size']} images in {meta['number_of_shards']} shard(s) do not fill one batch of "
                f"{self.batch_size}; use a smaller batch"
            )

    def _fingerprint(self) -> dict[str, Any]:
        if self._fingerprinted is None:
            self._fingerprinted = fingerprint_of(self._open_pipeline(), self._reader_meta(), self._last_batch)
        return dict(self._fingerprinted)

    def _start(self) -> DALIGenericIterator:
        if self._iterator is None:
            name = self._reader_meta()["name"]
            if self._outputs is None:
                self._outputs = Outputs(self._open_pipeline())
            self._iterator = DALIGenericIterator(
                self._open_pipeline(),
                self._outputs.names,
                reader_name=name,
                last_batch_policy=_POLICIES[self._last_batch],
                auto_reset=True,
                prepare_first_batch=False,
            )
        return self._iterator
