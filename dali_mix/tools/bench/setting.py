"""What all alternatives of the loader benchmark share, so that they do the same work on the same files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dali_mix.fn.image.decoder_settings import DecoderSettings
from dali_mix.loading.device import Backend
from dali_mix.sources.file_source import FileSource
from dali_mix.tools.bench.recipe import Recipe

SMOOTHING = 0.1
MIXUP_ALPHA = 0.8
CUTMIX_ALPHA = 1.0


@dataclass(frozen=True)
class Setting:
    """How an alternative is run.

    Fields:
        folder: the images, whole batches of them.
        backend: of DALI.
        batch_size: images per batch.
        img_size: side of the images in pixels.
        interpolation: "bilinear" or "bicubic", antialiased.
        workers: DALI's CPU threads, or a DataLoader's processes.
        decoder_settings: of DALI's mixed decoder.
        seed: of everything that is drawn.
        recipe: of augmentation and mixing, for the alternatives that have one.
    """

    folder: FileSource
    backend: Backend
    batch_size: int
    img_size: int
    interpolation: str
    workers: int
    decoder_settings: DecoderSettings
    seed: int = 0
    recipe: Recipe | None = None

    @property
    def num_classes(self) -> int:
        """K, empty classes included."""
        return len(self.folder.classes)

    @property
    def device(self) -> torch.device:
        """Where the batches have to be."""
        index = self.backend.device_id
        return torch.device("cpu") if index is None else torch.device("cuda", index)


def recipe_of(setting: Setting) -> Recipe:
    """The recipe of an alternative that needs one; ``choose_alternatives`` refuses it without."""
    assert setting.recipe is not None
    return setting.recipe


Batches = Iterator[tuple[Any, Tensor]]
"""Images, and soft targets (B, K) or labels (B,), on one device; without end, one epoch after the other."""


class Alternative(NamedTuple):
    """One way to load images.

    Fields:
        open: what makes its batches; left, it has ended its threads and processes.
        processes: whether its workers are processes, which deliver in bursts of one batch each, and not
            DALI's threads.
        of_recipe: whether it augments and mixes by the setting's recipe, and needs one.
        lacks: what of a recipe's features it has no equal of.
    """

    open: Callable[[Setting], AbstractContextManager[Batches]]
    processes: bool = False
    of_recipe: bool = False
    lacks: tuple[str, ...] = ()
