"""Where a run begins: anew, or at a checkpoint of a run before."""

from __future__ import annotations

import argparse
import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dali_mix.errors import ConfigError
from dali_mix.train.checkpoint.fingerprint import differences, versions
from dali_mix.train.checkpoint.state import check, read_shared
from dali_mix.train.checkpoint.store import CheckpointError, CheckpointStore, Position
from dali_mix.train.distributed import World

_log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints within that of a run."""


_BEGINNING = Position(0, 0)


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Fields:
        folder: of the run that goes on, None for a new one.
        checkpoint: to load, None to begin with new weights.
        exact: False takes the weights and the optimizer from the checkpoint, and begins its epoch anew.
        position: first thing to do.
        rows: of the summary, of the epochs before.
    """

    folder: Path | None = None
    checkpoint: Path | None = None
    exact: bool = True
    position: Position = _BEGINNING
    rows: list[dict[str, float]] = field(default_factory=list)


def find_start(args: argparse.Namespace, own: dict[str, Any], world: World) -> Start:
    """Where this command line begins; every rank gets the same answer.

    Args:
        own: the fingerprint of this run.

    Raises:
        ConfigError: if it should continue a run that does not fit, or has no checkpoint that can be used.
    """
    answer: Start | ConfigError = Start()
    if world.is_main:
        try:
            answer = _decide(args, own)
        except ConfigError as error:
            answer = error
    answer = world.broadcast(answer)
    if isinstance(answer, ConfigError):
        raise answer
    if answer.checkpoint is not None and not answer.checkpoint.is_dir():
        raise ConfigError(
            f"rank {world.rank} does not see {answer.checkpoint}; --output must be a folder that all share"
        )
    return answer


def launcher() -> str:
    """Which torchrun started this process; the same after it restarted its processes, "" without one."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name is None:
        return ""
    return f"{os.getppid()}" if name == "none" else name


def _decide(args: argparse.Namespace, own: dict[str, Any]) -> Start:
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    start = None
    if args.auto_resume or restarted:
        start = _continue_run(args, own, of_launcher=not args.auto_resume)
    if start is None and args.resume:
        start = _from_path(args, own)
    return start or Start()


def _continue_run(args: argparse.Namespace, own: dict[str, Any], *, of_launcher: bool) -> Start | None:
    """The newest run of this name, or with these settings; None if there is none."""
    misfit = None
    for folder in _runs(args):
        store = CheckpointStore(folder / CHECKPOINTS)
        if not store.all():
            if args.experiment and not list(store.folder.glob("damaged-*")):
                return Start(folder)  # it was stopped before its first step
            continue
        path, state = _newest_good(store)
        if of_launcher and state["launcher"] != launcher():
            continue
        unlike = differences(state["fingerprint"], own)
        if not unlike:
            store.set_aside(path)
            return _exactly(folder, path, state)
        if args.experiment:
            return _otherwise(args, path, state, unlike)
        misfit = misfit or f"{folder}: {'; '.join(unlike)}"
    if args.auto_resume:
        _log.info("--auto-resume: nothing to continue%s", f" (the newest run differs, {misfit})" if misfit else "")
    return None


def _runs(args: argparse.Namespace) -> list[Path]:
    """Folders of earlier runs of this name, or without a name of this model; the newest first."""
    stem = re.escape(args.experiment) if args.experiment else rf"\d{{8}}-\d{{6}}-{re.escape(run_label(args))}"
    pattern = re.compile(rf"({stem})(?:-(\d+))?")
    try:
        names = os.listdir(args.output)
    except OSError:
        return []
    found = [match for name in names if (match := pattern.fullmatch(name))]
    found.sort(key=lambda match: (match[1], int(match[2] or 0)), reverse=True)
    return [args.output / match[0] for match in found]


def run_label(args: argparse.Namespace) -> str:
    """The model's name as part of a folder's."""
    return str(args.model).replace("/", "_")


def _from_path(args: argparse.Namespace, own: dict[str, Any]) -> Start:
    """``--resume``: a checkpoint, or the newest one of a run; what follows goes to a new folder."""
    path = Path(args.resume)
    if not path.is_dir():
        hint = "; for weights alone use --initial-checkpoint" if path.exists() else ""
        raise ConfigError(f"--resume {path} is not a folder; give a run's, or one of its checkpoints{hint}")
    stores = [CheckpointStore(folder) for folder in (path / CHECKPOINTS, path) if CheckpointStore(folder).all()]
    if stores:
        path, state = _newest_good(stores[0])
    else:
        try:
            check(path)
            state = read_shared(path)
        except CheckpointError as error:
            raise ConfigError(f"--resume: {error}") from error
    unlike = differences(state["fingerprint"], own)
    return _otherwise(args, path, state, unlike) if unlike else _exactly(None, path, state)


def _newest_good(store: CheckpointStore) -> tuple[Path, dict[str, Any]]:
    path = store.newest_good(check, _log.warning)
    if path is None:
        raise ConfigError(f"no checkpoint in {store.folder} can be used; move the folder away to begin anew")
    return path, read_shared(path)


def _exactly(folder: Path | None, path: Path, state: dict[str, Any]) -> Start:
    position = Position(*state["position"])
    other = [f"{name} {state['versions'].get(name)} -> {own}" for name, own in versions().items()]
    changed = [
        text for text, own in zip(other, versions().items(), strict=True) if state["versions"].get(own[0]) != own[1]
    ]
    if changed:
        _log.warning("other versions than before, so results may differ in the last bits: %s", ", ".join(changed))
    _log.info("continuing %s exactly, at %s", path, position)
    return Start(folder, path, True, position, state["rows"])


def _otherwise(args: argparse.Namespace, path: Path, state: dict[str, Any], unlike: list[str]) -> Start:
    """From the beginning of an epoch, as the settings differ; in a new folder, as it is another run."""
    if not args.resume_relaxed:
        raise ConfigError(
            f"{path} was made with other settings: {'; '.join(unlike)}; use the same, or --resume-relaxed to go on "
            f"from the beginning of its epoch"
        )
    epoch, batch = state["position"]
    if batch and batch == state["batches"]:
        epoch, batch = epoch + 1, 0
    repeated = f"its {batch} batches that are trained already are repeated" if batch else "nothing is repeated"
    _log.warning("continuing %s with other settings (%s): epoch %d begins anew, %s", path, "; ".join(unlike), epoch + 1,
                 repeated)  # fmt: skip
    return Start(None, path, False, Position(epoch, 0), state["rows"][:epoch])
