"""What a training step takes: without mixing, with Mixup, half and all SMMix; eager, compiled, and from files.

Trained by the trainer's own loop.  Synthetic images are ``torch.randn`` with a fixed seed and lie on the device.  All
alternatives share one set of weights and one optimizer, so that they differ in nothing but the step.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.utils import ParseKwargs

from dali_mix.errors import ConfigError
from dali_mix.tools.bench import recipe, step_loop, step_parts
from dali_mix.tools.bench.report import Column
from dali_mix.tools.bench.step_parts import PARTS as PARTS
from dali_mix.tools.bench.step_parts import ByPart
from dali_mix.tools.bench.step_setup import MIXES, Setup, compiled, only_plain, open_loaders, prepare
from dali_mix.tools.bench.step_work import WARM_UP, Alternative, ReadyBatches, StepTime, endless, synthetic
from dali_mix.tools.bench.timing import interleave, ratio, spread
from dali_mix.train.distributed import open_world

_BASELINE = "mixup"
_COLUMNS = [
    Column("per_s", "img/s", ".0f"),
    Column("ratio", f"time / {_BASELINE}", ".3f"),
    Column("gain", "time / row without the last word", ".3f"),
    Column("ms", "ms / update", ".1f"),
    Column("data_wait", "data wait", ".1%"),
    Column("host_wait_ms", "host idle ms", ".1f"),
]


class _ModelKwargs(ParseKwargs):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        try:
            super().__call__(parser, namespace, values, option_string)
        except ValueError as error:
            raise ConfigError("--model-kwargs takes NAME=VALUE pairs") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this benchmark."""
    add = parser.add_argument
    add("--model", default="deit_tiny_patch16_224", metavar="NAME", help="A model of timm; SMMix is left out where it "
        "cannot serve it.")  # fmt: skip
    add(
        "--model-kwargs",
        nargs="*",
        default={},
        action=_ModelKwargs,
        metavar="K=V",
        help="Arguments for the model, as NAME=VALUE.",
    )
    add("--img-size", type=int, metavar="PX", help="Side of the images, by default the model's own.")
    add("--num-classes", type=int, default=1000, metavar="K", help="Classes of the classifier.")
    add("--drop-path", type=float, default=0.1, metavar="RATE", help="Rate of stochastic depth.")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", choices=("cuda", "cpu"), default=default, help="Where the step runs.")
    add("--amp", action="store_true", help="Mixed precision, and half-precision images.")
    add("--amp-dtype", choices=("float16", "bfloat16"), help="By default bfloat16 where the device has it.")
    add("-b", "--batch-size", type=int, default=32, metavar="N", help="Images per batch.")
    add("--ema", dest="model_ema", action="store_true", help="Keep a moving average of the weights.")
    add("--clip-grad", type=float, metavar="NORM", help="Clip the gradient.")
    add(
        "--nonfinite-limit",
        type=int,
        default=10,
        metavar="N",
        help="Updates in a row that may be skipped, as in the trainer; 0 does not look.",
    )
    add("--unguarded", action="store_true", help="Also every alternative with --nonfinite-limit 0.")
    add("--compiled", action="store_true", help="Also every alternative compiled.")
    add("--torchcompile", nargs="?", const="inductor", metavar="BACKEND", help="Compile all alternatives; beside "
        "--compiled the backend of those.")  # fmt: skip
    add("--torchcompile-mode", metavar="MODE", help="Mode of inductor: default, reduce-overhead or max-autotune.")
    add("--data-dir", type=Path, metavar="DIR", help="Also every alternative on the JPEG files of this folder, with "
        "one sub-folder per class, through the trainer's pipeline.")  # fmt: skip
    add("-j", "--workers", type=int, default=4, metavar="N", help="DALI's CPU threads.")
    add("--only", nargs="+", choices=MIXES, metavar="MIX", help=f"Some of {', '.join(MIXES)}.")
    add("--rounds", type=int, default=8, metavar="N", help="Each alternative is timed this often.")
    add("--steps", type=int, default=1, metavar="N", help="Timed updates per alternative and round; half smmix takes "
        "an even number.")  # fmt: skip
    add("--time-limit", type=float, metavar="SECONDS", help="As many of the rounds, but for the first, as take no "
        "longer, compilation included.")  # fmt: skip
    add(
        "--loop",
        action="store_true",
        help="Instead: what the trainer's loop costs beside forward, backward and update.",
    )
    recipe.add_arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time the alternatives.

    Returns:
        "results": for each name "per_s" (images per second), "ratio" (time over Mixup's, or where that is left out over
        plain's, of the same kind: compiled or not, from files or not), "gain" (time over that of the row whose name
        lacks the last word), "ms", "data_wait" (share of the time), "host_wait_ms", "peak_memory_mib" (None on the
        CPU), "warm_up_s" (of the first updates, one by one) and "smmix" (share of its batches); "parts", for each of
        :data:`PARTS` the median "ms" per step and the "share" of the step; "lines" that say so; "seconds" per update
        and "part_seconds", per round.  With ``--loop`` see there.
    """
    _check(args)
    started = time.perf_counter()
    try:
        with open_world(args.device) as world:
            setup = prepare(args, world)
            return step_loop.measure(setup, args) if args.loop else _measure(setup, args, started)
    except torch.OutOfMemoryError as error:
        raise ConfigError(f"out of GPU memory: lower --batch-size {args.batch_size}") from error


def _check(args: argparse.Namespace) -> None:
    for name in ("img_size", "num_classes", "batch_size", "rounds", "steps", "workers"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if not 0 <= args.drop_path <= 1:
        raise ConfigError(f"--drop-path must lie in [0, 1], got {args.drop_path:g}")
    if args.nonfinite_limit < 0:
        raise ConfigError(f"--nonfinite-limit must be at least 0, got {args.nonfinite_limit}")
    for name in ("clip_grad", "time_limit"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"--{name.replace('_', '-')} must be a positive number, got {value:g}")
    if args.amp_dtype and not args.amp:
        raise ConfigError("--amp-dtype has no effect without --amp")
    if args.torchcompile_mode and not (args.compiled or args.torchcompile):
        raise ConfigError("--torchcompile-mode has no effect without --compiled or --torchcompile")
    if args.unguarded and not args.nonfinite_limit:
        raise ConfigError("--unguarded has no effect beside --nonfinite-limit 0")
    if recipe.is_given(args) and not args.data_dir:
        raise ConfigError("--recipe and the flags of augmentation have no effect without --data-dir")
    if args.loop and (args.data_dir or args.compiled or args.torchcompile or args.unguarded or args.only):
        raise ConfigError("--loop times one eager model on synthetic images: leave the other alternatives out")


def _measure(setup: Setup, args: argparse.Namespace, started: float) -> dict[str, Any]:
    mixes = [mix for mix in args.only or MIXES if not (setup.unserved and "smmix" in mix)]
    if not mixes:
        raise ConfigError(f"nothing is left to time: {setup.unserved}")
    with contextlib.ExitStack() as stack:
        alternatives = _alternatives(setup, args, mixes, stack)
        for name, alternative in alternatives.items():
            alternative.warm_up()
            # Compilation takes minutes, and may be cut off.
            print(f"{name}: first updates {_seconds(alternative.warm_up_s)} s", file=sys.stderr)
        work: dict[str, Any] = dict(alternatives)
        by_part = _by_part(setup, alternatives)
        if by_part is not None:
            by_part()
            by_part.seconds.clear()
            work[step_parts.NAME] = by_part
        left_s = None if args.time_limit is None else args.time_limit - (time.perf_counter() - started)
        times = interleave(work, args.rounds, left_s)
    times.pop(step_parts.NAME, None)
    results = _results(times, alternatives, args.batch_size)
    parts, part_seconds = step_parts.summarize_parts(by_part.seconds) if by_part else ({}, {})
    return {
        "columns": _columns(results),
        "results": results,
        "parts": parts,
        "lines": [*_lines(results, setup), *(step_parts.lines(parts) if parts else [])],
        "seconds": {name: [time.seconds for time in values] for name, values in times.items()},
        "part_seconds": part_seconds,
    }


def _alternatives(
    setup: Setup, args: argparse.Namespace, mixes: list[str], stack: contextlib.ExitStack
) -> dict[str, Alternative]:
    """All combinations that were asked for; each word behind a comma says how it differs."""
    trainers = {} if args.torchcompile and not args.compiled else {"": setup.trainer}
    if args.torchcompile or args.compiled:
        backend = args.torchcompile or "inductor"
        trainers[", compiled"] = compiled(setup.trainer, backend, args.torchcompile_mode)
    made = synthetic(setup)
    sources: dict[str, dict[str, ReadyBatches]] = {"": {mix: ReadyBatches(made[mix]) for mix in mixes}}
    if args.data_dir:
        loaders = open_loaders(setup, mixes)
        for loader in loaders.values():
            stack.callback(loader.close)
        sources[", files"] = {mix: endless(loader) for mix, loader in loaders.items()}
    limits = {"": args.nonfinite_limit, **({", unguarded": 0} if args.unguarded else {})}
    found = {}
    for (how, trainer), (source, batches), (guard, limit) in itertools.product(
        trainers.items(), sources.items(), limits.items()
    ):
        plain = only_plain(trainer, setup)
        for mix in mixes:
            recovery = dataclasses.replace(trainer.recovery, nonfinite_limit=limit)
            own = dataclasses.replace(trainer if "smmix" in mix else plain, recovery=recovery)
            # Both of its branches, as often.
            updates = args.steps + args.steps % 2 if mix == "half smmix" else args.steps
            found[f"{mix}{how}{source}{guard}"] = Alternative(own, batches[mix], updates, bool(source))
    return found


def _by_part(setup: Setup, alternatives: Mapping[str, Alternative]) -> ByPart | None:
    """The parts of a step of the first SMMix alternative, None without one."""
    batch = synthetic(setup)["smmix"]()
    trainers = [work.trainer for name, work in alternatives.items() if "smmix" in name]
    return ByPart(trainers[0], batch) if trainers else None


def _results(
    times: Mapping[str, list[StepTime]], alternatives: Mapping[str, Alternative], batch_size: int
) -> dict[str, Any]:
    seconds = {name: [time.seconds for time in values] for name, values in times.items()}
    results = {}
    for name, values in times.items():
        _, comma, how = name.partition(", ")
        base = next((other for other in (f"{_BASELINE}{comma}{how}", f"plain{comma}{how}") if other in seconds), name)
        peaks = [time.peak_mib for time in values if time.peak_mib is not None]
        results[name] = {
            "per_s": spread([batch_size / value for value in seconds[name]]),
            "ratio": ratio(seconds[name], seconds[base]),
            "gain": ratio(seconds[name], seconds.get(name.rpartition(", ")[0], seconds[name])),
            "ms": spread([1000 * value for value in seconds[name]]),
            "data_wait": spread([time.data_wait_s / time.seconds for time in values]),
            "host_wait_ms": spread([1000 * time.host_wait_s for time in values]),
            "peak_memory_mib": max(peaks, default=None),
            "warm_up_s": alternatives[name].warm_up_s,
            "smmix": sum(time.smmix for time in values) / len(values),
        }
    return results


def _columns(results: Mapping[str, Any]) -> list[Column]:
    """The columns that say something of these alternatives."""
    idle = {
        "gain": not any(", " in name for name in results),
        "data_wait": not any("files" in name for name in results),
    }
    return [column for column in _COLUMNS if not idle.get(column.key)]


def _seconds(values: Sequence[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)


def _lines(results: Mapping[str, Any], setup: Setup) -> list[str]:
    """What the table has no room for: the first updates, SMMix's share, and the peaks of memory where measured."""
    width = max(map(len, results))
    lines = [f"{'':<{width}}  first updates, s{'':>12}  batches of SMMix    peak MiB"]
    for name, figures in results.items():
        first = _seconds(figures["warm_up_s"])
        peak = "-" if figures["peak_memory_mib"] is None else f"{figures['peak_memory_mib']:.0f}"
        lines.append(f"{name:<{width}}  {first:>28}  {figures['smmix']:>16.0%}  {peak:>10}")
    lines.append(f"the first {WARM_UP} updates of each, compilation included, are not in the table above")
    if setup.world.device.type == "cpu":
        lines.append("host idle is 0 by nature: the CPU is host and device")
    if setup.unserved:
        lines.append(f"half smmix and smmix are left out: {setup.unserved}")
    return lines
