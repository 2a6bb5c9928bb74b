"""What each mixing method is worth: one small ViT, trained once per method and seed through the command line.

    python -m dali_mix.tools.accuracy --data-dir DIR --output DIR --epochs 30 --seeds 1 2 3

prints a Markdown table and writes it to ``accuracy.md`` in the output folder.  Flags after ``--`` go to every
run and win over the ones chosen here.  Started again with the same settings, it trains only what is missing.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dali_mix.errors import ConfigError
from dali_mix.files import replace_text
from dali_mix.helpers import LAUNCHER
from dali_mix.terminal import HelpFormatter
from dali_mix.text import show

METHODS: dict[str, list[str]] = {
    "none": [],
    "mixup": ["--mixup", "0.8"],
    "mixup_cutmix": ["--mixup", "0.8", "--cutmix", "1"],
    "mixup_smmix": ["--smmix", "--mixup", "0.8"],
    "cutmix": ["--cutmix", "1"],
    "smmix": ["--smmix"],
}
"""The flags of ``train_imagenet.py`` that each method is."""

RECIPE = (
    "--model vit_tiny_patch16_224 --img-size 32 --model-kwargs patch_size=4 embed_dim=96 depth=6 num_heads=3 "
    "-b 128 -j 2 --opt adamw --lr 1e-3 --weight-decay 0.05 --scale 0.4 1.0 --crop-pct 1.0"
).split()
"""What all runs share: 0.7 M parameters and 8 x 8 tokens, so that a table takes hours on CPU cores, not weeks."""

# Each of these decides what a run is called or counts as; set twice, the table would tell a lie.
_OURS = ("--data-dir", "--output", "--experiment", "--epochs", "--seed", "--mixup", "--cutmix", "--smmix", "--demo")

_HEADER = """\
| method | seeds | top-1, % | best top-1, % | loss, first epoch | loss, last epoch | img/s | minutes |
|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Result:
    """The figures of one finished run.

    Fields:
        top1, best: validation top-1 in percent, of the last and of the best epoch.
        first_loss, last_loss: of training, without the terms that only SMMix has.
        img_per_s: median of the epochs, as the first one also warms up.
        minutes: of all epochs, with evaluation.
    """

    top1: float
    best: float
    first_loss: float
    last_loss: float
    img_per_s: float
    minutes: float


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, print the table and write it.

    Returns:
        The exit code: 0, 1 if a run failed, 2 for settings that cannot work, 130 after Ctrl-C.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    # By hand, as argparse loses "--" after an option that takes many values.
    split = given.index("--") if "--" in given else len(given)
    parser = _build_parser()
    args = parser.parse_args(given[:split])
    try:
        return _make_table(args, given[split + 1 :])
    except (ConfigError, OSError) as error:
        print(show(f"{parser.prog}: error: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; the same command continues", file=sys.stderr)
        return 130


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m dali_mix.tools.accuracy",
        usage="%(prog)s --data-dir DIR --output DIR [options] [-- FLAGS OF train_imagenet.py]",
        description="Train a small model per mixing method and compare them.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--data-dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="Folder with train/ and val/, or as --val-split says.",
    )
    add(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="Folder for a folder per run, its log, and accuracy.md.",
    )
    add("--epochs", type=int, default=30, metavar="N", help="Epochs of every run, of which a tenth warms up.")
    add(
        "--seeds",
        type=int,
        nargs="+",
        default=[1, 2, 3],
        metavar="N",
        help="Seeds of the runs per method.",
    )
    add(
        "--methods",
        nargs="+",
        default=list(METHODS),
        choices=METHODS,
        metavar="M",
        help=f"Methods, of {', '.join(METHODS)}.",
    )
    add("--entry", type=Path, default=Path("train_imagenet.py"), metavar="FILE", help="The program that trains.")
    return parser


def _make_table(args: argparse.Namespace, extra: list[str]) -> int:
    _check(args, extra)
    flags = [*RECIPE, "--warmup-epochs", str(args.epochs // 10), "--epochs", str(args.epochs), *extra]
    args.output.mkdir(parents=True, exist_ok=True)
    _remember(args.output / "settings.json", {"data_dir": str(args.data_dir.resolve()), "flags": flags})
    methods, seeds = dict.fromkeys(args.methods), dict.fromkeys(args.seeds)
    results: dict[str, list[Result | None]] = {method: [] for method in methods}
    # Seeds outside: if time runs out, every method has as many as any other.
    for seed in seeds:
        for method in methods:
            name = f"{method}-seed{seed}"
            result = find_result(args.output, name, args.epochs)
            if result is None:
                command = [sys.executable, str(args.entry), "--data-dir", str(args.data_dir), *flags, *METHODS[method]]
                result = _train(command, args.output, name, seed, args.epochs)
            results[method].append(result)
            if result:
                _say(f"{name}: top-1 {result.top1:.2f} %, {result.minutes:.1f} min")
            replace_text(args.output / "accuracy.md", _page(results, args.epochs, flags))
    print(_page(results, args.epochs, flags), end="")
    return int(any(result is None for runs in results.values() for result in runs))


def _check(args: argparse.Namespace, extra: Sequence[str]) -> None:
    if not args.data_dir.is_dir():
        raise ConfigError(f"--data-dir {args.data_dir} does not exist; give a folder with train/ and val/")
    if not args.entry.is_file():
        raise ConfigError(f"--entry {args.entry} is not a file; name train_imagenet.py, or start where it lies")
    if args.epochs < 1:
        raise ConfigError(f"--epochs must be at least 1, got {args.epochs}")
    if min(args.seeds) < 0:
        raise ConfigError(f"--seeds must not be negative, got {min(args.seeds)}")
    for flag in extra:
        if flag.partition("=")[0] in _OURS:
            raise ConfigError(f"{flag} after -- contradicts the table, which sets it for every run; leave it out")


def _remember(path: Path, settings: Mapping[str, object]) -> None:
    """Refuse to continue a table with runs that cannot be compared with those that are there."""
    text = json.dumps(settings, indent=1) + "\n"
    if not path.exists():
        replace_text(path, text)
    elif path.read_text() != text:
        raise ConfigError(f"--output {path.parent} holds runs with other settings ({path.name}); give another folder")


def _train(command: Sequence[str], output: Path, name: str, seed: int, epochs: int) -> Result | None:
    """Run one training; None if it failed, and then its last words are shown."""
    _say(f"{name}: training")
    run = [*command, "--seed", str(seed), "--output", str(output), "--experiment", name]
    log = output / f"{name}.log"
    with log.open("w") as file:
        environment = os.environ | {LAUNCHER: str(os.getpid())}  # so that it ends with this process, however that ends
        code = subprocess.run(run, stdout=subprocess.DEVNULL, stderr=file, env=environment, check=False).returncode
    result = find_result(output, name, epochs) if code == 0 else None
    if result is None:
        lines = log.read_text(errors="replace").strip().splitlines()
        _say(f"{name}: failed with code {code}: {lines[-1] if lines else 'it said nothing'}")
    return result


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def find_result(output: Path, name: str, epochs: int) -> Result | None:
    """The figures of a finished run of this name, or None.

    A run that was cut off leaves its folder, and the trainer calls the next one ``NAME-1``: all are looked at.
    """
    for path in (output / name / "summary.csv", *sorted(output.glob(f"{name}-*/summary.csv"))):
        if path.is_file() and (result := read_result(path.read_text(), epochs)):
            return result
    return None


def read_result(text: str, epochs: int) -> Result | None:
    """The figures in the text of a ``summary.csv``; None unless it has every epoch, down to the last line's end."""
    rows = list(csv.DictReader(text.splitlines()))
    if len(rows) != epochs or not text.endswith("\n"):
        return None

    def column(name: str) -> list[float]:
        # A cell is empty where an epoch has no such figure, as one that was not evaluated.
        return [float(row[name]) for row in rows if row[name]]

    top1, loss = column("eval_top1"), column("train_classification")
    if not (top1 and loss):
        return None
    return Result(
        top1=top1[-1],
        best=max(top1),
        first_loss=loss[0],
        last_loss=loss[-1],
        img_per_s=statistics.median(column("img_per_s")),
        minutes=sum(column("seconds")) / 60,
    )


def format_spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean, and where there are several values their standard deviation (n - 1)."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def format_table(results: Mapping[str, Sequence[Result | None]]) -> str:
    """The Markdown table: a row per method; None is a run that failed."""
    lines = [_HEADER]
    for method, runs in results.items():
        done = [run for run in runs if run]
        failed = len(runs) - len(done)
        count = f"{len(done)} (**{failed} failed**)" if failed else str(len(done))
        cells = [format_spread([getattr(run, name) for run in done]) for name in ("top1", "best")] if done else ["", ""]
        for name, digits in (("first_loss", 3), ("last_loss", 3), ("img_per_s", 0), ("minutes", 1)):
            cells.append(f"{statistics.fmean(getattr(run, name) for run in done):.{digits}f}" if done else "")
        lines.append(f"| {' | '.join([method, count, *cells])} |")
    return "\n".join(lines)


def _page(results: Mapping[str, Sequence[Result | None]], epochs: int, flags: Sequence[str]) -> str:
    return (
        f"{epochs} epochs. Top-1 on the validation images, of the last and of the best epoch: mean and standard "
        f"deviation over seeds.\nLosses are of training, on mixed targets where a method mixes, without SMMix's own "
        f"terms.\n\n"
        f"    train_imagenet.py --data-dir DIR {' '.join(flags)}\n\n{format_table(results)}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
