"""What mixing and augmentation cost in the loader, and what other loaders do: images per second and processor time."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dali_mix.errors import ConfigError
from dali_mix.fn.image.decoder_settings import DecoderSettings
from dali_mix.loading.device import select_backend
from dali_mix.sources.file_source import FileSource
from dali_mix.sources.folder import scan_image_folder
from dali_mix.tools.bench import recipe, sweep
from dali_mix.tools.bench.alternatives import ALTERNATIVES, LoadingTime, choose_alternatives, segment, without_equal
from dali_mix.tools.bench.report import SPEED_COLUMNS, Column, describe_mixing
from dali_mix.tools.bench.setting import CUTMIX_ALPHA, MIXUP_ALPHA, SMOOTHING, Alternative, Setting
from dali_mix.tools.bench.timing import measure, ratio, spread, summarize

DEFAULT_ONLY = ("none", "cutmix", "mixup", "random_mix", "nvidia", "nvidia_mixup")
DEFAULT_BASELINE = "none"
RECIPE_ONLY = ("flip", "recipe", "decode", "nvidia_recipe", "timm_recipe", "torchvision_recipe")
RECIPE_BASELINE = "flip"

_INTERPOLATION = "bicubic"
_WITHOUT_RECIPE: dict[str, Any] = {"mixup": MIXUP_ALPHA, "cutmix": CUTMIX_ALPHA, "smoothing": SMOOTHING}
_WITHOUT_RECIPE |= {"train_interpolation": _INTERPOLATION}
"""The trainer's flags for an augmentation without a recipe: mixed as everything else here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this benchmark."""
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, metavar="DIR", help="A folder with one sub-folder of images per class.")
    add("--images", type=int, metavar="N", help="Read this many files, spread over the classes; a multiple of the "
        "batch size, by default the largest one there is.")  # fmt: skip
    add("--device", choices=("gpu", "cpu"), default="gpu", help="DALI's backend; cpu where there is no GPU.")
    add("--img-size", type=int, default=224, metavar="PX", help="Side of the images.")
    add("-b", "--batch-size", type=int, default=64, metavar="N", help="Images per batch.")
    add("-j", "--workers", type=int, default=4, metavar="N", help="DALI's CPU threads, or a DataLoader's processes.")
    add("--interpolation", choices=("bicubic", "bilinear"), help="Of every alternative's resize; by default the "
        f"recipe's, or {_INTERPOLATION}.")  # fmt: skip
    add("--hw-decoder-load", type=float, metavar="SHARE", help="Share of the images that DALI gives to the hardware "
        "decoder, in [0, 1]; by default DALI decides.")  # fmt: skip
    add("--only", nargs="+", metavar="NAME", help="Time these alternatives: all, or some of "
        f"{', '.join(ALTERNATIVES)}; by default {', '.join(DEFAULT_ONLY)}, or with an augmentation "
        f"{', '.join(RECIPE_ONLY)}.")  # fmt: skip
    add("--baseline", nargs="+", metavar="NAME", help="Alternatives that the others are compared with, round by "
        f"round; by default {DEFAULT_BASELINE}, or {RECIPE_BASELINE}, or the first that is timed.")  # fmt: skip
    add("--rounds", type=int, default=20, metavar="N", help="Each alternative is timed this often.")
    add("--batches", type=int, metavar="N", help="Timed batches per alternative and round; by default 12, rounded "
        "up to whole epochs where these are short.")  # fmt: skip
    add("--time-limit", type=float, metavar="SECONDS", help="As many of the rounds as take no longer.")
    sweep.add_arguments(parser)
    recipe.add_arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time the alternatives, or with ``--sweep`` the settings of one of them.

    Returns:
        "results": for each name "per_s" (images per second), "cpu_s_per_1000" (processor seconds per 1,000 images),
        and each divided by the baseline's of the same round, "ratio" and "cpu_ratio" for the first baseline,
        "ratio NAME" and "cpu_ratio NAME" for any other; "seconds" and "cpu_seconds", per image and round.

    Raises:
        ConfigError: for settings that cannot work or would have no effect.
        DataError: for an image that cannot be loaded.
    """
    _check(args)
    asked = recipe.read_recipe(args, **_WITHOUT_RECIPE)
    if asked is not None and args.interpolation is not None:
        changed = asked.settings.changed(train_interpolation=args.interpolation)
        asked = dataclasses.replace(asked, settings=changed)
    chosen = choose_alternatives(args.only or _default_names(args.sweep, asked), asked)
    left_out = without_equal(chosen, asked)
    chosen = {name: alternative for name, alternative in chosen.items() if name not in left_out}
    lines = [f"{name} is left out: it has no equal of {what}" for name, what in left_out.items()]
    if not chosen:
        raise ConfigError(f"nothing is left to time: {'; '.join(lines)}")
    setting = functools.partial(_setting, args, asked)
    result = _sweep(chosen, setting, args) if args.sweep else _compare(chosen, setting, args)
    lines = [*([asked.describe()] if asked else []), *lines]
    return result | {"lines": [*lines, *result["lines"]]}


def _default_names(sweeping: bool, asked: recipe.Recipe | None) -> Sequence[str]:
    if sweeping:
        return [sweep.DEFAULT_ALTERNATIVE if asked is None else "recipe"]
    return DEFAULT_ONLY if asked is None else RECIPE_ONLY


def _compare(
    chosen: Mapping[str, Alternative], setting: Callable[[], Setting], args: argparse.Namespace
) -> dict[str, Any]:
    baselines = _baselines(args.baseline, list(chosen))
    if args.hw_decoder_load is not None and all(alternative.processes for alternative in chosen.values()):
        raise ConfigError("--hw-decoder-load has no effect: none of the alternatives decodes with DALI")
    same = setting()
    return _measure({name: segment(chosen[name], same, args.batches) for name in chosen}, baselines, args)


def _sweep(
    chosen: Mapping[str, Alternative], setting: Callable[[], Setting], args: argparse.Namespace
) -> dict[str, Any]:
    if len(chosen) > 1:
        raise ConfigError(f"--sweep takes one alternative, got {' '.join(chosen)}")
    ((name, alternative),) = chosen.items()
    settings = sweep.settings(alternative, setting(), args)
    work = {label: segment(alternative, one, args.batches) for label, one in settings.items()}
    result = _measure(work, [next(iter(work))], args)
    return result | {"lines": [*result["lines"], sweep.best(name, result["results"])]}


def _check(args: argparse.Namespace) -> None:
    for name in ("images", "img_size", "batch_size", "workers", "rounds", "batches"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if args.batch_size % 2:
        raise ConfigError(f"--batch-size must be even, as timm's Mixup pairs the images, got {args.batch_size}")
    sweep.check(args)


def _setting(args: argparse.Namespace, asked: recipe.Recipe | None) -> Setting:
    backend = select_backend(args.device)
    if backend.decoder == "cpu" and (args.hw_decoder_load is not None or args.sweep_loads is not None):
        raise ConfigError("the hardware decoder needs a GPU: leave out --hw-decoder-load and --sweep-loads")
    folder = _whole_batches(scan_image_folder(args.data_dir), args.images, args.batch_size)
    if args.interpolation is None:
        # "random" is timm's and ours alone.
        wanted = asked.settings.crop.interpolation if asked else _INTERPOLATION
        args.interpolation = "bilinear" if wanted == "random" else wanted
    return Setting(
        folder=folder,
        backend=backend,
        batch_size=args.batch_size,
        img_size=args.img_size,
        interpolation=args.interpolation,
        workers=args.workers,
        decoder_settings=DecoderSettings(hw_decoder_load=args.hw_decoder_load),
        recipe=asked,
    )


def _whole_batches(folder: FileSource, images: int | None, batch_size: int) -> FileSource:
    """Keep as many images as fill whole batches: of an incomplete one the images are read and thrown away."""
    count = len(folder) // batch_size * batch_size if images is None else images
    if len(folder) < max(count, batch_size):
        needed = f"--images {count}" if images else f"one batch of {batch_size}"
        raise ConfigError(f"{folder.root} holds {len(folder)} images, too few for {needed}")
    if count % batch_size:
        raise ConfigError(f"--images {count} does not fill whole batches of {batch_size}: give a multiple of it")
    if images is None and count < len(folder):
        left_out = f"{len(folder) - count} of {len(folder)} images are left out, to fill whole batches of {batch_size}"
        print(f"{left_out} (--images {count})", file=sys.stderr)
    return _spread_over_classes(folder, count)


def _spread_over_classes(folder: FileSource, count: int) -> FileSource:
    """The first file of every class, then the second, and so on, until there are ``count``; in the folder's order."""
    seen = [0] * len(folder.classes)
    rank = []
    for label in folder.labels:
        rank.append(seen[label])
        seen[label] += 1
    chosen = sorted(sorted(range(len(folder)), key=rank.__getitem__)[:count])
    return folder.select(chosen)


def _baselines(baselines: Sequence[str] | None, names: Sequence[str]) -> list[str]:
    if baselines is None:
        return [next((name for name in (DEFAULT_BASELINE, RECIPE_BASELINE) if name in names), names[0])]
    missing = [name for name in baselines if name not in names]
    if missing:
        raise ConfigError(f"--baseline {missing[0]} is not timed; the alternatives are {', '.join(names)}")
    return list(dict.fromkeys(baselines))


def _measure(
    work: Mapping[str, Callable[[], LoadingTime]], baselines: Sequence[str], args: argparse.Namespace
) -> dict[str, Any]:
    times = measure(work, args.rounds, args.time_limit)
    seconds = {name: [time.seconds for time in values] for name, values in times.items()}
    cpu_seconds = {name: [time.cpu_seconds for time in values] for name, values in times.items()}
    baseline, *others = baselines
    results = summarize(seconds, baseline, work=1)
    columns = [SPEED_COLUMNS[0], Column("cpu_s_per_1000", "cpu s / 1000", ".2f")]
    for key, base in [("", baseline), *((f" {name}", name) for name in others)]:
        columns += [Column(f"ratio{key}", f"time / {base}", ".3f"), Column(f"cpu_ratio{key}", f"cpu / {base}", ".3f")]
        for name, figures in results.items():
            figures["cpu_s_per_1000"] = spread([1000 * value for value in cpu_seconds[name]])
            figures[f"ratio{key}"] = ratio(seconds[name], seconds[base])
            figures[f"cpu_ratio{key}"] = ratio(cpu_seconds[name], cpu_seconds[base])
    return {
        "unit": "img/s",
        "baseline": baseline,
        "columns": columns,
        "results": results,
        "lines": [describe_mixing(args.device)],
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }
