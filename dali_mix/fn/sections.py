"""What pipelines take besides images, batch and device: one frozen dataclass for each step on the way of the data.

:class:`~dali_mix.fn.image.settings.Crop` and :class:`~dali_mix.fn.image.settings.Augmentation` are the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dali_mix.fn.image.decoder_settings import DecoderSettings
from dali_mix.fn.image.settings import IMAGENET_MEAN, IMAGENET_STD
from dali_mix.options import Needs, option, probability

_DALIS_OWN = DecoderSettings()
_MIXED = Needs(("mixup", "cutmix"), unsaid=("cutmix_minmax", "mix"))


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How the images of a batch are mixed, whatever method is chosen.

    Fields:
        mode: "batch", "pair" or "elem": who shares a draw; pairs are i and B-1-i in mode "pair".
        smoothing: label smoothing in [0, 1].
    """

    mode: str = option("batch", None,
        "Whether a draw is shared by the batch, by a pair of images, or by none.", flag="mixup_mode",
        needs=_MIXED, choices=("batch", "pair", "elem"))  # fmt: skip
    smoothing: float = option(0.1, probability, "Label smoothing, inside the soft targets.", metavar="S")

    def arguments(self) -> dict[str, Any]:
        """What ``random_mix`` takes of it."""
        return {**asdict(self), "pairing": "flip" if self.mode == "pair" else "permutation"}


@dataclass(frozen=True, kw_only=True)
class Output:
    """How images leave the graph.

    Fields:
        mean, std: one value per channel, for images in [0, 1].
        half: float16 images instead of float32.
    """

    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    half: bool = False

    def arguments(self) -> dict[str, Any]:
        """What ``normalization`` takes."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Which part of the images a pipeline reads, on which device and how far ahead.

    Fields:
        shard_id, num_shards: rank and world size.
        device_id: the GPU.
        prefetch_queue_depth: batches prepared ahead.
        decoder_settings: of the decoder on the GPU.
        branch_seed: for the shuffle and the choice of the branch; equal on all ranks.
    """

    shard_id: int = 0
    num_shards: int = 1
    device_id: int = 0
    prefetch_queue_depth: int = 2
    decoder_settings: DecoderSettings = _DALIS_OWN
    branch_seed: int = 42

    def shard(self) -> dict[str, int]:
        """What ``read_images`` takes of it."""
        return {"shard_id": self.shard_id, "num_shards": self.num_shards}
