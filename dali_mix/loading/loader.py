"""MixLoader: batches of a DALI pipeline as channels_last PyTorch tensors."""

from __future__ import annotations

import logging
from typing import Any

from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.pytorch import DALIGenericIterator

from dali_mix.dali_private import begin_at, keeps_checkpoints, move_to, place_of, restore, set_place
from dali_mix.errors import ConfigError, DataError
from dali_mix.loading.batch import Batch as Batch
from dali_mix.loading.batch import Outputs
from dali_mix.loading.checkpoint import adapted
from dali_mix.loading.dali_errors import cause_of, mistake_of
from dali_mix.loading.fingerprint import check_fingerprint, fingerprint_of
from dali_mix.loading.forking import require_own_dali
from dali_mix.loading.loops import EpochLoader
from dali_mix.loading.stream import POLICIES, OwnStream, Stream, stream_of
from dali_mix.options import shortened
from dali_mix.sources.reading import feed_of

_DALI_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, MemoryError)
"""What DALI makes of the exceptions of its operators."""

_log = logging.getLogger(__name__)


class BatchError(DataError):
    """DALI could not deliver a batch.  The loader's ``state_dict`` is still that after the batch before."""


class MixLoader(EpochLoader):
    """Iterate a pipeline that outputs what ``random_mix`` gives, images, targets, labels, branch, or the first of them.

    Args:
        pipeline: with ``read_images``, or exactly one reader of DALI's; images as HWC, or as CHW, which costs a copy.
            Built on first use.
        last_batch: "drop" the incomplete batch (training), or deliver it "partial" (validation).  A
            reader of DALI's must set ``pad_last_batch``, and for "partial" ``stick_to_shard`` too; for "drop" the
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
        if last_batch not in POLICIES:
            raise ConfigError(f"last_batch must be 'drop' or 'partial', got {last_batch!r}")
        if last_batch == "partial" and after_break == "rest":
            raise ConfigError("after_break='rest' is for training: with last_batch='partial' a loop begins anew")
        self._pipeline: Pipeline | None = pipeline
        self._last_batch = last_batch
        self._iterator: DALIGenericIterator | None = None
        self._known_stream: Stream | None = None
        self._outputs: Outputs | None = None
        self._fingerprinted: dict[str, Any] | None = None
        self._epoch = self._delivered = 0
        self._failure: str | None = None

    def __len__(self) -> int:
        """Batches in an epoch on this rank; the same in every epoch."""
        return self._stream.batches

    @property
    def batch_size(self) -> int:
        """Largest number of images in a batch."""
        return int(self._open_pipeline().max_batch_size)

    @property
    def num_samples(self) -> int:
        """Images in the data set, over all shards."""
        return self._stream.num_samples

    @property
    def started(self) -> bool:
        """Whether a batch or the state has been asked for, so that no other state can be loaded."""
        return self._iterator is not None

    @property
    def epoch(self) -> int:
        """Epochs that are over, in which all batches were delivered or which a loop has left."""
        return self._epoch

    @property
    def delivered(self) -> int:
        """Batches delivered of the epoch in progress."""
        return self._delivered

    def _advance(self) -> Batch | None:
        if self._failure is not None:
            raise DataError(f"the loader stopped at an earlier error and delivers no more batches: {self._failure}")
        iterator = self._start()
        assert self._outputs is not None
        pipeline = self._open_pipeline()
        place = place_of(pipeline, iterator)
        try:
            outputs = self._stream.take(iterator, self._delivered)
        except _DALI_ERRORS as error:
            # After an error DALI's iterator says StopIteration for ever, so that a loop which
            # catches errors would go on with empty epochs.
            mistake = mistake_of(error)
            self._failure = mistake or self._named(cause_of(error))
            # DALI counts the failed batch as delivered; ``state_dict`` is to be the one after the last good one.
            set_place(pipeline, iterator, place)
            kind = BatchError if mistake is None else DataError
            raise kind(f"DALI could not deliver batch {self._delivered + 1}: {self._failure}") from error
        if outputs is None:
            self._end_epoch()
            return None
        batch = self._outputs.batch(outputs)
        self._delivered += 1
        return batch

    def _named(self, cause: str) -> str:
        """What went wrong, with the images' names where it was in reading them."""
        feed = feed_of(self._open_pipeline())
        return cause if feed is None else feed.named(cause, self._iteration)

    def _skip_rest(self) -> bool:
        iterator, left = self._start(), len(self) - self._delivered
        checkpoint = self._stream.next_epoch(iterator, self._delivered)
        if checkpoint is None:
            _log.warning("a loop was left within its epoch; %d batches are read and thrown away to end it", left)
            return False
        self._iterator = None
        move_to(self._open_pipeline(), checkpoint)
        self._begin_at(self._epoch + 1, 0)
        self._start()
        return True

    @property
    def _iteration(self) -> int:
        """Batches before this one, in our order."""
        feed = feed_of(self._open_pipeline())
        return 0 if feed is None else self._epoch * feed.order.batches + self._delivered

    def _begin_at(self, epoch: int, delivered: int) -> None:
        """Count from here on, and let our own order go on here; the pipeline has not run."""
        self._epoch, self._delivered = epoch, delivered
        if isinstance(self._stream, OwnStream):
            begin_at(self._open_pipeline(), self._iteration)

    def _end_epoch(self) -> None:
        if self._delivered != len(self):
            self._failure = f"the epoch ended after {self._delivered} of {len(self)} batches"
            raise DataError(self._failure)
        self._epoch, self._delivered = self._epoch + 1, 0

    def begin_at(self, epoch: int, batch: int = 0) -> None:
        """Begin with a later batch than the first: the images are those that come there, the random numbers are new.

        Where ``state_dict`` of another loader cannot be loaded: on another number of ranks, or with other settings.  If
        the batches of all ranks together are as large as they were, each update has the same images as it would have
        had, within an epoch too; else only from the beginning of an epoch.

        Args:
            epoch: epochs that are over.
            batch: batches of the epoch in progress that are over; the first loop then delivers its rest.

        Raises:
            ConfigError: if the loader has begun, its order is a DALI reader's, or there is no such batch.
        """
        if self._iterator is not None:
            raise ConfigError("begin_at must come before the first batch; make a new pipeline and loader")
        if not isinstance(self._stream, OwnStream):
            raise ConfigError(
                "begin_at needs a pipeline with read_images: a reader of DALI's begins with its first image"
            )
        if epoch < 0 or not 0 <= batch < len(self):
            raise ConfigError(
                f"epoch must be at least 0 and batch one of 0 to {len(self) - 1}, got {epoch} and {batch}"
            )
        self._begin_at(epoch, batch)
        self._continues = batch > 0

    def state_dict(self) -> dict[str, Any]:
        """Return where the loader stands, exactly, also within an epoch; plain types only.

        Raises:
            ConfigError: if the pipeline was not made with ``enable_checkpointing=True``.
        """
        self._require_checkpointing()
        iterator = self._start()
        return {
            "epoch": self._epoch,
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
        if not isinstance(state, dict) or not {"fingerprint", "pipeline", "delivered"} <= state.keys():
            raise ConfigError(f"a loader's state comes from state_dict(), got {shortened(repr(state))}")
        own_order = isinstance(self._stream, OwnStream)
        if own_order and "shuffle_seed" not in state["fingerprint"]:
            raise ConfigError(
                "the loader's state was saved by a version whose images came in the order of a reader of DALI's: "
                "continue with that version, or begin the epoch anew, with begin_at"
            )
        check_fingerprint(state["fingerprint"], self._fingerprint(), unknown_data=unknown_data)
        pipeline = self._require_checkpointing()
        try:
            restore(pipeline, adapted(state["pipeline"], pipeline.checkpoint()))
        except ValueError as error:
            raise ConfigError(f"the loader's state is not one of this pipeline: {error}; begin anew") from error
        # A state of a version that did not count epochs is of a DALI reader, which needs no such number.
        self._begin_at(state.get("epoch", 0), state["delivered"])
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
        if not keeps_checkpoints(pipeline):
            raise ConfigError("the loader's state needs a pipeline made with enable_checkpointing=True")
        return pipeline

    @property
    def _stream(self) -> Stream:
        pipeline = self._open_pipeline()
        if self._known_stream is None:
            pipeline.build()
            self._known_stream = stream_of(pipeline, self._last_batch)
        return self._known_stream

    def _fingerprint(self) -> dict[str, Any]:
        if self._fingerprinted is None:
            self._fingerprinted = fingerprint_of(self._open_pipeline(), self._stream.facts, self._last_batch)
        return dict(self._fingerprinted)

    def _start(self) -> DALIGenericIterator:
        if self._iterator is None:
            stream = self._stream
            if self._outputs is None:
                self._outputs = Outputs(self._open_pipeline())
            self._iterator = stream.iterator(self._outputs.names)
        return self._iterator
