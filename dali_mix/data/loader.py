"""MixLoader: batches of a DALI pipeline as channels_last PyTorch tensors."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.base_iterator import LastBatchPolicy
from nvidia.dali.plugin.pytorch import DALIGenericIterator

from dali_mix.data._probe_worker import MAX_IMAGE_PIXELS
from dali_mix.data.forking import require_own_dali
from dali_mix.data.normalize import image_type_of
from dali_mix.data.source import dataset_digest, restore
from dali_mix.errors import ConfigError, DataError
from dali_mix.fn import BRANCHES, MixedBatch, implementation_of
from dali_mix.fn.implementation import AUGMENTATION, MIXING

_POLICIES = {"drop": LastBatchPolicy.DROP, "partial": LastBatchPolicy.PARTIAL}
_DALI_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, MemoryError)
"""What DALI makes of the exceptions of its operators."""

_log = logging.getLogger(__name__)

_BRANCH_NAMES = {code: name for name, code in BRANCHES.items()}


class Batch(NamedTuple):
    """One batch on the pipeline's device.

    Fields:
        images: float32 or float16 (B, 3, H, W), channels_last.
        targets: float32 (B, K), soft targets that sum to 1.
        labels: int64 (B,), each image's own class.
        branch: "none", "cutmix", "mixup" or "smmix" (left unmixed for the step).
    """

    images: torch.Tensor
    targets: torch.Tensor
    labels: torch.Tensor
    branch: str

    def to(self, device: torch.device) -> Batch:
        """This batch on another device; itself where it is there already."""
        if self.images.device == device:
            return self
        images, targets, labels = (
            part.to(device, non_blocking=True) for part in (self.images, self.targets, self.labels)
        )
        return Batch(images, targets, labels, self.branch)


class BatchError(DataError):
    """DALI could not deliver a batch.  The loader's ``state_dict`` is still that after the batch before."""


class MixLoader:
    """Iterate a pipeline whose outputs are those of ``random_mix``: images, targets, labels, branch.

    Args:
        pipeline: with exactly one reader; images as HWC.  Built on first use.
        last_batch: "drop" the incomplete batch (training), or deliver it "partial" (validation).  The
            reader must set ``pad_last_batch``, and for "partial" ``stick_to_shard`` too; for "drop" the
            number of images must be a multiple of the number of shards.

    Raises:
        ConfigError: on first use, for a pipeline that cannot be iterated this way.
        DataError: while iterating, if DALI cannot deliver a batch; the loader is then spent.
            ``TolerantLoader`` goes on.

    Each ``for`` loop runs to the end of the epoch; after a ``break`` the next one delivers the rest.
    With DALI's default executor nothing is copied: the tensors own DALI's buffers, and stay valid as
    long as they are kept.
    """

    def __init__(self, pipeline: Pipeline, last_batch: str = "drop") -> None:
        if last_batch not in _POLICIES:
            raise ConfigError(f"last_batch must be 'drop' or 'partial', got {last_batch!r}")
        self._pipeline: Pipeline | None = pipeline
        self._last_batch = last_batch
        self._iterator: DALIGenericIterator | None = None
        self._meta: dict[str, Any] | None = None
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

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._failure is not None:
            raise DataError(f"the loader stopped at an earlier error and delivers no more batches: {self._failure}")
        iterator = self._start()
        while True:
            position = self._position(iterator)
            try:
                outputs = next(iterator)[0]
            except StopIteration:
                self._end_epoch()
                raise
            except _DALI_ERRORS as error:
                # After an error DALI's iterator says StopIteration for ever, so that a loop which
                # catches errors would go on with empty epochs.
                self._failure = _cause(error)
                self._move_to(position, iterator)
                raise BatchError(f"DALI could not deliver batch {self._delivered + 1}: {self._failure}") from error
            if len(outputs["labels"]):
                batch = _to_batch(outputs)
                self._delivered += 1
                return batch

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
        pipeline = self._open_pipeline()
        if not pipeline._enable_checkpointing:
            raise ConfigError("the loader's state needs a pipeline made with enable_checkpointing=True")
        iterator = self._start()
        return {
            "delivered": self._delivered,
            "fingerprint": self._fingerprint(),
            "pipeline": iterator.checkpoints()[0],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken: the next batch is the one that came next there.

        Raises:
            ConfigError: if the state comes from another data set, batch size, shard, number of shards or type of
                images (DALI itself would accept it and diverge), or if this loader has already run.
        """
        if self._iterator is not None:
            raise ConfigError("load_state_dict must come before the first batch; make a new pipeline and loader")
        own, other = self._fingerprint(), state["fingerprint"]
        for part in (AUGMENTATION, MIXING):
            _check_implementation(part, other, own.pop(part))
        _check_image_type(other.get("images"), own.pop("images"))
        differing = [f"{key} {other.get(key)!r} -> {own[key]!r}" for key in own if other.get(key) != own[key]]
        if differing:
            raise ConfigError(f"the loader's state belongs to other data: {', '.join(differing)}")
        restore(self._open_pipeline(), state["pipeline"])
        self._delivered = state["delivered"]

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
        meta = self._reader_meta()
        return {
            "dataset": dataset_digest(self._open_pipeline()),
            "num_samples": meta["epoch_size"],
            "batch_size": self.batch_size,
            "shard_id": meta["shard_id"],
            "num_shards": meta["number_of_shards"],
            "last_batch": self._last_batch,
            MIXING: implementation_of(self._open_pipeline(), MIXING),
            AUGMENTATION: implementation_of(self._open_pipeline(), AUGMENTATION),
            "images": image_type_of(self._open_pipeline()),
        }

    def _start(self) -> DALIGenericIterator:
        if self._iterator is None:
            name = self._reader_meta()["name"]
            self._iterator = DALIGenericIterator(
                self._open_pipeline(),
                list(MixedBatch._fields),
                reader_name=name,
                last_batch_policy=_POLICIES[self._last_batch],
                auto_reset=True,
                prepare_first_batch=False,
            )
        return self._iterator


def _cause(error: Exception) -> str:
    """What went wrong, from DALI's message: the part between its Python and its C++ traceback."""
    text = str(error)
    _, _, cause = text.partition("encountered:")
    cause, _, _ = (cause or text).partition("C++ context:")
    cause, _, _ = cause.partition("Current pipeline object is no longer valid")
    hint = "; remove or repair the image" if "decode" in cause or "nvImageCodec" in cause else ""
    if "samples must occupy the same size in bytes" in cause:
        return f"an image has more than {MAX_IMAGE_PIXELS} pixels; remove it"
    if "IsDenseTensor" in cause:
        return "the images of a batch differ in size, and the pipeline does not resize them"
    return " ".join(cause.split()) + hint


def _check_implementation(part: str, saved: dict[str, Any], own: str | None) -> None:
    """Refuse a state whose random numbers for a part of the graph are those of another implementation.

    Args:
        part: :data:`MIXING` or :data:`AUGMENTATION`.
        saved: fingerprint of the state.
        own: of this loader.
    """
    # A graph that was deserialized does not say what it is made of; DALI then compares the operators' names.
    if own is None or saved.get(part, "") in (None, own):
        return
    if part in saved:
        switch = "on" if saved[part] == "native" else "off"
        raise ConfigError(
            f"the loader's state was saved by the {saved[part]} implementation of the {part}, here it is the {own} "
            f"one, and their random numbers differ: set DALI_MIX_NATIVE={switch}, or begin anew"
        )
    # Beside native mixing, what augmented was another than either is now.
    if part == AUGMENTATION and saved.get(MIXING) != "native":
        if own == "portable":
            return  # there was no other
        if MIXING in saved:
            raise ConfigError(
                "the loader's state was saved by another version, which augmented by the portable graph, here it is "
                "the native operators, and their random numbers differ: set DALI_MIX_NATIVE=off, or begin anew"
            )
    raise ConfigError(
        f"the loader's state was saved by another version, whose random numbers for the {part} differ: begin anew, "
        "or continue with the version that saved it"
    )


def _check_image_type(saved: str | None, own: str | None) -> None:
    """Refuse the state of a pipeline whose images were rounded otherwise."""
    if saved is None and own == "float16":
        _log.warning("the loader's state does not say whether its images were float32; from here on they are float16")
    elif None not in (saved, own) and saved != own:
        raise ConfigError(
            f"the loader's state was saved with {saved} images, here they are {own}: make the pipeline with "
            f"half={saved == 'float16'}, or begin anew"
        )


def _to_batch(outputs: dict[str, torch.Tensor]) -> Batch:
    branches = outputs["branch"]
    if (branches != branches[0]).any():
        raise ConfigError(
            "a batch holds samples of several branches, as random_mix gives inside of an `if`; call it outside, or "
            "leave branch out of the outputs and use DALI's own iterator"
        )
    return Batch(
        images=outputs["images"].permute(0, 3, 1, 2),
        targets=outputs["targets"],
        labels=outputs["labels"].flatten().long(),
        # A CPU output, so reading it waits for nothing.
        branch=_BRANCH_NAMES[int(outputs["branch"][0])],
    )
