"""What is written, said, repeated and kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dali_mix.options import Needs, integer, non_negative_int, option, positive_int, probability

_free = partial(option, changes_weights=False)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the run is to do, and where it is written."""

    seed: int = option(42, integer(0, 2**32 - 1), "Seed of weights, data and mixing.", metavar="N")
    eval_only: bool = _free(False, help="Evaluate --initial-checkpoint on the validation images, and stop.",
        negatable=False)  # fmt: skip
    bench_steps: int | None = _free(None, positive_int,
        "After some updates that warm up, time N, report img/s and stop.", metavar="N")  # fmt: skip
    output: Path = _free(Path("output"), Path, "Where runs are written.", metavar="DIR")
    experiment: str = _free("", None, "Folder of this run below --output, by default time and model.", path=True,
        metavar="NAME")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Log:
    """What is shown, measured and logged."""

    log_interval: int = _free(50, positive_int, "Batches between the losses that are shown.", metavar="N")
    val_interval: int = _free(1, positive_int, "Epochs between evaluations.", metavar="N")
    eval_metric: str = _free("top1", None,
        "Metric that the best epoch is best in; with --model-ema that of the average.",
        choices=("top1", "top5", "loss"))  # fmt: skip
    log_wandb: bool = _free(False, help="Log to Weights & Biases too.")
    wandb_project: str | None = _free(None, None, "Project in Weights & Biases, by default the experiment's name.",
        needs="log_wandb", metavar="NAME")  # fmt: skip
    wandb_tags: tuple[str, ...] = _free((), None, "Tags of the run in Weights & Biases.", needs="log_wandb", nargs="+",
        metavar="TAG")  # fmt: skip
    wandb_resume_id: str = _free("", None, "Run in Weights & Biases to continue.", needs="log_wandb", metavar="ID")


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What is kept for a run that is cut off, and what does not stop it."""

    checkpoint_steps: int | None = _free(None, positive_int, "Updates between checkpoints within an epoch.",
        metavar="N")  # fmt: skip
    checkpoint_hist: int = _free(10, positive_int, "Checkpoints to keep.", metavar="N")
    auto_resume: bool = _free(False, help="Continue the newest run of this name, or of these settings.")
    resume: str = _free("", None, "Continue this run or checkpoint, in a new folder.", path=True, metavar="DIR")
    resume_relaxed: bool = _free(False, help="Continue with other settings, from the beginning of an epoch.",
        needs=Needs(("resume", "auto_resume")))  # fmt: skip
    nonfinite_limit: int = _free(10, non_negative_int,
        "Updates in a row that may be skipped because something is not finite; 0 does not look.",
        metavar="N")  # fmt: skip
    on_bad_image: str = _free("replace", None,
        "What becomes of a file that cannot be decoded: it is replaced, or ends the run.",
        choices=("replace", "error"))  # fmt: skip
    max_bad_fraction: float = _free(0.001, probability,
        "Share of the images that may be replaced, beyond the first, before the run stops.", metavar="F")  # fmt: skip
