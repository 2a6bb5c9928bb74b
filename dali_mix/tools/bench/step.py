"""What mixing costs in the training step: no mixing, Mixup and SMMix, and SMMix part by part.

The images are synthetic, ``torch.randn`` with a fixed seed, and lie on the device: no loader takes part.
All alternatives share one model and one optimizer, so that they differ in nothing but the step.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.utils import ParseKwargs
from torch import Tensor

from dali_mix.data import Batch
from dali_mix.errors import ConfigError
from dali_mix.smmix import SMMix, max_min_mix
from dali_mix.smmix.losses import smoothed_one_hot
from dali_mix.tools.bench.timing import interleave, summarise
from dali_mix.train.building import create_model
from dali_mix.train.config import build_parser
from dali_mix.train.distributed import World, open_world
from dali_mix.train.optimization import Precision, create_optimizer
from dali_mix.train.step import TrainStep

PARTS = ("probe", "regions", "forward", "backward", "update")
"""Of an SMMix step; "forward", which includes the losses, is the stage's time less probe and regions."""

_SEED = 42
_SMOOTHING = 0.1
_MIXUP_ALPHA = 0.8
_BY_PART = "smmix by part"
_TRAINER: dict[str, Any] = {"checkpoint": None, "opt": "adamw", "lr": 5e-4, "weight_decay": 0.05, "momentum": 0.9}
"""What the trainer's own functions want to know beside this benchmark's flags."""


class _ModelKwargs(ParseKwargs):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        try:
            super().__call__(parser, namespace, values, option_string)
        except ValueError as error:
            raise ConfigError("--model-kwargs takes NAME=VALUE pairs") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this benchmark."""
    parser.description = __doc__
    add = parser.add_argument
    add("--model", default="deit_tiny_patch16_224", metavar="NAME", help="a model of timm that SMMix serves")
    add("--model-kwargs", nargs="*", default={}, action=_ModelKwargs, metavar="K=V", help="passed to the model")
    add("--img-size", type=int, metavar="PX", help="side of the images; None is the model's own")
    add("--num-classes", type=int, default=1000, metavar="K", help="of the classifier")
    add("--drop-path", type=float, default=0.1, metavar="RATE", help="stochastic depth")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", choices=("cuda", "cpu"), default=default, help="where the step runs")
    add("--amp", action="store_true", help="mixed precision: bfloat16 where the device has it, else float16")
    add("-b", "--batch-size", type=int, default=32, metavar="N", help="synthetic images (torch.randn) per batch")
    add("--rounds", type=int, default=8, metavar="N", help="each alternative is timed this often")
    add("--steps", type=int, default=1, metavar="N", help="timed steps per alternative and round")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time the alternatives; the figures are images per second and the time relative to Mixup.

    Returns:
        "results", each also with "peak_memory_mib" (None on the CPU); "parts", for each of :data:`PARTS` the
        median "ms" per step and the "share" of the step; "lines" that say so; "seconds" and "part_seconds", per round.
    """
    _check(args)
    try:
        with open_world(args.device) as world:
            return _measure(_prepare(args, world), args)
    except torch.OutOfMemoryError as error:
        raise ConfigError(f"out of GPU memory: lower --batch-size {args.batch_size}") from error


def _check(args: argparse.Namespace) -> None:
    for name in ("img_size", "num_classes", "batch_size", "rounds", "steps"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if not 0 <= args.drop_path <= 1:
        raise ConfigError(f"--drop-path must lie in [0, 1], got {args.drop_path:g}")


def _measure(steps: _Steps, args: argparse.Namespace) -> dict[str, Any]:
    steps_of = {"plain": steps.plain, "mixup": steps.mixup, "smmix": steps.smmix}
    peaks: dict[str, list[float]] = {name: [] for name in steps_of}
    parts: list[list[float]] = []
    work = {name: _segment(step, steps.device, args.steps, peaks[name]) for name, step in steps_of.items()}

    def by_part() -> float:
        taken = [steps.smmix_by_part() for _ in range(args.steps)]
        parts.append([sum(part) for part in zip(*taken, strict=True)])
        return sum(parts[-1])

    alternatives = {**work, _BY_PART: by_part}
    interleave(alternatives, rounds=1)  # the first steps also grow buffers, and choose and load kernels
    parts.clear()
    for warm_up in peaks.values():
        warm_up.clear()
    seconds = interleave(alternatives, args.rounds)
    whole = seconds.pop(_BY_PART)
    results = summarise(seconds, baseline="mixup", work=args.steps * args.batch_size)
    for name, figures in results.items():
        figures["peak_memory_mib"] = max(peaks[name], default=None)
    part_seconds = dict(zip(PARTS, map(list, zip(*parts, strict=True)), strict=True))
    summary = _summarise_parts(part_seconds, whole, args.steps)
    return {
        "unit": "img/s",
        "baseline": "mixup",
        "results": results,
        "parts": summary,
        "lines": _lines(results, summary),
        "seconds": seconds,
        "part_seconds": part_seconds,
    }


def _lines(results: Mapping[str, Any], parts: Mapping[str, Any]) -> list[str]:
    """SMMix by part, and the peaks of memory where they were measured."""
    lines = [f"{_BY_PART:<14}{'ms':>12}{'share of the step':>22}"]
    for name, figures in parts.items():
        lines.append(f"{name:<14}{figures['ms']:>12.2f}{figures['share']['median']:>22.1%}")
    lines.append("each part waits for the device; forward, with the losses, is the stage's time less probe and regions")
    peaks = {name: figures["peak_memory_mib"] for name, figures in results.items()}
    if None not in peaks.values():
        lines.append("peak memory in MiB: " + ", ".join(f"{name} {peak:.0f}" for name, peak in peaks.items()))
    return lines


def _summarise_parts(seconds: Mapping[str, list[float]], whole: Sequence[float], steps: int) -> dict[str, Any]:
    figures = summarise({**seconds, "step": whole}, baseline="step", work=steps)
    return {
        name: {"ms": statistics.median(values) / steps * 1000, "share": figures[name]["ratio"]}
        for name, values in seconds.items()
    }


def _segment(step: Callable[[], None], device: torch.device, count: int, peaks: list[float]) -> Callable[[], float]:
    """Each call times ``count`` steps, and on a GPU appends the peak of torch's allocator, in MiB, to ``peaks``."""

    def work() -> float:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        clock = _Clock(device)
        for _ in range(count):
            step()
        seconds = clock.lap()
        if device.type == "cuda":
            peaks.append(torch.cuda.max_memory_allocated(device) / 2**20)
        return seconds

    return work


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
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def _prepare(args: argparse.Namespace, world: World) -> _Steps:
    """The model, its stage, the trainer's optimizer and one synthetic batch."""
    torch.manual_seed(_SEED)
    settings = argparse.Namespace(**(vars(build_parser().parse_args([])) | vars(args) | _TRAINER))
    model, config = create_model(settings, args.num_classes, world)
    stage = SMMix(model, args.num_classes, smoothing=_SMOOTHING).train()
    size = config["input_size"][1:]
    grid = stage.grid(size)
    stage.draw_square(grid)  # refuses a grid too small for a window
    optimizer = create_optimizer(settings, model, stage, world)
    images = torch.randn(args.batch_size, 3, *size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(args.num_classes, (args.batch_size,))
    targets = smoothed_one_hot(labels, args.num_classes, _SMOOTHING)
    batch = Batch(images.to(world.device), targets.to(world.device), labels.to(world.device), "smmix")
    precision = Precision(world.device.type, args.amp)
    return _Steps(TrainStep(model), TrainStep(model, stage), stage, optimizer, precision, batch, grid)


@dataclass
class _Steps:
    """One step of each alternative, on the same batch; the order within a step is the trainer's."""

    without_stage: TrainStep
    with_stage: TrainStep
    stage: SMMix
    optimizer: torch.optim.Optimizer
    precision: Precision
    batch: Batch
    grid: tuple[int, int]
    rng: random.Random = field(default_factory=lambda: random.Random(_SEED))

    @property
    def device(self) -> torch.device:
        return self.batch.images.device

    def plain(self) -> None:
        self._train(self.without_stage, self.batch._replace(targets=self._targets(), branch="none"))

    def mixup(self) -> None:
        lam = self.rng.betavariate(_MIXUP_ALPHA, _MIXUP_ALPHA)
        images, targets = (own * lam + own.flip(0) * (1 - lam) for own in (self.batch.images, self._targets()))
        self._train(self.without_stage, self.batch._replace(images=images, targets=targets, branch="mixup"))

    def smmix(self) -> None:
        self._train(self.with_stage, self.batch, self.stage.draw_square(self.grid))  # the stage makes its targets

    def smmix_by_part(self) -> list[float]:
        """Seconds of each of :data:`PARTS`; probe and regions run once more, by themselves, to be timed."""
        square = self.stage.draw_square(self.grid)
        with self.precision.autocast():
            clock = _Clock(self.device)
            attention = self.stage.probe(self.batch.images)[1]
            probe = clock.lap()
            max_min_mix(self.batch.images, attention, square)
            regions = clock.lap()
            loss = self.stage(self.batch.images, self.batch.labels, square).loss
            stage = clock.lap()
        self._backward(loss)
        backward = clock.lap()
        self._update()
        return [probe, regions, stage - probe - regions, backward, clock.lap()]

    def _targets(self) -> Tensor:
        return smoothed_one_hot(self.batch.labels, self.stage.num_classes, _SMOOTHING)

    def _train(self, step: TrainStep, batch: Batch, square: Any = None) -> None:
        with self.precision.autocast():
            loss = step(batch, square).loss
        self._backward(loss)
        self._update()

    def _backward(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.precision.scaler.scale(loss).backward()

    def _update(self) -> None:
        self.precision.scaler.step(self.optimizer)
        self.precision.scaler.update()
