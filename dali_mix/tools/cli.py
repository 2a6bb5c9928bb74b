"""The command ``dali-mix``: ``dali-mix NAME ARGS...`` trains, or runs one of the tools."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from dali_mix import __version__
from dali_mix.terminal import forgiving

TOOLS = {
    "train": ("dali_mix.train.__main__", "Train an image classifier, as train_imagenet.py does."),
    "scan": ("dali_mix.tools.scan", "Find the files of an image folder that DALI cannot decode."),
    "bench": ("dali_mix.tools.bench.__main__", "Measure the loader, the training step, or what mixing costs."),
    "doctor": ("dali_mix.tools.doctor", "Tell what this environment is, and what stands in the way of a fast run."),
    "accuracy": ("dali_mix.tools.accuracy", "Train a small model per mixing method and compare them."),
    "export": ("dali_mix.tools.export", "Write a run's weights as a folder for timm and the Hugging Face hub."),
}
"""Name to the module whose ``main(argv)`` runs it, imported only then, and what it does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a tool, or list them all.

    Returns:
        The tool's exit code; 2 for a name that is none, 130 after Ctrl-C.
    """
    with forgiving():
        return _run(*((sys.argv[1:] if argv is None else list(argv)) or ["--help"]))


def _run(name: str, *rest: str) -> int:
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"dali_mix {__version__}")
        return 0
    if name not in TOOLS:
        close = difflib.get_close_matches(name, TOOLS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(TOOLS)}"
        print(f"dali-mix: error: no tool {name!r}; {hint}", file=sys.stderr)
        return 2
    try:
        return int(importlib.import_module(TOOLS[name][0]).main(list(rest)))
    except KeyboardInterrupt:
        print(f"dali-mix {name}: interrupted", file=sys.stderr)
        return 130


def _help() -> str:
    lines = [f"  {name:<10}{about}" for name, (_, about) in TOOLS.items()]
    return "\n".join(
        ["usage: dali-mix NAME ARGS...", "", *lines, "", "dali-mix NAME --help tells the arguments of a tool."]
    )


if __name__ == "__main__":
    sys.exit(main())
