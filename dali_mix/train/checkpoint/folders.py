"""The folders of runs: made, found again, and held by one process at a time."""

from __future__ import annotations

import argparse
import datetime
import fcntl
import os
import re
import socket
import time
from pathlib import Path
from typing import IO

from dali_mix.errors import ConfigError
from dali_mix.train.config.files import read_config

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints within that of a run."""

_LOCK = ".lock"
_WAIT_S = 15.0
"""For a process that is about to end, such as a rank whose launcher was killed."""

_held: dict[Path, IO[str]] = {}


def make_folder(args: argparse.Namespace) -> Path:
    """A new folder for a run, held by this process: ``output/EXPERIMENT``, or with a number behind it.

    Raises:
        ConfigError: if it cannot be made.
    """
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = args.experiment or f"{stamp}-{_label(args)}"
    folder, count = args.output / name, 0
    while True:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            count += 1
            folder = args.output / f"{name}-{count}"
        except OSError as error:
            raise ConfigError(f"--output {args.output} cannot be written: {error.strerror}") from error
        else:
            hold(folder)
            return folder


def find_folders(args: argparse.Namespace) -> list[Path]:
    """Earlier runs of this name, or without a name those of this model; the newest first."""
    parent = (args.output / args.experiment).parent if args.experiment else args.output
    stem = re.escape(Path(args.experiment).name) if args.experiment else rf"\d{{8}}-\d{{6}}-{re.escape(_label(args))}"
    pattern = re.compile(rf"({stem})(?:-(\d+))?")
    try:
        names = os.listdir(parent)
    except OSError:
        return []
    found = [match for name in names if (match := pattern.fullmatch(name))]
    found.sort(key=lambda match: (match[1], int(match[2] or 0)), reverse=True)
    folders = {parent / match[0]: match[2] is not None for match in found}
    return [folder for folder, numbered in folders.items() if _is_of(folder, args.experiment, numbered)]


def _is_of(folder: Path, experiment: str, numbered: bool) -> bool:
    """Whether a folder is of a run of this name: "vit-2" may be the third called "vit", or the first "vit-2"."""
    name = _name_of(folder)
    # One that bears just the name may have been renamed by hand.
    return name == experiment or (name is not None and bool(experiment) and not numbered)


def _label(args: argparse.Namespace) -> str:
    """The model's name as part of a folder's."""
    return str(args.model).replace("/", "_")


def _name_of(folder: Path) -> str | None:
    """``--experiment`` of the run that made a folder, None if it was no run."""
    try:
        return str(read_config(folder / "args.yaml").get("experiment") or "")
    except ConfigError:
        return None


def hold(folder: Path) -> None:
    """Keep other processes from writing to a run's folder until :func:`release`.

    Raises:
        ConfigError: if one does, and goes on doing so.
    """
    if folder in _held:
        return
    try:
        file = (folder / _LOCK).open("a+")
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}") from error
    end = time.monotonic() + _WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > end:
                file.seek(0)
                holder = file.read().strip() or "another process"
                file.close()
                raise ConfigError(f"{folder} is in use by {holder}; wait for it or end it") from None
            time.sleep(0.2)
        except OSError:
            break  # a file system without locks
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    _held[folder] = file


def release() -> None:
    """Let other processes write to what this one held."""
    while _held:
        _held.popitem()[1].close()
