"""The folders of runs: named, made, found again, and held by one process at a time."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dali_mix.errors import ConfigError
from dali_mix.files import replace_text
from dali_mix.train.locks import BusyError, Lock
from dali_mix.train.settings.files import read_config
from dali_mix.train.settings.sections import Settings

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints within that of a run."""

_LOCK = ".lock"
_STARTED = ".started"
"""Holds the number of a run's newest start."""
_WAIT_S = 15.0
"""How long to wait for a process that is about to end, such as a rank whose launcher was killed."""

_locked: dict[Path, Lock] = {}
_starting: list[Lock] = []


@dataclass(frozen=True)
class Place:
    """The place where the runs of a command line are written.

    Fields:
        output: folder of the runs' folders.
        experiment: name of the run; "" for time and model.
        model: name of the model.
    """

    output: Path
    experiment: str
    model: str

    @classmethod
    def of(cls, settings: Settings) -> Place:
        """Make the place of a run from its settings."""
        return cls(settings.run.output, settings.run.experiment, settings.model.model)

    @property
    def parent(self) -> Path:
        """The folder that the folders of such runs lie in."""
        return (self.output / self.experiment).parent if self.experiment else Path(self.output)

    @property
    def _label(self) -> str:
        """The model's name as part of a folder's."""
        return self.model.replace("/", "_")

    def make_folder(self) -> Path:
        """Make a folder for a run, locked by this process: ``output/EXPERIMENT``, or with a number behind it.

        Raises:
            ConfigError: if it cannot be made.
        """
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        name = self.experiment or f"{stamp}-{self._label}"
        folder, count = self.output / name, 0
        while True:
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                count += 1
                folder = self.output / f"{name}-{count}"
            except OSError as error:
                raise self._unwritable(error) from error
            else:
                try:
                    lock_run(folder)
                except ConfigError:
                    with suppress(OSError):
                        folder.rmdir()
                    raise
                return folder

    def find_folders(self) -> list[Path]:
        """Find earlier runs of this name, or without a name those of this model; the newest, or last started, first."""
        name = Path(self.experiment).name
        stem = re.escape(name) if name else rf"\d{{8}}-\d{{6}}-{re.escape(self._label)}"
        pattern = re.compile(rf"({stem})(?:-(\d+))?")
        try:
            names = os.listdir(self.parent)
        except OSError:
            return []
        found = [match for name in names if (match := pattern.fullmatch(name))]
        found.sort(key=lambda match: (match[1], int(match[2] or 0)), reverse=True)
        folders = {self.parent / match[0]: match[2] is not None for match in found}
        runs = [folder for folder, numbered in folders.items() if _is_of(folder, self.experiment, numbered)]
        return runs if self.experiment else sorted(runs, key=_start_number, reverse=True)

    def begin_start(self, fingerprint: dict[str, Any]) -> None:
        """Keep other processes from looking for the same run to continue, until :func:`end_start`.

        Of two that look at the same time both would find none, and begin one each.

        Args:
            fingerprint: which run it is, where it has no name.

        Raises:
            ConfigError: if another process does, and goes on doing so, or the folder cannot be written.
        """
        if _starting:
            return
        key = self.experiment or json.dumps(fingerprint, sort_keys=True, default=str)
        path = self.parent / f".starting-{hashlib.sha256(os.fsencode(key)).hexdigest()[:16]}"
        try:
            self.parent.mkdir(parents=True, exist_ok=True)
            _starting.append(Lock(path, wait_s=_WAIT_S))
        except BusyError as holder:
            raise ConfigError(
                f"--auto-resume: {holder} is starting the same run in {self.parent}; wait for it or end it"
            ) from None
        except OSError as error:
            raise self._unwritable(error) from error

    def note_start(self, folder: Path) -> None:
        """Number a start: which run was trained last is then no question of a clock, which may be set.

        Raises:
            OSError: if it cannot be written.
        """
        others = max(map(_start_number, self.find_folders()), default=0)
        replace_text(folder / _STARTED, f"{others + 1}\n")

    def _unwritable(self, error: OSError) -> ConfigError:
        return ConfigError(f"--output {self.output} cannot be written: {error.strerror}")


def _is_of(folder: Path, experiment: str, numbered: bool) -> bool:
    """Whether a folder is of a run of this name: "vit-2" may be the third called "vit", or the first "vit-2"."""
    name = _name_of(folder)
    # One that bears just the name may have been renamed by hand.
    return name == experiment or (name is not None and bool(experiment) and not numbered)


def _name_of(folder: Path) -> str | None:
    """``--experiment`` of the run that made a folder, None if it was no run."""
    try:
        return str(read_config(folder / "args.yaml").get("experiment") or "")
    except ConfigError:
        return None


def lock_run(folder: Path) -> None:
    """Keep other processes from writing to a run's folder until :func:`unlock_all` or :func:`unlock_run`.

    Raises:
        ConfigError: if one does, and goes on doing so.
    """
    if folder in _locked:
        return
    try:
        _locked[folder] = Lock(folder / _LOCK, folder=folder, wait_s=_WAIT_S)
    except BusyError as holder:
        raise ConfigError(f"{folder} is in use by {holder}; wait for it or end it") from None
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}") from error


def unlock_run(folder: Path) -> None:
    """Let other processes write to one folder that this one held."""
    lock = _locked.pop(folder, None)
    if lock is not None:
        lock.release()


def unlock_all() -> None:
    """Let other processes write to what this one held, and start what it was starting."""
    end_start()
    for folder in list(_locked):
        unlock_run(folder)


def end_start() -> None:
    """Let other processes look for the run: it has its first checkpoint."""
    while _starting:
        _starting.pop().release(remove=True)


def _start_number(folder: Path) -> int:
    """The number of a run's newest start, 0 for a run that numbered none."""
    try:
        with (folder / _STARTED).open("rb") as file:
            return int(file.read(20))
    except (OSError, ValueError):
        return 0
