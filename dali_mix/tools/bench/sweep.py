"""One alternative of the loader benchmark over the settings that a user has to find for a machine."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any

from dali_mix.errors import ConfigError
from dali_mix.fn.image.decoder_settings import DecoderSettings
from dali_mix.tools.bench.setting import Alternative, Setting

DEFAULT_ALTERNATIVE = "random_mix"

_THREADS = (2, 4, 8, 16)
_LOADS = (0.0, 0.35, 0.65, 0.9, 1.0)
"""Shares for the hardware decoder; the third is DALI's default."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the sweep."""
    add = parser.add_argument
    add("--sweep", action="store_true", help=f"Time one alternative, by default {DEFAULT_ALTERNATIVE}, with every "
        "number of threads and share for the hardware decoder, and name the fastest.")  # fmt: skip
    add("--sweep-threads", type=int, nargs="+", metavar="N", help="The numbers of threads; by default "
        f"{' '.join(map(str, _THREADS))}.")  # fmt: skip
    add("--sweep-loads", type=float, nargs="+", metavar="SHARE", help="The shares for the hardware decoder; on a GPU "
        f"by default {' '.join(f'{load:g}' for load in _LOADS)}.")  # fmt: skip


def check(args: argparse.Namespace) -> None:
    """Check the flags against each other.

    Raises:
        ConfigError: for values out of range, and flags that would have no effect.
    """
    loads = [load for load in [args.hw_decoder_load, *(args.sweep_loads or [])] if load is not None]
    if not all(0 <= load <= 1 for load in loads):
        raise ConfigError(f"a share for the hardware decoder must lie in [0, 1], got {' '.join(map(str, loads))}")
    if min(args.sweep_threads or [1]) < 1:
        raise ConfigError(f"--sweep-threads must be at least 1, got {' '.join(map(str, args.sweep_threads))}")
    if not args.sweep and (args.sweep_threads or args.sweep_loads):
        raise ConfigError("--sweep-threads and --sweep-loads need --sweep")
    if args.sweep and args.baseline:
        raise ConfigError("--sweep compares with its first setting: leave out --baseline")
    if args.sweep_loads and args.hw_decoder_load is not None:
        raise ConfigError("--sweep-loads and --hw-decoder-load both give the hardware decoder's share: leave one out")


def settings(alternative: Alternative, setting: Setting, args: argparse.Namespace) -> dict[str, Setting]:
    """Every setting, by the flags that it takes.

    Args:
        alternative: that will run with them.
        setting: all but what is swept.
        args: of the command line.

    Raises:
        ConfigError: for shares that the alternative has no use for.
    """
    loads = args.sweep_loads or _LOADS
    if alternative.processes and (args.sweep_loads or args.hw_decoder_load is not None):
        raise ConfigError("the shares for the hardware decoder have no effect: the alternative does not use DALI")
    if args.hw_decoder_load is not None or alternative.processes or setting.backend.decoder == "cpu":
        loads = (args.hw_decoder_load,)
    return {
        f"-j {threads}" + ("" if load is None else f" --hw-decoder-load {load:g}"): dataclasses.replace(
            setting, workers=threads, decoder_settings=DecoderSettings(hw_decoder_load=load)
        )
        for threads in args.sweep_threads or _THREADS
        for load in loads
    }


def best(name: str, results: Mapping[str, Any]) -> str:
    """A line that names the fastest setting.

    Args:
        name: of the alternative.
        results: of each setting.
    """
    fastest = max(results, key=lambda label: results[label]["per_s"]["median"])
    speed, cpu = (results[fastest][key]["median"] for key in ("per_s", "cpu_s_per_1000"))
    return f"best: {name} with {fastest}: {speed:.0f} img/s, {cpu:.2f} cpu s per 1,000 images"
