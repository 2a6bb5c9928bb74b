"""What mixing costs in the loader: the same pipeline without, and with each way of mixing."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from nvidia.dali import fn, pipeline_def, types
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from dali_mix import fn as mix
from dali_mix.data import (
    Batch,
    ImageFolder,
    MixLoader,
    normalized_outputs,
    random_resized_crop,
    read_images,
    scan_image_folder,
    select_backend,
)
from dali_mix.tools.bench.timing import interleave, summarise

CHOICES: Mapping[str, dict[str, float] | None] = {
    "none": None,
    "cutmix": {"cutmix": 1.0},
    "mixup": {"mixup": 1.0},
    "random_mix": {"cutmix": 0.5, "mixup": 0.5},
}
"""The alternatives, as ``random_mix`` takes them; None is a pipeline without any operator of ours."""

_WARM_UP = 6
"""Batches before the clock starts: decoders and buffers grow, and an idle pipeline holds up to four ready."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this benchmark."""
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, metavar="DIR", help="a folder with one sub-folder of images per class")
    add("--device", choices=("gpu", "cpu"), default="gpu", help="DALI's backend; cpu where there is no GPU")
    add("--img-size", type=int, default=224, metavar="PX", help="side of the images")
    add("-b", "--batch-size", type=int, default=64, metavar="N", help="images per batch")
    add("-j", "--workers", type=int, default=4, metavar="N", help="DALI's CPU threads")
    add("--interpolation", choices=("bicubic", "bilinear"), default="bicubic", help="of the resize")
    add("--rounds", type=int, default=20, metavar="N", help="each alternative is timed this often")
    add("--batches", type=int, default=12, metavar="N", help="timed batches per alternative and round")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time the alternatives; the figures are images per second and the time relative to no mixing."""
    folder = scan_image_folder(args.data_dir)
    work = {name: _segments(folder, choices, args) for name, choices in CHOICES.items()}
    interleave(work, rounds=1)  # the first pipelines of a process also load libraries and warm the page cache
    seconds = interleave(work, args.rounds)
    results = summarise(seconds, baseline="none", work=args.batches * args.batch_size)
    return {"unit": "img/s", "baseline": "none", "results": results, "seconds": seconds}


def _segments(
    folder: ImageFolder, choices: Mapping[str, float] | None, args: argparse.Namespace
) -> Callable[[], float]:
    """Each call times ``args.batches`` batches of a new pipeline.

    New, because a pipeline's speed depends by some 5 % on where its buffers happen to lie: two that are
    the same in every way differ for as long as they live.
    """
    seeds = itertools.count()

    def work() -> float:
        with _loader(folder, choices, args, seed=next(seeds)) as loader:
            batches = itertools.chain.from_iterable(itertools.repeat(loader))
            _drain(batches, _WARM_UP)
            start = time.perf_counter()
            _drain(batches, args.batches)
            return time.perf_counter() - start

    return work


def _loader(folder: ImageFolder, choices: Mapping[str, float] | None, args: argparse.Namespace, seed: int) -> MixLoader:
    backend = select_backend(args.device)
    pipeline = _graph(
        folder,
        choices,
        args,
        decoder=backend.decoder,
        batch_size=args.batch_size,
        num_threads=args.workers,
        device_id=backend.device_id,
        seed=seed,
    )
    return MixLoader(pipeline)


@pipeline_def
def _graph(folder, choices, args, decoder):  # type: ignore[no-untyped-def]
    jpegs, labels = read_images(folder, training=True)
    images = random_resized_crop(jpegs, args.img_size, decoder=decoder, interpolation=args.interpolation)
    images = fn.flip(images, horizontal=fn.random.coin_flip())
    num_classes = len(folder.classes)
    if choices is None:
        targets = fn.one_hot(labels, num_classes=num_classes)
        mixed = mix.MixedBatch(images, targets, labels, fn.cast(fn.squeeze(labels * 0, axes=[0]), dtype=types.INT32))
    else:
        mixed = mix.random_mix(images, labels, num_classes=num_classes, choices=choices, smoothing=0.1)
    return normalized_outputs(mixed, {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD})


def _drain(batches: Iterator[Batch], count: int) -> None:
    for _ in itertools.islice(batches, count):
        pass
    if torch.cuda.is_available():
        torch.cuda.synchronize()
