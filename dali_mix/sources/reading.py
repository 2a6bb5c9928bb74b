"""Encoded images and labels into the graph."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

from dali_mix.errors import ConfigError, DataError, first_line
from dali_mix.sources.base import Part, Source
from dali_mix.sources.order import Order
from dali_mix.sources.paths import Paths

_NO_IMAGE = np.zeros(1, np.uint8)
"""What is decoded, in vain, where a source cannot read an image: so the batch fails when its turn comes."""


class Feed:
    """What a pipeline is given to read: the images of a source in an order, or replacements for some of them.

    Args:
        source: of the images.
        order: of their indices.

    Fields:
        replaced: index of an image, and of the one to read in its place, with its label.
        errors: index of an image that the source could not read, and why.
    """

    def __init__(self, source: Source, order: Order) -> None:
        self.source, self.order = source, order
        self.replaced: dict[int, int] = {}
        self.errors: dict[int, str] = {}
        self._labels = np.asarray(source.labels, np.int32)
        self._newest: tuple[int, NDArray[np.int32]] | None = None
        self._padded: tuple[NDArray[np.uint8], NDArray[np.int32]] | None = None

    def indices(self, iteration: int) -> NDArray[np.int32]:
        """What is read in a batch, counted from the beginning of the run."""
        # DALI asks for each output of the graph by itself, all of one batch before any of the next.
        if self._newest is None or self._newest[0] != iteration:
            chosen = self.order.batch(*divmod(iteration, self.order.batches))
            if self.replaced:
                chosen = np.array([self.replaced.get(index, index) for index in chosen.tolist()], np.int32)
            self._newest, self._padded = (iteration, chosen), None
        return self._newest[1]

    def labels(self, info: types.BatchInfo) -> NDArray[np.int32]:
        """int32 (B, 1)."""
        return self._labels[self.indices(info.iteration)][:, None]

    def paths(self, info: types.BatchInfo) -> NDArray[np.uint8]:
        """uint8 (B, longest)."""
        return self._paths(info)[0]

    def lengths(self, info: types.BatchInfo) -> NDArray[np.int32]:
        """int32 (B, 1)."""
        return self._paths(info)[1][:, None]

    def _paths(self, info: types.BatchInfo) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        indices = self.indices(info.iteration)
        if self._padded is None:
            # One array: a tensor for each sample would cost ten times as much of the training process's time.
            self._padded = Paths.of(self.source.read(indices.tolist())).padded()  # type: ignore[arg-type]
        return self._padded

    def images(self, info: types.BatchInfo) -> Sequence[NDArray[np.uint8]]:
        """uint8 (bytes,) each."""
        indices = self.indices(info.iteration).tolist()
        try:
            images = [_fed(_encoded(image)) for image in self.source.read(indices)]
        except Exception:  # whatever a source raises; it says below which image it is
            return [self._image(index) for index in indices]
        for index in self.errors.keys() & set(indices):
            del self.errors[index]
        return images

    def named(self, cause: str, iteration: int) -> str:
        """Tell what DALI says of a batch, with the names of the images that it numbers, or why they were not read."""
        indices = self.indices(iteration).tolist()
        unread = [index for index in indices if index in self.errors]
        if unread:
            return f"{self.source.describe(unread[0])} {self.errors[unread[0]]}"
        name = lambda match: self.source.describe(indices[int(match[1])])  # noqa: E731
        return re.sub(r"sample #(\d+)(?! *: */)", name, cause)

    def _image(self, index: int) -> NDArray[np.uint8]:
        try:
            return _fed(read_one(self.source, index))
        except DataError as error:
            self.errors[index] = str(error)
            return _NO_IMAGE


def _fed(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image if len(image) else _NO_IMAGE


def _encoded(image: Any) -> NDArray[np.uint8]:
    data = image if isinstance(image, np.ndarray) else np.frombuffer(image, np.uint8)
    if data.dtype != np.uint8 or data.ndim != 1:
        raise TypeError(f"read must give uint8 (bytes,), got {data.dtype} of shape {data.shape}")
    return data


def read_one(source: Source, index: int) -> NDArray[np.uint8]:
    """Read the bytes of one image, of a source that gives bytes.

    Raises:
        DataError: if it cannot be read, with what its source raised.
    """
    try:
        (image,) = source.read([index])
        return _encoded(image)
    except Exception as error:
        raise DataError(f"cannot be read: {first_line(error)}") from error


_feed_of: WeakKeyDictionary[Pipeline, Feed] = WeakKeyDictionary()


def feed_of(pipeline: Pipeline) -> Feed | None:
    """Find what a pipeline reads; None if it does not use ``read_images``."""
    return _feed_of.get(pipeline)


class GraphReader(Part):
    """A source of files that DALI's own reader reads, in DALI's order, so that the graph can be serialized.

    Args:
        source: of files.
    """

    def __init__(self, source: Source) -> None:
        if not source.gives_paths:
            raise ConfigError(f"{source.name} gives no files, and a serialized graph can read nothing else")
        super().__init__(source, np.arange(len(source)))


def read_images(
    source: Source,
    *,
    training: bool,
    shard_id: int = 0,
    num_shards: int = 1,
    shuffle_seed: int = 0,
    repeats: int = 1,
) -> tuple[DataNode, DataNode]:
    """Read encoded images and labels of one shard, in the order of :class:`dali_mix.sources.order.Order`.

    To be called once, inside of a pipeline.  The graph asks this process for each batch's paths, so it cannot be
    serialized; that of ``read_images(GraphReader(source), ...)`` can.

    Args:
        source: from ``open_source`` or ``scan_image_folder``.
        training: True shuffles the whole set anew before every epoch, so that a rank's shard is another one
            each time; False keeps the order, so that every image comes once.
        shard_id, num_shards: this rank's share.
        shuffle_seed: must be equal on all ranks, or their shards would overlap.
        repeats: copies of each image in an epoch, for training.

    Returns:
        uint8 (bytes,) and int32 (1,), both on the CPU.

    Raises:
        ConfigError: if there are fewer images than shards, or the name of a file is not UTF-8.
    """
    source.check()
    if len(source) < num_shards:
        raise ConfigError(f"{source.name} holds {len(source)} image(s) for {num_shards} ranks; use fewer ranks")
    if isinstance(source, GraphReader):
        return _read_in_graph(source, training, shard_id, num_shards, shuffle_seed)
    pipeline = Pipeline.current()
    if pipeline is None or pipeline in _feed_of:
        raise ConfigError("read_images must be called once, inside of a pipeline; make one with @pipeline_def")
    order = Order(len(source), pipeline.max_batch_size, shard_id, num_shards, shuffle_seed, training, repeats)
    feed = _feed_of[pipeline] = Feed(source, order)
    # DALI would write a graph without what feeds it, which fails at its first batch.
    setattr(pipeline, "serialize", _refuse_to_serialize)  # noqa: B010  # a method, to mypy
    labels = _from(feed.labels, types.INT32, "labels")
    if not source.gives_paths:
        return _from(feed.images, types.UINT8, "encoded_images"), labels
    paths = fn.slice(
        _from(feed.paths, types.UINT8, "padded_paths"), 0, _from(feed.lengths, types.INT32, "path_lengths"), axes=[0],
        name="paths",
    )  # fmt: skip
    # A read that fails raises; for a mapped page that fails the system may kill the process (SIGBUS).
    files: Any = fn.io.file  # type: ignore[attr-defined]  # missing in DALI's types
    return files.read(paths, dont_use_mmap=True, name="read_files"), labels


def _refuse_to_serialize(*_: Any, **__: Any) -> None:
    raise ConfigError(
        "a graph that asks this process for its images cannot be serialized; give the pipeline "
        "GraphReader(source) of dali_mix.data, or None to feed it from outside"
    )


def _from(source: Callable[[types.BatchInfo], Any], dtype: types.DALIDataType, name: str) -> DataNode:
    return fn.external_source(source=source, batch=True, batch_info=True, dtype=dtype, ndim=1, name=name)


def _read_in_graph(
    source: GraphReader, training: bool, shard_id: int, num_shards: int, seed: int
) -> tuple[DataNode, DataNode]:
    """Read as ``read_images`` does; a training set is cut to a multiple of the ranks, as DALI's shards are equal."""
    entries = np.arange(len(source))
    order: dict[str, Any] = {"stick_to_shard": True}
    if training:
        left_out = np.random.default_rng(seed).choice(len(source), len(source) % num_shards, replace=False)
        entries = np.delete(entries, left_out)
        order = {"shuffle_after_epoch": True, "shuffle_after_epoch_seed": seed}
    jpegs, labels = fn.readers.file(
        files=list(map(str, source.read(entries.tolist()))),
        labels=source.labels[entries].tolist(),
        shard_id=shard_id,
        num_shards=num_shards,
        # Every epoch ends on a whole batch, so that the next one begins with its own first image.
        pad_last_batch=True,
        dont_use_mmap=True,
        name="reader",
        **order,
    )
    return jpegs, labels


def feed_images() -> tuple[DataNode, DataNode]:
    """Take encoded images and labels that the host feeds, as Triton's DALI backend does.

    Returns:
        the inputs "jpegs", uint8 (bytes,), and "labels", int32 (), both on the CPU.
    """
    jpegs = fn.external_source(name="jpegs", dtype=types.UINT8, ndim=1)
    labels = fn.external_source(name="labels", dtype=types.INT32, ndim=0)
    return jpegs, labels


def scheduled_size(
    schedule: Callable[[int, int], int], *, batch_size: int, batches_per_epoch: int | None = None
) -> DataNode:
    """A size that may change from batch to batch, for ``random_resized_crop``.

    Args:
        schedule: epoch and batch, both counted from 0, to a side in pixels.  Must depend on nothing else: a
            restored pipeline asks for the rest.
        batch_size: of the pipeline.
        batches_per_epoch: that the pipeline's reader makes, an incomplete last one included; None after
            ``read_images``, which knows it.

    Returns:
        float32 (2,), height and width, on the CPU.  A graph with it cannot be serialized.
    """
    pipeline = Pipeline.current()
    feed = None if pipeline is None else feed_of(pipeline)
    if batches_per_epoch is None and feed is None:
        raise ConfigError("scheduled_size needs batches_per_epoch, or read_images before it")
    # Fewer images than a batch are for the loader to refuse.
    batches = batches_per_epoch or max(feed.order.batches if feed else 1, 1)

    def draw(info: types.BatchInfo) -> list[np.ndarray]:
        # DALI counts the batches of the whole run: it sees no end of an epoch, which is the order's.
        side = schedule(*divmod(info.iteration, batches))
        return [np.full(2, side, np.float32)] * batch_size

    return fn.external_source(
        source=draw, batch=True, batch_info=True, dtype=types.FLOAT, ndim=1, name="scheduled_size"
    )
