"""The command line of the benchmarks; each benchmark is a module with ``add_arguments`` and ``run``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from dali_mix.errors import ConfigError, DataError
from dali_mix.tools.bench import loader, overhead, step
from dali_mix.tools.bench.report import environment, format_table

BENCHMARKS = {"loader": loader, "overhead": overhead, "step": step}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark, print its table, and write JSON if asked to.

    Returns:
        The exit code: 0, or 2 for settings or data that cannot work.
    """
    parser = argparse.ArgumentParser(prog="python -m dali_mix.tools.bench", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True, metavar="BENCHMARK")
    for name, module in BENCHMARKS.items():
        command = commands.add_parser(
            name, help=(module.__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        module.add_arguments(command)
        command.add_argument("--json", type=Path, metavar="FILE", help="also write every figure here")
    try:
        args = parser.parse_args(argv)
        result = BENCHMARKS[args.name].run(args)
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
        record = {"benchmark": args.name, "settings": settings, "environment": environment(), **result}
        if args.json:
            args.json.write_text(json.dumps(record, indent=1) + "\n")
    except (ConfigError, DataError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    print(format_table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
