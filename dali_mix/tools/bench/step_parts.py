"""An SMMix step part by part."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dali_mix.batch import Batch
from dali_mix.methods import SMMixStep
from dali_mix.methods.smmix.regions import max_min_mix
from dali_mix.tools.bench.step_work import synchronize
from dali_mix.tools.bench.timing import summarize
from dali_mix.train.loop import Trainer

PARTS = ("probe", "regions", "forward", "backward", "update")
"""The parts of an SMMix step; "forward", which includes the losses, is the stage's time less probe and regions."""

NAME = "smmix by part"


class ByPart:
    """Each call is one step, of which every part waits for the device; probe and regions run once more, to be timed.

    Args:
        trainer: with SMMix.
        batch: unmixed.

    Fields:
        seconds: for every call those of each of :data:`PARTS`.
    """

    def __init__(self, trainer: Trainer, batch: Batch) -> None:
        method = trainer.step.method_of(batch.branch)
        assert isinstance(method, SMMixStep)
        self._trainer, self._stage, self._batch = trainer, method.stage, batch
        self._grid = self._stage.grid(batch.images.shape[-2:])
        self.seconds: list[list[float]] = []

    def __call__(self) -> float:
        """Seconds of the step."""
        images, square = self._batch.images, self._stage.draw_square(self._grid)
        updater, device = self._trainer.updater, images.device
        with updater.precision.autocast():
            clock = _Clock(device)
            attention = self._stage.probe(images)[1]
            probe = clock.lap()
            max_min_mix(images, attention, square)
            regions = clock.lap()
            loss = self._stage(images, self._batch.labels, square).loss
            stage = clock.lap()
        updater.backward(loss)
        backward = clock.lap()
        updater.clip_gradients()
        updater.update()
        self.seconds.append([probe, regions, stage - probe - regions, backward, clock.lap()])
        return sum(self.seconds[-1])


def summarize_parts(calls: Sequence[Sequence[float]]) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Compute for each of :data:`PARTS` the median "ms" and the "share" of the step; and the seconds of every call."""
    seconds = dict(zip(PARTS, map(list, zip(*calls, strict=True)), strict=True))
    whole = [sum(call) for call in calls]
    figures = summarize({**seconds, "step": whole}, baseline="step", work=1)
    parts = {
        name: {"ms": statistics.median(values) * 1000, "share": figures[name]["ratio"]}
        for name, values in seconds.items()
    }
    return parts, seconds


def lines(parts: Mapping[str, Any]) -> list[str]:
    """A table of the parts."""
    text = [f"{NAME:<14}{'ms':>12}{'share of the step':>22}"]
    for name, figures in parts.items():
        text.append(f"{name:<14}{figures['ms']:>12.2f}{figures['share']['median']:>22.1%}")
    text.append("each part waits for the device; forward, with the losses, is the stage's time less probe and regions")
    return text


class _Clock:
    """Time between moments at which the device had done all its work."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = self._now()

    def lap(self) -> float:
        """Seconds since the last call, or since the clock was made."""
        last, self._last = self._last, self._now()
        return self._last - last

    def _now(self) -> float:
        synchronize(self._device)
        return time.perf_counter()
