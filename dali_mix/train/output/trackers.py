"""The summary's rows in TensorBoard and, on request, Weights & Biases."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dali_mix.errors import ConfigError, first_line
from dali_mix.files import new_temporary
from dali_mix.text import is_utf8, show

_log = logging.getLogger(__name__)

_PROBE_BYTES = 1 << 16  # more than the events of an epoch

# The longest first: "eval_ema_top1" is no "ema_top1" of "eval".
_GROUPS = ("eval_ema", "eval", "train")


@dataclass(frozen=True)
class WandbOptions:
    """Where Weights & Biases puts the run.

    Fields:
        project: its project; None lets wandb choose.
        tags: to find the run by.
        resume_id: of the run to go on with; None begins a new one.
        name: shown for the run; None lets wandb make one up.
    """

    project: str | None = None
    tags: Sequence[str] = ()
    resume_id: str | None = None
    name: str | None = None


class Trackers:
    """Sends rows to TensorBoard, under ``folder/tensorboard``, and to Weights & Biases if asked for.

    Args:
        folder: of the run.
        settings: of the run, kept beside the curves; plain types.
        wandb: None leaves Weights & Biases out.
        first_step: of this process; what an earlier one has sent from there on is taken back by TensorBoard.

    Raises:
        ConfigError: if Weights & Biases is asked for, but is not installed or does not start.
    """

    def __init__(
        self, folder: Path, settings: dict[str, Any], *, wandb: WandbOptions | None, first_step: int = 0
    ) -> None:
        # wandb first: should it fail, no writer's thread is left behind.
        self._run = None if wandb is None else _start_wandb(folder, settings, wandb)
        self._folder = folder / "tensorboard"
        self._writer = _open_tensorboard(self._folder, settings, first_step)

    def add(self, row: dict[str, float], step: int) -> None:
        """Send every column that has a value.

        Args:
            row: of the summary.
            step: where on the horizontal axis.

        Raises:
            OSError: if TensorBoard's events cannot be written; those of later steps may be.
        """
        scalars = {tag(column): float(value) for column, value in row.items() if value is not None}
        if self._writer is not None:
            _try_to_write(self._folder)
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)
            # A row comes once per epoch: whoever looks on should not wait for the writer's own interval.
            self._writer.flush()
        if self._run is not None:
            try:
                self._run.log(scalars, step=step)
            except Exception as error:  # whatever its service does, the training is worth more
                _log.warning("Weights & Biases gets no more rows: %s", first_line(error))
                self._run = None

    def close(self) -> None:
        """Finish writing and sending; a second call does nothing."""
        writer, run = self._writer, self._run
        self._writer = self._run = None
        if writer is not None:
            writer.close()
        if run is not None:
            run.finish()


def tag(column: str) -> str:
    """Name a column's curve: "eval_ema_top1" is "eval_ema/top1", and a column of no group keeps its name."""
    for group in _GROUPS:
        if column.startswith(f"{group}_"):
            return f"{group}/{column[len(group) + 1 :]}"
    return column


def _open_tensorboard(folder: Path, settings: dict[str, Any], first_step: int) -> Any:
    """A writer, or None with a warning: the run is worth more than its curves."""
    try:
        # Here, because it takes seconds, and only one rank of a training run needs it.
        from torch.utils.tensorboard import SummaryWriter
    except Exception as error:  # a protobuf that does not fit raises TypeError, not ImportError
        _log.warning("no TensorBoard events: %s", first_line(error))
        return None
    if not is_utf8(str(folder)):
        _log.warning("no TensorBoard events: the name of %s is not UTF-8, and TensorBoard takes no other", folder)
        return None
    writer = SummaryWriter(str(folder), purge_step=first_step or None)
    # Indented by four, Markdown shows it as it is.
    writer.add_text("settings", "\n".join(f"    {name}: {value}" for name, value in _visible(settings).items()))
    return writer


def _try_to_write(folder: Path) -> None:
    """Fail here if nothing can be written: in TensorBoard's thread it would be a traceback, and that thread's end."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = new_temporary(folder / "probe")
    try:
        probe.write_bytes(bytes(_PROBE_BYTES))
    finally:
        probe.unlink(missing_ok=True)


def _start_wandb(folder: Path, settings: dict[str, Any], options: WandbOptions) -> Any:
    try:
        # By name: a folder "wandb" of earlier runs in the working directory imports as an empty package.
        from wandb import init
    except ImportError as error:
        raise ConfigError("--log-wandb needs the package wandb: pip install wandb") from error
    try:
        return init(
            project=options.project,
            name=show(options.name) if options.name else None,
            tags=list(options.tags),
            id=options.resume_id,
            # "must": a mistyped id is an error rather than a new run.
            resume="must" if options.resume_id else None,
            config=_visible(settings),
            dir=str(folder.absolute()),
        )
    except Exception as error:  # no login, no such run, no network: all a matter of the user's settings
        raise ConfigError(f"--log-wandb: {first_line(error)}") from error


def _visible(value: Any) -> Any:
    """Settings whose texts any tracker can hold: names of files may be no text."""
    if isinstance(value, dict):
        return {key: _visible(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_visible(item) for item in value]
    return show(value) if isinstance(value, str) else value
