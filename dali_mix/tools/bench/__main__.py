"""The command line of the benchmarks; each benchmark is a module with ``add_arguments`` and ``run``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from dali_mix.errors import ConfigError, DataError
from dali_mix.files import write_output
from dali_mix.terminal import HelpFormatter
from dali_mix.text import show
from dali_mix.tools.bench import loader, overhead, step
from dali_mix.tools.bench.report import environment, format_table

BENCHMARKS = {"loader": loader, "overhead": overhead, "step": step}
_ABOUT = {
    "loader": "Measure what mixing and augmentation cost in the loader, and what other loaders do.",
    "overhead": "Measure what mixing and augmentation cost a pipeline per batch of tiny images.",
    "step": "Measure what a training step takes: without mixing, with Mixup, half and all SMMix.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark, print its table, and write JSON if asked to.

    Returns:
        The exit code: 0, or 2 for settings or data that cannot work.
    """
    parser = argparse.ArgumentParser(
        prog="dali-mix bench", description="Measure the loader, the training step, or what mixing costs."
    )
    commands = parser.add_subparsers(dest="name", required=True, metavar="BENCHMARK")
    for name, module in BENCHMARKS.items():
        command = commands.add_parser(name, help=_ABOUT[name], description=_ABOUT[name], formatter_class=HelpFormatter)
        module.add_arguments(command)
        command.add_argument("--json", type=Path, metavar="FILE", help="Also write every figure here.")
    try:
        args = parser.parse_args(argv)
        result = BENCHMARKS[args.name].run(args)
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
        record = {"benchmark": args.name, "settings": settings, "environment": environment(), **result}
        if args.json:
            write_output(args.json, json.dumps(record, indent=1) + "\n")
    except (ConfigError, DataError, OSError) as error:
        print(show(f"{parser.prog}: error: {error}"), file=sys.stderr)
        return 2
    print(format_table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
