"""TolerantLoader: a MixLoader that goes on where a file cannot be read or decoded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from nvidia.dali.pipeline import Pipeline

from dali_mix.errors import ConfigError, DataError
from dali_mix.fn.image.memory import TOO_LARGE_TOGETHER
from dali_mix.loading.loader import Batch, BatchError, MixLoader
from dali_mix.loading.loops import EpochLoader
from dali_mix.loading.replacements import BadImage as BadImage
from dali_mix.loading.replacements import LookAhead, Replacements
from dali_mix.sources.base import Source
from dali_mix.sources.reading import Feed, feed_of

STAND_INS = ("same_class", "left_out")
LEFT_OUT = -1
"""Label of the rows that ``stand_in="left_out"`` asks the caller to leave out; their targets are 0."""

_PREPARED = 4
"""Batches that DALI may have been at work on, at most, when one failed."""

_log = logging.getLogger(__name__)


class TolerantLoader(EpochLoader):
    """Batches like ``MixLoader``, with a replacement where a file cannot be read or decoded.

    Args:
        build: makes the pipeline of this rank for a source, which it reads with ``read_images``; called again
            in each recovery.
        source: what to read.
        last_batch: as in ``MixLoader``.
        stand_in: what takes the place of a bad file.  "same_class", for training: the next good file of its
            class in the source's order, or of any class, with its own label, if the class has none.  "left_out",
            for validation: the same file, and in its row of the batch label -1 and targets of 0; leave rows with
            a negative label out.
        on_bad_image: called once for each bad file; may raise to stop the run.
        after_break: as in ``MixLoader``.

    Raises:
        ConfigError: for an unknown ``stand_in``, for a pipeline without ``read_images``, and where ``MixLoader`` does.
        DataError: while iterating, if no image of the source is good, or if a batch fails for another reason than
            its files; the loader is then spent.

    A pipeline of DALI ends at the first file that it cannot decode.  This loader then builds another one, with
    replacements for the bad files of the failed batch, set to where the last one stood: the batch comes with the
    replacements in it, and every other one as it would have come anyway.  The replacements stay, so that a file costs
    at most one rebuild in a run; where many files are bad, those of the next batches are looked for at once.
    """

    def __init__(
        self,
        build: Callable[[Source], Pipeline],
        source: Source,
        last_batch: str = "drop",
        *,
        stand_in: str = "same_class",
        on_bad_image: Callable[[BadImage], None] | None = None,
        after_break: str = "next_epoch",
    ) -> None:
        super().__init__(after_break)
        if stand_in not in STAND_INS:
            raise ConfigError(f"stand_in must be one of {', '.join(STAND_INS)}, got {stand_in!r}")
        self._build = build
        self._source = source
        self._last_batch = last_batch
        self._left_out = stand_in == "left_out"
        self._files = Replacements(source, on_bad_image or (lambda image: None))
        self._look_ahead = LookAhead()
        self._inner: MixLoader | None = None
        self._feed: Feed | None = None
        self._closed = False
        self._failure: str | None = None

    def __len__(self) -> int:
        """Batches in an epoch on this rank; the same in every epoch."""
        return len(self._loader())

    @property
    def batch_size(self) -> int:
        """Largest number of images in a batch."""
        return self._loader().batch_size

    @property
    def epoch(self) -> int:
        """Epochs that are over."""
        return self._loader().epoch

    @property
    def delivered(self) -> int:
        """Batches delivered of the epoch in progress."""
        return self._loader().delivered

    @property
    def num_samples(self) -> int:
        """Images in the data set, over all shards, bad ones included."""
        return self._loader().num_samples

    @property
    def bad_images(self) -> tuple[BadImage, ...]:
        """The bad images that this rank has found, also before the state that was loaded."""
        return tuple(BadImage(self._source.describe(index), reason) for index, reason in self._files.reasons.items())

    def _advance(self) -> Batch | None:
        tried_again = False
        while True:
            loader = self._loader()
            try:
                batch = loader._advance()
                return None if batch is None else self._mark(batch)
            except BatchError as error:
                self._failure = str(error)  # until the recovery has succeeded
                tried_again = not self._recover(loader.state_dict(), error, last_try=tried_again) or tried_again

    def _skip_rest(self) -> bool:
        return self._loader()._skip_rest()

    def state_dict(self) -> dict[str, Any]:
        """Return where the loader stands, exactly, with the replacements; plain types only.  See ``MixLoader``."""
        found = {"stand_ins": self._files.state(), "look_ahead": list(self._look_ahead)}
        return self._loader().state_dict() | found

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken, also one of ``MixLoader``'s; no file is reported again.

        Raises:
            ConfigError: as ``MixLoader``'s.
        """
        if self._inner is not None and self._inner.started:
            raise ConfigError("load_state_dict must come before the first batch; make a new loader")
        stand_ins = state.get("stand_ins", [])
        # Indices into another data set mean nothing; the inner loader refuses such a state.
        if stand_ins and state["fingerprint"]["dataset"] == self._source.digest():
            self._release()
            self._files.load_state(stand_ins)
            self._look_ahead = LookAhead(*state.get("look_ahead", ()))
        self._loader().load_state_dict(state)
        self._continues = True

    def begin_at(self, epoch: int, batch: int = 0) -> None:
        """Begin with a later batch than the first; see ``MixLoader``.

        Raises:
            ConfigError: as ``MixLoader``'s.
        """
        self._loader().begin_at(epoch, batch)
        self._continues = batch > 0

    def close(self) -> None:
        """Release the pipeline and its threads.  The loader cannot be used afterwards."""
        self._release()
        self._closed = True

    def __enter__(self) -> TolerantLoader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _release(self) -> None:
        if self._inner is not None:
            self._inner.close()
        self._inner = None

    def _loader(self) -> MixLoader:
        if self._closed:
            raise ConfigError("the loader is closed")
        if self._failure is not None:
            raise DataError(f"the loader stopped at an earlier error and delivers no more batches: {self._failure}")
        if self._inner is None:
            pipeline = self._build(self._source)
            self._feed = self._feed_of(pipeline)
            self._feed.replaced = dict(self._files.replaced)
            self._files.decode_like(pipeline)
            self._inner = MixLoader(pipeline, self._last_batch, after_break=self._after_break)
        return self._inner

    def _feed_of(self, pipeline: Pipeline) -> Feed:
        feed = feed_of(pipeline)
        if feed is None or feed.order.size != len(self._source):
            raise ConfigError(
                "TolerantLoader needs a pipeline that reads the given folder, all of it, with read_images"
            )
        if self._left_out and feed.order.shuffle:
            raise ConfigError("stand_in='left_out' needs images in their order, read_images(training=False)")
        return feed

    def _recover(self, state: dict[str, Any], error: BatchError, last_try: bool) -> bool:
        """Build the pipeline anew, where it stood, with replacements for the bad files of the batch that failed.

        Args:
            state: after the batch before.
            error: what stopped the pipeline.
            last_try: whether the batch has been tried again before without a bad file.

        Returns:
            whether there was one.

        Raises:
            BatchError: again, if there is none and the batch has been tried before.
        """
        assert self._feed is not None
        assert self._inner is not None
        order, size, delivered = self._feed.order, len(self._inner), state["delivered"]
        self._release()  # its memory is needed, by the probe and by the pipeline that follows
        if TOO_LARGE_TOGETHER in str(error):
            raise error
        batch = partial(order.batch, state["epoch"])
        failed = batch(delivered).tolist()
        found = self._files.judge(failed)
        if found:
            # Each recovery builds a pipeline, so many bad files in a row are looked for at once.  Nothing of the next
            # epoch: what is in it may never be read.
            planned = self._look_ahead.after(delivered, size)
            self._files.judge_ahead([batch(index).tolist() for index in range(delivered + 1, planned.end)])
            self._look_ahead = planned
        elif last_try:
            # DALI reads ahead, so a batch may fail for a file of one of those after it; and the probe decodes whole
            # images, so it may pass a file that fails within the pipeline, which DALI's message then names.
            near = [
                entry for index in range(delivered, min(delivered + _PREPARED, order.batches)) for entry in batch(index)
            ]
            found = self._files.judge(near) or self._files.believe(str(error), near)
            if not found:
                raise error
        if found:
            self._files.assign()
        else:
            # Once more: what could not be read then, on a network drive say, may be well now.
            _log.warning("%s; the files of the batch can be read now, so it is tried again", error)
        # Last, so that an error on the way leaves a loader that delivers no batch out of order.
        self._failure = None
        self._loader().load_state_dict(state)
        return bool(found)

    def _mark(self, batch: Batch) -> Batch:
        """The batch with the rows of replacements marked, where they are to be left out."""
        if not self._left_out or not self._files.replaced or self._feed is None:
            return batch
        loader = self._loader()
        read = self._feed.order.batch(loader.epoch, loader.delivered - 1).tolist()
        rows = [row for row, index in enumerate(read) if index in self._files.replaced]
        if not rows:
            return batch
        labels, targets = batch.labels.clone(), batch.targets.clone()
        labels[rows], targets[rows] = LEFT_OUT, 0.0
        return batch._replace(labels=labels, targets=targets)
