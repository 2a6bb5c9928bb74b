"""Compile the native operators ahead: ``python -m dali_mix.native [--into-package]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dali_mix.native import cache, describe, why_not
from dali_mix.native.compile import build
from dali_mix.native.toolchain import BuildError


def main(argv: Sequence[str] | None = None) -> int:
    """Compile and load them, unless that has been done.

    Returns:
        The exit code: 0, or 1 with one line that says why they cannot be had.
    """
    parser = argparse.ArgumentParser(
        prog="python -m dali_mix.native", description="Compile the native operators ahead of their first use."
    )
    parser.add_argument(
        "--into-package", action="store_true", help="Keep them beside this package's files, not in the user's cache."
    )
    args = parser.parse_args(argv)
    failure = ""
    if args.into_package:
        try:
            cache.keep(build, cache.PACKAGE_FOLDER)
        except (BuildError, OSError) as error:
            failure = str(error)
    failure = failure or why_not()
    if failure:
        print(f"{parser.prog}: error: the native operators cannot be had: {failure}", file=sys.stderr)
        return 1
    print("\n".join(describe()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
