"""The alternatives of the loader benchmark by name, and how one is timed."""

from __future__ import annotations

import dataclasses
import itertools
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from dali_mix.errors import ConfigError, DataError
from dali_mix.tools.bench.clock import Stopwatch
from dali_mix.tools.bench.dali_loaders import DALI_LOADERS
from dali_mix.tools.bench.recipe import Recipe
from dali_mix.tools.bench.recipe_loaders import RECIPE_LOADERS
from dali_mix.tools.bench.setting import Alternative, Batches, Setting
from dali_mix.tools.bench.torch_loaders import TORCH_LOADERS

ALTERNATIVES: Mapping[str, Alternative] = {**DALI_LOADERS, **TORCH_LOADERS, **RECIPE_LOADERS}

_WARM_UP = 6
"""Batches before the clock starts: decoders and buffers grow, and an idle pipeline holds up to four ready."""

_BATCHES = 12
"""Timed batches, unless told otherwise."""


class LoadingTime(NamedTuple):
    """What loading took.

    Fields:
        seconds: on the wall, per image.
        cpu_seconds: of all cores together, per image.
    """

    seconds: float
    cpu_seconds: float


def segment(alternative: Alternative, setting: Setting, batches: int | None) -> Callable[[], LoadingTime]:
    """Each call times some batches of a loader that it makes.

    New, because a pipeline's speed depends by some 5 % on where its buffers happen to lie: two that are
    the same in every way differ for as long as they live.

    Args:
        alternative: of :data:`ALTERNATIVES`.
        setting: its seed counts up from call to call.
        batches: how many are timed; None is twelve, or the whole epochs that hold as many.

    Raises:
        DataError: by a call, for an image that cannot be loaded.
    """
    epoch = len(setting.folder) // setting.batch_size
    # Of short epochs whole ones, so that every alternative decodes the same photographs.
    count = batches or _whole(_BATCHES, epoch)
    # Every worker process makes a batch of its own: they come in bursts, which are warmed up and timed whole.
    warm_up = _whole(max(_WARM_UP, setting.workers), epoch)
    if alternative.processes:
        count = math.ceil(count / setting.workers) * setting.workers
    seeds = itertools.count(setting.seed)

    def work() -> LoadingTime:
        seeded = dataclasses.replace(setting, seed=next(seeds))
        try:
            with alternative.open(seeded) as loader:
                _drain(loader, warm_up, seeded)
                watch = Stopwatch()
                _drain(loader, count, seeded)
                elapsed = watch.read()
        except RuntimeError as error:  # DALI's, torchvision's and a DataLoader's own
            # A frame of torch's holds the error that it raises: worker processes would outlive this.
            traceback.clear_frames(error.__traceback__)
            raise DataError(f"a batch could not be loaded: {_reason(error)}") from error
        images = count * setting.batch_size
        return LoadingTime(elapsed.seconds / images, elapsed.cpu_seconds / images)

    return work


def choose_alternatives(names: Sequence[str], recipe: Recipe | None) -> dict[str, Alternative]:
    """The named alternatives; "all" names every one that there is with, or without, a recipe.

    Args:
        names: of :data:`ALTERNATIVES`.
        recipe: if one was given.

    Raises:
        ConfigError: for an unknown name, one that needs a recipe, or a recipe that none needs.
    """
    if "all" in names:
        names = [name for name, alternative in ALTERNATIVES.items() if recipe or not alternative.of_recipe]
    unknown = [name for name in names if name not in ALTERNATIVES]
    if unknown:
        raise ConfigError(f"no alternative {unknown[0]!r}; there are all, {', '.join(ALTERNATIVES)}")
    chosen = {name: ALTERNATIVES[name] for name in names}
    augmented = [name for name, alternative in chosen.items() if alternative.of_recipe]
    if augmented and recipe is None:
        raise ConfigError(f"{augmented[0]} needs an augmentation: give --recipe NAME, or flags such as --aa")
    if recipe is not None and not augmented:
        raise ConfigError(f"--recipe and the flags of augmentation have no effect on {', '.join(chosen)}")
    return chosen


def without_equal(chosen: Mapping[str, Alternative], recipe: Recipe | None) -> dict[str, str]:
    """The alternatives that cannot do what the recipe asks for, and the flag that asks for it."""
    features = recipe.features if recipe else set()
    found = {name: sorted(features.intersection(alternative.lacks)) for name, alternative in chosen.items()}
    return {name: " and ".join(lacking) for name, lacking in found.items() if lacking}


def _whole(batches: int, epoch: int) -> int:
    """Rounded up to whole epochs, where that does not mean more than twice as many."""
    whole = math.ceil(batches / epoch) * epoch
    return whole if whole <= 2 * batches else batches


def _drain(loader: Batches, count: int, setting: Setting) -> None:
    for _ in itertools.islice(loader, count):
        pass
    if setting.device.type == "cuda":
        torch.cuda.synchronize(setting.device)


def _reason(error: Exception) -> str:
    """The line of a long message that says what happened: torch ends with it, DALI puts it below "encountered:"."""
    _, _, cause = str(error).partition("encountered:")
    lines = [line.strip() for line in (cause or str(error)).splitlines() if line.strip()]
    return lines[0 if cause else -1] if lines else type(error).__name__
