"""The point that a run begins at: its first step, or a checkpoint of a run before."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dali_mix.errors import ConfigError
from dali_mix.train.checkpoint.identity import differences
from dali_mix.train.checkpoint.state import check, read_run
from dali_mix.train.checkpoint.store import CheckpointError, CheckpointStore, Position
from dali_mix.train.distributed import World
from dali_mix.train.run_folder import CHECKPOINTS, Place, lock_run, unlock_run
from dali_mix.train.settings.sections import Recovery

_log = logging.getLogger(__name__)

_BEGINNING = Position(0, 0)


@dataclass(frozen=True)
class ResumePoint:
    """The point that a run begins at; by default the first step of a new one.

    Fields:
        folder: that of the run that goes on, None for a new one.
        checkpoint: the one to load, None to begin with new weights.
        exact: False takes the weights and the optimizer from the checkpoint, and begins its epoch anew.
        position: the first batch to train.
        rows: those of the summary, of the epochs before.
        skipped: how many updates of the epochs before were not made.
    """

    folder: Path | None = None
    checkpoint: Path | None = None
    exact: bool = True
    position: Position = _BEGINNING
    rows: list[dict[str, float]] = field(default_factory=list)
    skipped: int = 0


def find_resume_point(place: Place, recovery: Recovery, identity: dict[str, Any], world: World) -> ResumePoint:
    """Find where this command line begins; every rank gets the same answer.

    Args:
        place: where the command line's runs are.
        recovery: whether, and how, a run is to be continued.
        identity: what this run is, as :func:`dali_mix.train.checkpoint.identity.identify` tells it.

    Raises:
        ConfigError: if it should continue a run that does not fit, or has no checkpoint that can be used.
    """
    # An error travels as an answer: raised on the main rank alone, the others would wait for it forever.
    answer: ResumePoint | ConfigError = ResumePoint()
    if world.is_main:
        try:
            answer = _decide(place, recovery, identity)
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


def _decide(place: Place, recovery: Recovery, identity: dict[str, Any]) -> ResumePoint:
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    start = None
    if recovery.auto_resume:
        # Before anything is looked for: two jobs started at once would both find no run, and begin one each.
        place.begin_start(identity["fingerprint"])
    if recovery.auto_resume or restarted:
        start = _continue_run(place, recovery, identity, of_launcher=not recovery.auto_resume)
    if start is None and recovery.resume:
        start = _from_path(recovery, identity)
    return start or ResumePoint()


def _continue_run(
    place: Place, recovery: Recovery, identity: dict[str, Any], *, of_launcher: bool
) -> ResumePoint | None:
    """The newest run of this name, or with these settings; None if there is none."""
    mismatch = never_begun = None
    for folder in place.find_folders():
        store = CheckpointStore(folder / CHECKPOINTS)
        newest = next(iter(store.all().values()), None)
        if newest is None:
            never_begun = never_begun or folder  # it was stopped before its first step
            continue
        if not place.experiment and (differing := _differences(newest, identity)):
            mismatch = mismatch or f"{folder}: {'; '.join(differing)}"
            continue
        # Locked before it is read in full: its owner may be writing, and would remove what is chosen here.
        lock_run(folder)
        path, record = _newest_good(store)
        if of_launcher and record["launcher"] != identity["launcher"]:
            unlock_run(folder)  # not this launcher's run, though its settings may be the same
            continue
        differing = differences(record["fingerprint"], identity["fingerprint"])
        if not differing:
            # What is newer is damaged, and this run will want its numbers again.
            store.set_aside(path)
            return _exactly(folder, path, record, identity)
        unlock_run(folder)  # only read: what follows goes to a folder of its own
        return _otherwise(recovery, path, record, differing)
    if recovery.auto_resume:
        _log.info("--auto-resume: nothing to continue%s", f" (the newest run differs, {mismatch})" if mismatch else "")
    if never_begun is None or recovery.resume or not place.experiment:
        return None
    lock_run(never_begun)
    if CheckpointStore(never_begun / CHECKPOINTS).all():
        # Another process held it, and has trained since it was looked at.
        return _continue_run(place, recovery, identity, of_launcher=of_launcher)
    return ResumePoint(never_begun)


def _differences(path: Path, identity: dict[str, Any]) -> list[str]:
    """A first look, which reads little; nothing if the checkpoint is damaged, as that is for later."""
    try:
        return differences(read_run(path)["fingerprint"], identity["fingerprint"])
    except CheckpointError:
        return []


def _from_path(recovery: Recovery, identity: dict[str, Any]) -> ResumePoint:
    """``--resume``: a checkpoint, or the newest one of a run; what follows goes to a new folder."""
    path = Path(recovery.resume)
    if not path.is_dir():
        hint = "; for weights alone use --initial-checkpoint" if path.exists() else ""
        raise ConfigError(f"--resume {path} is not a folder; give a run's, or one of its checkpoints{hint}")
    stores = [CheckpointStore(folder) for folder in (path / CHECKPOINTS, path) if CheckpointStore(folder).all()]
    if stores:
        path, record = _newest_good(stores[0])
    else:
        check(path)
        record = read_run(path)
    differing = differences(record["fingerprint"], identity["fingerprint"])
    return _otherwise(recovery, path, record, differing) if differing else _exactly(None, path, record, identity)


def _newest_good(store: CheckpointStore) -> tuple[Path, dict[str, Any]]:
    path = store.newest_good(check, _log.warning)
    if path is None:
        raise ConfigError(f"no checkpoint in {store.folder} can be used; move the folder away to begin anew")
    return path, read_run(path)


def _exactly(folder: Path | None, path: Path, record: dict[str, Any], identity: dict[str, Any]) -> ResumePoint:
    position = Position(*record["position"])
    before = record["computed_by"]
    changed = [
        f"{name} {before.get(name)} -> {now}"
        for name, now in identity["computed_by"].items()
        if before.get(name, now) != now  # what that run did not tell may be as it was
    ]
    if changed:
        _log.warning("not computed as before, so results may differ in the last bits: %s", ", ".join(changed))
    _log.info("continuing %s exactly, at %s", path, position)
    return ResumePoint(folder, path, True, position, record["rows"], _skipped(record))


def _otherwise(recovery: Recovery, path: Path, record: dict[str, Any], differing: list[str]) -> ResumePoint:
    """Begin at the beginning of an epoch, as the settings differ; in a new folder, as it is another run."""
    if not recovery.resume_relaxed:
        raise ConfigError(
            f"{path} was made with other settings: {'; '.join(differing)}; use the same, or --resume-relaxed to go on "
            f"from the beginning of its epoch"
        )
    epoch, batch = record["position"]
    if batch and batch == record["batches"]:
        epoch, batch = epoch + 1, 0
    repeated = f"its {batch} batches that are trained already are repeated" if batch else "nothing is repeated"
    others = "; ".join(differing)
    _log.warning("continuing %s with other settings (%s): epoch %d begins anew, %s", path, others, epoch + 1, repeated)
    return ResumePoint(None, path, False, Position(epoch, 0), record["rows"][:epoch], _skipped(record))


def _skipped(record: dict[str, Any]) -> int:
    """The updates that were not made, as far as the run counted them."""
    count = record.get("skipped", 0)
    return count if isinstance(count, int) and count >= 0 else 0
