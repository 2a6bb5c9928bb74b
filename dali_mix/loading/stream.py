"""How the batches of a pipeline make epochs: in our order, or in that of a reader of DALI's."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.base_iterator import LastBatchPolicy
from nvidia.dali.plugin.pytorch import DALIGenericIterator

from dali_mix.dali_private import keeps_checkpoints, operator_arguments
from dali_mix.errors import ConfigError
from dali_mix.loading.checkpoint import at_next_epoch
from dali_mix.loading.digest import digest_of_reader
from dali_mix.sources.reading import Feed, feed_of

POLICIES = {"drop": LastBatchPolicy.DROP, "partial": LastBatchPolicy.PARTIAL}


class Stream(ABC):
    """What a loader must know of the order of a pipeline's batches.

    Fields:
        batches: in an epoch that is delivered, on this rank.
        num_samples: images of the data set, over all shards.
        facts: what must be equal where a state is loaded, by name; plain types.
    """

    batches: int
    num_samples: int
    facts: dict[str, Any]

    @abstractmethod
    def iterator(self, names: list[str]) -> DALIGenericIterator:
        """Return DALI's iterator over outputs of these names."""

    @abstractmethod
    def take(self, iterator: DALIGenericIterator, delivered: int) -> Any:
        """Return the next outputs by name, None once where an epoch ends.

        Args:
            iterator: from ``iterator``.
            delivered: batches of the epoch in progress.
        """

    @abstractmethod
    def next_epoch(self, iterator: DALIGenericIterator, delivered: int) -> bytes | None:
        """Return a checkpoint for the beginning of the next epoch, None where the rest must be read."""


class OwnStream(Stream):
    """Batches in the order of ``read_images``: they go on for ever, and epochs are counted here.

    Args:
        pipeline: built.
        feed: of the pipeline.
        last_batch: of the loader.

    Raises:
        ConfigError: if such epochs cannot be delivered.
    """

    def __init__(self, pipeline: Pipeline, feed: Feed, last_batch: str) -> None:
        order = feed.order
        if pipeline.reader_meta():
            raise ConfigError("the pipeline has a reader of DALI's beside read_images; use one of them")
        if last_batch == "partial" and order.shuffle:
            raise ConfigError(
                "last_batch='partial' counts every image once, which needs images in their order: "
                "read_images(training=False)"
            )
        self._pipeline, self._order = pipeline, order
        self.batches = order.batches
        if last_batch == "drop" and not order.shuffle:
            self.batches -= len(order.batch(0, order.batches - 1)) < order.batch_size
        if not self.batches:
            raise ConfigError(
                f"{order.size} images in {order.ranks} shard(s) do not fill one batch of {order.batch_size}; use a "
                f"smaller batch"
            )
        self.num_samples = order.size
        self.facts = {
            "dataset": feed.source.digest(),
            "num_samples": order.size,
            "shard_id": order.rank,
            "num_shards": order.ranks,
            "shuffle_seed": order.seed if order.shuffle else 0,
            "repeats": order.repeats,
        }

    def iterator(self, names: list[str]) -> DALIGenericIterator:
        """See :class:`Stream`."""
        return DALIGenericIterator(self._pipeline, names, prepare_first_batch=False)

    def take(self, iterator: DALIGenericIterator, delivered: int) -> Any:
        """See :class:`Stream`."""
        if delivered < self.batches:
            return next(iterator)[0]
        for _ in range(self.batches, self._order.batches):
            next(iterator)  # the incomplete one
        return None

    def next_epoch(self, iterator: DALIGenericIterator, delivered: int) -> bytes | None:
        """See :class:`Stream`."""
        return iterator.checkpoints()[0] if keeps_checkpoints(self._pipeline) else None


class ReaderStream(Stream):
    """Batches of a pipeline with one reader of DALI's.

    Args:
        pipeline: built.
        last_batch: of the loader.

    Raises:
        ConfigError: if there is another number of readers, or it does not make whole epochs.
    """

    def __init__(self, pipeline: Pipeline, last_batch: str) -> None:
        readers = pipeline.reader_meta()
        if len(readers) != 1:
            raise ConfigError(
                f"MixLoader needs a pipeline with one named reader, or with read_images, found {sorted(readers)}; a "
                f"graph that was serialized must read GraphReader(source)"
            )
        self._pipeline, self._last_batch = pipeline, last_batch
        ((self._name, self._meta),) = readers.items()
        self._batch_size = int(pipeline.max_batch_size)
        _check_meta(self._meta, last_batch, self._batch_size)
        size, shards, shard = (self._meta[name] for name in ("epoch_size", "number_of_shards", "shard_id"))
        own = size * (shard + 1) // shards - size * shard // shards
        whole = last_batch == "drop"
        self.batches = size // shards // self._batch_size if whole else math.ceil(own / self._batch_size)
        self.num_samples = size
        dataset = digest_of_reader(pipeline, self._name)
        self.facts = {"dataset": dataset, "num_samples": size, "shard_id": shard, "num_shards": shards}

    def iterator(self, names: list[str]) -> DALIGenericIterator:
        """See :class:`Stream`."""
        return DALIGenericIterator(
            self._pipeline,
            names,
            reader_name=self._name,
            last_batch_policy=POLICIES[self._last_batch],
            auto_reset=True,
            prepare_first_batch=False,
        )

    def take(self, iterator: DALIGenericIterator, delivered: int) -> Any:
        """See :class:`Stream`."""
        try:
            outputs = next(iterator)[0]
            while not len(outputs["images"]):
                outputs = next(iterator)[0]
        except StopIteration:
            return None
        return outputs

    def next_epoch(self, iterator: DALIGenericIterator, delivered: int) -> bytes | None:
        """See :class:`Stream`."""
        reader = operator_arguments(self._pipeline, self._name)
        if not keeps_checkpoints(self._pipeline) or reader is None or reader[1].get("random_shuffle"):
            return None
        padded = self._meta["epoch_size_padded"] // self._meta["number_of_shards"]
        made = math.ceil(padded / self._batch_size)
        return at_next_epoch(iterator.checkpoints()[0], self._name, made - delivered)


def stream_of(pipeline: Pipeline, last_batch: str) -> Stream:
    """Find how the batches of a built pipeline make epochs.

    Raises:
        ConfigError: if they do not.
    """
    feed = feed_of(pipeline)
    return ReaderStream(pipeline, last_batch) if feed is None else OwnStream(pipeline, feed, last_batch)


def _check_meta(meta: dict[str, Any], last_batch: str, batch_size: int) -> None:
    size, shards = meta["epoch_size"], meta["number_of_shards"]
    if last_batch == "partial" and not (meta["pad_last_batch"] and meta["stick_to_shard"]):
        raise ConfigError(
            "last_batch='partial' counts every image once only if the reader sets pad_last_batch=True and "
            "stick_to_shard=True"
        )
    if last_batch == "drop" and not meta["pad_last_batch"]:
        raise ConfigError(
            "last_batch='drop' needs a reader with pad_last_batch=True: without it every epoch begins where the "
            "last batch of the one before ended, and images are missed and repeated"
        )
    if last_batch == "drop" and size % shards:
        raise ConfigError(
            f"last_batch='drop' needs shards of equal size, or their epochs drift apart: {size} images do not divide "
            f"by {shards} shards; leave some out, or use read_images"
        )
    if last_batch == "drop" and size // shards < batch_size:
        raise ConfigError(
            f"{size} images in {shards} shard(s) do not fill one batch of {batch_size}; use a smaller batch"
        )
