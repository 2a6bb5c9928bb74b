"""What mixing and augmentation cost a pipeline per batch: tiny images that nobody reads or decodes."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from dali_mix import fn as mix
from dali_mix.errors import ConfigError
from dali_mix.fn import Augmentation, augment
from dali_mix.fn.outputs import normalization
from dali_mix.loading.device import select_backend
from dali_mix.tools.bench.clock import Stopwatch
from dali_mix.tools.bench.report import Column, describe_mixing
from dali_mix.tools.bench.timing import difference, measure, spread

Graph = Callable[[DataNode, DataNode, argparse.Namespace], tuple[DataNode, ...]]
"""Makes the outputs of a pipeline from images, labels and the settings."""

BASELINE = "empty"
COLUMNS = (
    Column("ms", "ms / batch", ".2f"),
    Column("above_ms", f"ms above {BASELINE}", ".2f"),
    Column("cpu_ms", "cpu ms / batch", ".2f"),
    Column("cpu_above_ms", f"cpu ms above {BASELINE}", ".2f"),
    Column("build_s", "build s", ".3f"),
)

_SMOOTHING = 0.1
_WARM_UP = 20
"""Batches before the clock starts: buffers grow, and an idle pipeline holds some ready."""

_TYPES = {"uint8": np.uint8, "float32": np.float32}


class RowTime(NamedTuple):
    """What a row took.

    Fields:
        seconds: on the wall, per batch.
        cpu_seconds: of all cores together, per batch.
        build_s: to define and build the pipeline.
    """

    seconds: float
    cpu_seconds: float
    build_s: float


def _empty(images: DataNode, labels: DataNode, args: argparse.Namespace) -> tuple[DataNode, ...]:
    return images, labels


def _one_hot(images: DataNode, labels: DataNode, args: argparse.Namespace) -> tuple[DataNode, ...]:
    return images, fn.one_hot(labels, num_classes=args.num_classes)


def _mixed(
    images: DataNode, labels: DataNode, args: argparse.Namespace, *, mixing: Callable[..., Any], **options: Any
) -> tuple[DataNode, ...]:
    return tuple(mixing(images, labels, num_classes=args.num_classes, smoothing=_SMOOTHING, **options))


def _sized(images: DataNode, labels: DataNode, args: argparse.Namespace, **options: Any) -> tuple[DataNode, ...]:
    """Mix as the pipelines do, which know the size of their images."""
    return _mixed(images, labels, args, mixing=mix.random_mix, image_size=args.img_size, **options)


def _augmented(
    images: DataNode, labels: DataNode, args: argparse.Namespace, *, augmentation: Augmentation
) -> tuple[DataNode, ...]:
    return augment(images, augmentation, img_mean=IMAGENET_DEFAULT_MEAN, img_std=IMAGENET_DEFAULT_STD), labels


def _recipe(images: DataNode, labels: DataNode, args: argparse.Namespace) -> tuple[DataNode, ...]:
    """DeiT's, as the pipelines make it."""
    images, labels = _augmented(images, labels, args, augmentation=Augmentation(aa=_RAND, reprob=0.25))
    leaving = normalization(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    return _sized(images, labels, args, normalization=leaving)


_RAND = "rand-m9-mstd0.5-inc1"
_AUGMENTED: Mapping[str, Augmentation] = {
    "flip": Augmentation(),
    "erasing": Augmentation(reprob=0.25),
    "jitter": Augmentation(color_jitter=0.4),
    "3a": Augmentation(aa="3a", color_jitter=0.3),
    "rand": Augmentation(aa=_RAND),
}
"""Each with the flip, which is the default."""

GRAPHS: Mapping[str, Graph] = {
    BASELINE: _empty,
    "one_hot": _one_hot,
    "cutmix": functools.partial(_mixed, mixing=mix.cutmix),
    "mixup": functools.partial(_mixed, mixing=mix.mixup),
    "random_mix": _sized,
    "random_mix, size read": functools.partial(_mixed, mixing=mix.random_mix),
    "resizemix": functools.partial(_sized, choices={mix.ResizeMix(): 1.0}),
    "random_mix with resizemix": functools.partial(_sized, choices={"cutmix": 0.3, "mixup": 0.3, "resizemix": 0.4}),
    "cutmix elem": functools.partial(_mixed, mixing=mix.cutmix, mode="elem"),
    "mixup elem": functools.partial(_mixed, mixing=mix.mixup, mode="elem"),
    "random_mix elem": functools.partial(_sized, mode="elem"),
    **{name: functools.partial(_augmented, augmentation=value) for name, value in _AUGMENTED.items()},
    "recipe": _recipe,
}
"""The rows of the table; another one is another entry."""

_UINT8_ONLY = (*_AUGMENTED, "recipe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this benchmark."""
    add = parser.add_argument
    add("-b", "--batch-size", type=int, default=256, metavar="N", help="Images per batch.")
    add("--img-size", type=int, default=16, metavar="PX", help="Side of the images.")
    add("--num-classes", type=int, default=1000, metavar="K", help="Width of the soft targets.")
    add("--dtype", choices=tuple(_TYPES), default="uint8", help="Type of the images.")
    add("-j", "--workers", type=int, default=2, metavar="N", help="DALI's CPU threads.")
    add("--device", choices=("gpu", "cpu"), default="gpu", help="Where the images are; cpu where there is no GPU.")
    add("--only", nargs="+", choices=tuple(GRAPHS), metavar="NAME", help=f"Time these rows beside {BASELINE}: some "
        f"of {', '.join(GRAPHS)}; by default all.")  # fmt: skip
    add("--rounds", type=int, default=20, metavar="N", help="Each row is timed this often.")
    add("--batches", type=int, default=100, metavar="N", help="Timed batches per row and round.")
    add("--time-limit", type=float, metavar="SECONDS", help="As many of the rounds as take no longer.")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time the pipelines.

    Returns:
        "results": for each row "ms" and "cpu_ms" per batch, "above_ms" and "cpu_above_ms", that less the empty
        pipeline's of the same round, and "build_s" to define and build the pipeline; "seconds" and "cpu_seconds" per
        batch and round, and "build_seconds" per round.

    Raises:
        ConfigError: for a number below 1, or rows that the images do not suit.
    """
    for name in ("batch_size", "img_size", "num_classes", "workers", "rounds", "batches"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    rows, lines = _rows(args)
    work = {name: functools.partial(_time, GRAPHS[name], args) for name in rows}
    times = measure(work, args.rounds, args.time_limit)
    seconds = {name: [time.seconds for time in values] for name, values in times.items()}
    cpu_seconds = {name: [time.cpu_seconds for time in values] for name, values in times.items()}
    build_seconds = {name: [time.build_s for time in values] for name, values in times.items()}
    results = {
        name: _figures(seconds, name, "")
        | _figures(cpu_seconds, name, "cpu_")
        | {"build_s": spread(build_seconds[name])}
        for name in rows
    }
    return {
        "columns": COLUMNS,
        "results": results,
        "lines": [*lines, describe_mixing(args.device)],
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "build_seconds": build_seconds,
    }


def _rows(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Choose the rows to time, and make a line on those that are left out."""
    rows = [name for name in GRAPHS if name == BASELINE or args.only is None or name in args.only]
    unsuited = [name for name in rows if name in _UINT8_ONLY and args.dtype != "uint8"]
    if not unsuited:
        return rows, []
    line = f"{', '.join(unsuited)} augment uint8 images only"
    if args.only is not None:
        raise ConfigError(f"{line}: leave out --dtype {args.dtype}")
    return [name for name in rows if name not in unsuited], [f"left out: {line}"]


def _figures(seconds: Mapping[str, list[float]], name: str, prefix: str) -> dict[str, dict[str, float]]:
    own, base = ([1000 * value for value in seconds[row]] for row in (name, BASELINE))
    return {f"{prefix}ms": spread(own), f"{prefix}above_ms": difference(own, base)}


def _time(graph: Graph, args: argparse.Namespace) -> RowTime:
    """A new pipeline, as it delivers batches when nobody else keeps it waiting."""
    backend = select_backend(args.device)
    pixels = _pixels(args.img_size).astype(_TYPES[args.dtype])
    watch = Stopwatch()
    pipeline = _pipeline(
        graph,
        args,
        pixels,
        device="cpu" if backend.device_id is None else "gpu",
        batch_size=args.batch_size,
        num_threads=args.workers,
        device_id=backend.device_id,
    )
    pipeline.build()
    build_s = watch.read().seconds
    _run(pipeline, _WARM_UP)
    watch = Stopwatch()
    _run(pipeline, args.batches)
    elapsed = watch.read()
    return RowTime(elapsed.seconds / args.batches, elapsed.cpu_seconds / args.batches, build_s)


def _pixels(side: int) -> np.ndarray:
    """uint8 (side, side, 3): a gradient with noise, as some operators are done at once with an image of one color."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j]
    smooth = 255 * np.stack([x, y, (x + y) / 2], axis=-1)
    return np.clip(0.8 * smooth + rng.normal(25, 20, smooth.shape), 0, 255).astype(np.uint8)


@pipeline_def(seed=0)
def _pipeline(graph, args, pixels, device):  # type: ignore[no-untyped-def]
    # Constants: DALI makes them once and hands them out again, so an empty pipeline is little but its executor.
    images = types.Constant(pixels, layout="HWC", device=device)
    labels = types.Constant(0, dtype=types.INT32, shape=[1], device="cpu")
    return graph(images, labels, args)


def _run(pipeline: Pipeline, batches: int) -> None:
    for _ in range(batches):
        pipeline.run()
    if pipeline.device_id is not None:
        torch.cuda.synchronize(pipeline.device_id)
