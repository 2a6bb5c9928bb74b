"""``dali-mix scan DIR``: every file of an image folder that DALI cannot decode, and what else is worth knowing."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch
from tqdm import tqdm

from dali_mix.errors import ConfigError, DataError
from dali_mix.files import write_output
from dali_mix.loading.probe import probe_images
from dali_mix.sources import open_source
from dali_mix.sources.base import split_scheme
from dali_mix.sources.folder import SPLIT_NAMES, find_split, other_splits
from dali_mix.sources.listing import Kind, is_folder, kind_of, list_folder
from dali_mix.text import fits_a_line, is_utf8, show
from dali_mix.tools.scan_findings import Findings, Split
from dali_mix.tools.scan_report import format_bad, format_report, to_json
from dali_mix.train.settings.imports import import_files

_PROG = "dali-mix scan"

_SAY_EVERY_S = 30
"""How often a line tells the progress where there is no terminal for a bar."""


def main(argv: Sequence[str] | None = None) -> int:
    """Scan a folder, print the report and write what was asked for.

    Returns:
        The exit code: 0, 1 if files cannot be decoded, 2 for bad input, 130 after Ctrl-C.
    """
    parser = _build_parser()
    args = parser.parse_args(argv)
    findings: Findings | None = None
    try:
        for flag, path in (("--exclude-list", args.exclude_list), ("--report", args.report)):
            _check_output(flag, path)
        import_files(args.imports)
        findings = _list_files(args)
        seconds = _probe_all(findings, args)
        return _tell(findings, args, seconds)
    except (ConfigError, DataError, OSError) as error:
        print(show(f"{_PROG}: error: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        _tell_interrupt(findings)
        return 130


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROG,
        description="Find every file of a data set that DALI cannot decode, and what else is worth knowing.",
        epilog="Exit code: 0 all files decode, 1 some do not, 2 bad input, 130 after Ctrl-C.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "dir",
        type=Path,
        metavar="DIR",
        help="Folder with train/ and val/, one of class folders, or list:FILE.",
    )
    add("--exclude-list", type=Path, metavar="FILE", help="Write the undecodable files, for the trainer's flag.")
    add("--report", type=Path, metavar="FILE", help="Write everything as JSON.")
    add("--import", dest="imports", nargs="+", default=[], metavar="FILE", help="Python files to run first: a source "
        "of yours, whose images are files, is scanned as SCHEME:WHERE.")  # fmt: skip
    add("--device", choices=("gpu", "cpu"), help="Decoder to try, by default gpu where there is one.")
    add("--device-id", type=int, default=0, metavar="N", help="GPU to use.")
    threads = len(os.sched_getaffinity(0))
    add("-j", "--threads", type=int, default=threads, metavar="N", help="CPU threads, by default all.")
    add("--train-split", default="train", metavar="NAME", help="Sub-folder of the training images, as in the trainer.")
    add(
        "--val-split",
        default="validation",
        metavar="NAME",
        help="Sub-folder of the validation images; val and valid are found too.",
    )
    return parser


def _check_output(flag: str, path: Path | None) -> None:
    """Better now than after hours."""
    if path is None:
        return
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"{flag} {path} cannot be written; give a file in a folder that exists and is writable")


def _list_files(args: argparse.Namespace) -> Findings:
    scheme, where = split_scheme(str(args.dir))
    if scheme != "folder":
        source = open_source(str(args.dir), allow_empty=True)
        if not source.gives_paths:
            raise ConfigError(f"{args.dir} gives no files, and a scan looks at nothing else; give a folder or a list")
        return Findings(Path(os.path.abspath(where)).parent, [Split(os.path.basename(where), source)])
    root = Path(os.path.abspath(args.dir.expanduser()))
    folders: list[Path] = []
    unused: list[Path] = []
    for name in (args.train_split, args.val_split):
        folder = find_split(root, name)
        if is_folder(folder):
            folders.append(folder)
            unused += other_splits(folder, name)
        elif name not in SPLIT_NAMES:
            raise ConfigError(f"{folder} does not exist; leave the flag out, or name a sub-folder of {root}")
    base = root
    # A folder of images called "train" may as well be a class of a single split.
    if not any(_has_folder(folder) for folder in folders):
        folders, base, unused = [root], root.parent, []
    if sys.stderr.isatty():
        print(f"listing {', '.join(show(str(folder)) for folder in folders)}", file=sys.stderr)
    splits = []
    for folder in folders:
        images = open_source(folder, allow_empty=True)
        if not is_utf8(str(folder)):
            images.check()
        splits.append(Split(folder.name, images))
    return Findings(base, splits, unused)


def _has_folder(path: Path) -> bool:
    entries = list_folder(str(path))
    return any(kind_of(entry) is Kind.FOLDER for entry in entries if not entry.name.startswith("."))


def _probe_all(findings: Findings, args: argparse.Namespace) -> float:
    """Decode every file; the seconds that took."""
    files = findings.files
    device = args.device or ("gpu" if torch.cuda.is_available() else "cpu")
    start = said = time.monotonic()
    on_terminal = sys.stderr.isatty()
    probing = probe_images(files, device=device, device_id=args.device_id, num_threads=args.threads)
    with closing(probing), tqdm(total=len(files), unit="img", disable=not on_terminal, dynamic_ncols=True) as bar:
        for probed in probing:
            findings.add(probed)
            if probed.error is not None:
                bar.set_postfix(undecodable=len(findings.bad), refresh=False)
            bar.update()
            now = time.monotonic()
            if not on_terminal and now - said >= _SAY_EVERY_S:
                said = now
                print(_progress(findings, len(files), now - start), file=sys.stderr, flush=True)
    return time.monotonic() - start


def _progress(findings: Findings, total: int, seconds: float) -> str:
    rate = findings.done / seconds
    bad = len(findings.bad)
    return f"{_PROG}: {findings.done:,} of {total:,} files, {rate:.0f} img/s, {bad:,} undecodable"


def _tell(findings: Findings, args: argparse.Namespace, seconds: float) -> int:
    """Write the files, print the report; the exit code."""
    duplicates = findings.find_duplicates()
    if args.exclude_list:
        listed = [probed.path for probed in findings.bad if fits_a_line(probed.path)]
        write_output(args.exclude_list, "".join(f"{path}\n" for path in listed))
    if args.report:
        write_output(args.report, json.dumps(to_json(findings, duplicates), indent=1) + "\n")
    _print(format_report(findings, duplicates).splitlines())
    _print(["", f"{findings.done:,} files in {seconds:.1f} s, {findings.done / seconds:.0f} img/s"])
    if args.exclude_list:
        _print([f"{args.exclude_list}: {len(listed):,} files for the trainer's --exclude-list"])
        for probed in findings.bad:
            if not fits_a_line(probed.path):
                print(
                    f"{_PROG}: warning: {show(probed.path)} cannot be listed, its name is no line of text; remove it",
                    file=sys.stderr,
                )
    return 1 if findings.bad else 0


def _tell_interrupt(findings: Findings | None) -> None:
    if findings and findings.bad:
        _print(format_bad(findings.bad, findings.done))
    done = f" after {findings.done:,} of {len(findings.files):,} files" if findings else ""
    print(f"{_PROG}: interrupted{done}; no file was written", file=sys.stderr)


def _print(lines: Sequence[str]) -> None:
    """Print, whatever the names in the lines and the encoding of the terminal."""
    encoding = sys.stdout.encoding or "utf-8"
    for line in lines:
        print(show(line).encode(encoding, "backslashreplace").decode(encoding))


if __name__ == "__main__":
    sys.exit(main())
