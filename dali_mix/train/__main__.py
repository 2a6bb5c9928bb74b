"""``dali-mix train`` and ``python -m dali_mix.train``: what ``train_imagenet.py`` does, from an installed package."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dali_mix.errors import ConfigError
from dali_mix.train import run
from dali_mix.train.pipelines import ready_made

PROG = "dali-mix train"


def main(argv: Sequence[str] | None = None) -> int:
    """Train; see :func:`dali_mix.train.run.main`."""
    try:
        pipelines = ready_made()
    except ConfigError as error:
        print(f"{PROG}: error: {error}", file=sys.stderr)
        return 2
    return run.main(pipelines, argv, prog=PROG)


if __name__ == "__main__":
    sys.exit(main())
