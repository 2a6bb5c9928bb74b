"""Where a run begins: anew, or at a checkpoint of a run before."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dali_mix.errors import ConfigError
from dali_mix.train.checkpoint.identity import differences
from dali_mix.train.checkpoint.state import check, read_facts
from dali_mix.train.checkpoint.store import CheckpointError, CheckpointStore, Position
from dali_mix.train.distributed import World
from dali_mix.train.run_folder import CHECKPOINTS, Place, hold, let_go
from dali_mix.train.settings.sections import Recovery

_log = logging.getLogger(__name__)

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
        skipped: updates of the epochs before that were not made.
    """

    folder: Path | None = None
    checkpoint: Path | None = None
    exact: bool = True
    position: Position = _BEGINNING
    rows: list[dict[str, float]] = field(default_factory=list)
    skipped: int = 0


def find_start(place: Place, recovery: Recovery, own: dict[str, Any], world: World) -> Start:
    """Where this command line begins; every rank gets the same answer.

    Args:
        place: of the command line's runs.
        recovery: whether, and how, a run is to be continued.
        own: the identity of this run.

    Raises:
        ConfigError: if it should continue a run that does not fit, or has no checkpoint that can be used.
    """
    answer: Start | ConfigError = Start()
    if world.is_main:
        try:
            answer = _decide(place, recovery, own)
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


def _decide(place: Place, recovery: Recovery, own: dict[str, Any]) -> Start:
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    start = None
    if recovery.auto_resume:
        place.begin_start(own["fingerprint"])
    if recovery.auto_resume or restarted:
        start = _continue_run(place, recovery, own, of_launcher=not recovery.auto_resume)
    if start is None and recovery.resume:
        start = _from_path(recovery, own)
    return start or Start()


def _continue_run(place: Place, recovery: Recovery, own: dict[str, Any], *, of_launcher: bool) -> Start | None:
    """The newest run of this name, or with these settings; None if there is none."""
    misfit = unused = None
    for folder in place.find_folders():
        store = CheckpointStore(folder / CHECKPOINTS)
        newest = next(iter(store.all().values()), None)
        if newest is None:
            unused = unused or folder  # it was stopped before its first step
            continue
        if not place.experiment and (unlike := _differences(newest, own)):
            misfit = misfit or f"{folder}: {'; '.join(unlike)}"
            continue
        hold(folder)
        path, facts = _newest_good(store)
        if of_launcher and facts["launcher"] != own["launcher"]:
            let_go(folder)
            continue
        unlike = differences(facts["fingerprint"], own["fingerprint"])
        if not unlike:
            store.set_aside(path)
            return _exactly(folder, path, facts, own)
        let_go(folder)
        return _otherwise(recovery, path, facts, unlike)
    if recovery.auto_resume:
        _log.info("--auto-resume: nothing to continue%s", f" (the newest run differs, {misfit})" if misfit else "")
    if unused is None or recovery.resume or not place.experiment:
        return None
    hold(unused)
    if CheckpointStore(unused / CHECKPOINTS).all():
        # Another process held it, and has trained since it was looked at.
        return _continue_run(place, recovery, own, of_launcher=of_launcher)
    return Start(unused)


def _differences(path: Path, own: dict[str, Any]) -> list[str]:
    """A first look, which reads little; nothing if the checkpoint is damaged, as that is for later."""
    try:
        return differences(read_facts(path)["fingerprint"], own["fingerprint"])
    except CheckpointError:
        return []


def _from_path(recovery: Recovery, own: dict[str, Any]) -> Start:
    """``--resume``: a checkpoint, or the newest one of a run; what follows goes to a new folder."""
    path = Path(recovery.resume)
    if not path.is_dir():
        hint = "; for weights alone use --initial-checkpoint" if path.exists() else ""
        raise ConfigError(f"--resume {path} is not a folder; give a run's, or one of its checkpoints{hint}")
    stores = [CheckpointStore(folder) for folder in (path / CHECKPOINTS, path) if CheckpointStore(folder).all()]
    if stores:
        path, facts = _newest_good(stores[0])
    else:
        check(path)
        facts = read_facts(path)
    unlike = differences(facts["fingerprint"], own["fingerprint"])
    return _otherwise(recovery, path, facts, unlike) if unlike else _exactly(None, path, facts, own)


def _newest_good(store: CheckpointStore) -> tuple[Path, dict[str, Any]]:
    path = store.newest_good(check, _log.warning)
    if path is None:
        raise ConfigError(f"no checkpoint in {store.folder} can be used; move the folder away to begin anew")
    return path, read_facts(path)


def _exactly(folder: Path | None, path: Path, facts: dict[str, Any], own: dict[str, Any]) -> Start:
    position = Position(*facts["position"])
    before = facts["computed_by"]
    changed = [
        f"{name} {before.get(name)} -> {now}"
        for name, now in own["computed_by"].items()
        if before.get(name, now) != now  # what that run did not tell may be as it was
    ]
    if changed:
        _log.warning("not computed as before, so results may differ in the last bits: %s", ", ".join(changed))
    _log.info("continuing %s exactly, at %s", path, position)
    return Start(folder, path, True, position, facts["rows"], _skipped(facts))


def _otherwise(recovery: Recovery, path: Path, facts: dict[str, Any], unlike: list[str]) -> Start:
    """From the beginning of an epoch, as the settings differ; in a new folder, as it is another run."""
    if not recovery.resume_relaxed:
        raise ConfigError(
            f"{path} was made with other settings: {'; '.join(unlike)}; use the same, or --resume-relaxed to go on "
            f"from the beginning of its epoch"
        )
    epoch, batch = facts["position"]
    if batch and batch == facts["batches"]:
        epoch, batch = epoch + 1, 0
    repeated = f"its {batch} batches that are trained already are repeated" if batch else "nothing is repeated"
    _log.warning("continuing %s with other settings (%s): epoch %d begins anew, %s", path, "; ".join(unlike), epoch + 1,
                 repeated)  # fmt: skip
    return Start(None, path, False, Position(epoch, 0), facts["rows"][:epoch], _skipped(facts))


def _skipped(facts: dict[str, Any]) -> int:
    """Of runs that counted them."""
    count = facts.get("skipped", 0)
    return count if isinstance(count, int) and count >= 0 else 0
