"""Flags of how it is trained: optimizer, schedule, augmentation, mixing, the run."""

from __future__ import annotations

import argparse
from pathlib import Path

from timm.utils import ParseKwargs

from dali_mix.train.config.types import (
    finite,
    fraction,
    non_negative,
    non_negative_int,
    positive,
    positive_int,
    probability,
)

SCHEDULERS = ("cosine", "tanh", "poly", "step", "multistep")
_SWITCH = argparse.BooleanOptionalAction


def add_optimizer(group: argparse._ArgumentGroup) -> None:
    """Optimizer, gradient clipping, accumulation, layer decay."""
    add = group.add_argument
    add("--opt", default="sgd", metavar="NAME", help="an optimizer of timm")
    add("--opt-eps", type=non_negative, metavar="EPS", help="default: the optimizer's")
    add("--opt-betas", type=probability, nargs="+", metavar="BETA", help="default: the optimizer's")
    add("--opt-kwargs", nargs="*", default={}, action=ParseKwargs, metavar="K=V", help="passed to the optimizer")
    add("--momentum", type=finite, default=0.9, metavar="M", help="for optimizers that have one")
    add("--weight-decay", type=non_negative, default=2e-5, metavar="W", help="not applied to biases and norms")
    add("--clip-grad", type=positive, metavar="NORM", help="default: no clipping")
    add("--clip-mode", default="norm", choices=("norm", "value", "agc"), help="how --clip-grad is meant")
    add("--grad-accum-steps", type=positive_int, default=1, metavar="N", help="batches per update")
    add("--layer-decay", type=positive, metavar="F", help="learning rate factor from layer to layer, top to bottom")
    add("--layer-decay-min-scale", type=non_negative, default=0.0, metavar="F", help="smallest factor")
    add("--layer-decay-no-opt-scale", type=non_negative, metavar="F", help="layers with a smaller one are frozen")


def add_schedule(group: argparse._ArgumentGroup) -> None:
    """The learning rate over the run."""
    add = group.add_argument
    add("--epochs", type=positive_int, default=300, metavar="N", help="without cool-down")
    add("--lr", type=non_negative, metavar="LR", help="default: from --lr-base and the global batch")
    add("--lr-base", type=non_negative, default=0.1, metavar="LR", help="lr = lr-base * scale(batch / lr-base-size)")
    add("--lr-base-size", type=positive_int, default=256, metavar="N", help="batch that --lr-base is meant for")
    add("--lr-base-scale", default="", choices=("", "linear", "sqrt"), help="default: sqrt for adaptive optimizers")
    add("--sched", default="cosine", choices=SCHEDULERS, help="a scheduler of timm")
    add("--sched-on-updates", action=_SWITCH, default=True, help="step it at every update, not every epoch")
    add("--lr-noise", type=finite, nargs="+", metavar="F", help="share of the run at which noise begins and ends")
    add("--lr-noise-pct", type=non_negative, default=0.67, metavar="F", help="limit of the noise")
    add("--lr-noise-std", type=non_negative, default=1.0, metavar="STD", help="of the noise")
    add("--lr-cycle-mul", type=positive, default=1.0, metavar="F", help="length of a cycle over the one before")
    add("--lr-cycle-decay", type=non_negative, default=0.5, metavar="F", help="height of a cycle over the one before")
    add("--lr-cycle-limit", type=positive_int, default=1, metavar="N", help="cycles")
    add("--lr-k-decay", type=positive, default=1.0, metavar="K", help="of cosine and poly")
    add("--warmup-lr", type=non_negative, default=1e-5, metavar="LR", help="at the first update")
    add("--min-lr", type=non_negative, default=0.0, metavar="LR", help="at the end")
    add("--warmup-epochs", type=non_negative_int, default=5, metavar="N", help="from --warmup-lr to --lr")
    add("--warmup-prefix", action=_SWITCH, default=False, help="the decay begins after the warm-up")
    add("--cooldown-epochs", type=non_negative_int, default=0, metavar="N", help="at --min-lr, after --epochs")
    add("--decay-epochs", type=positive, default=90, metavar="N", help="between steps of --sched step")
    add("--decay-milestones", type=positive_int, nargs="+", default=[90, 180, 270], metavar="N", help="of multistep")
    add("--decay-rate", "--dr", type=non_negative, default=0.1, metavar="F", help="factor of a step")


def add_augmentation(group: argparse._ArgumentGroup) -> None:
    """What happens to each image before mixing."""
    add = group.add_argument
    add("--no-aug", action="store_true", help="resize and centre crop the training images too")
    add("--train-crop-mode", choices=("rrc",), help="random resized crop")
    add("--scale", type=fraction, nargs="+", default=[0.08, 1.0], metavar="A", help="area of the random crop")
    add("--ratio", type=positive, nargs="+", default=[3 / 4, 4 / 3], metavar="R", help="its width over height")
    add("--train-interpolation", default="random", choices=("random", "bilinear", "bicubic"), help="of crop and warps")
    add("--hflip", type=probability, default=0.5, metavar="PROB", help="horizontal flip")
    add("--vflip", type=probability, default=0.0, metavar="PROB", help="vertical flip")
    add("--color-jitter", type=non_negative, default=0.4, metavar="F", help="off beside most policies of --aa")
    add("--color-jitter-prob", type=probability, metavar="PROB", help="default: always")
    add("--grayscale-prob", type=probability, metavar="PROB", help="default: never")
    add("--gaussian-blur-prob", type=probability, metavar="PROB", help="default: never")
    add("--aa", metavar="POLICY", help="such as rand-m9-mstd0.5-inc1 or 3a")
    add("--reprob", type=probability, default=0.0, metavar="PROB", help="random erasing, before mixing")
    add("--remode", default="pixel", choices=("const", "rand", "pixel"), help="what erased pixels become")
    add("--recount", type=positive_int, default=1, metavar="N", help="erased boxes per image")


def add_mixing(group: argparse._ArgumentGroup) -> None:
    """Mixup, CutMix, SMMix and the loss on soft targets."""
    add = group.add_argument
    add("--mixup", type=non_negative, default=0.0, metavar="ALPHA", help="Mixup where > 0")
    add("--cutmix", type=non_negative, default=0.0, metavar="ALPHA", help="CutMix where > 0")
    add("--cutmix-minmax", type=fraction, nargs="+", metavar="F", help="box sides as shares of the image's; no alpha")
    add("--mixup-prob", type=probability, default=1.0, metavar="PROB", help="of a batch to be mixed at all")
    add("--mixup-switch-prob", type=probability, default=0.5, metavar="PROB", help="of CutMix, where Mixup is on too")
    add("--mixup-mode", default="batch", choices=("batch", "pair", "elem"), help="who shares a draw")
    add("--mixup-off-epoch", type=non_negative_int, default=0, metavar="N", help="no mixing from this epoch on")
    add("--smmix", action=_SWITCH, default=False, help="mix by the attention of the model under training")
    add("--smmix-prob", type=probability, metavar="PROB", help="of SMMix; default 0.5 beside Mixup or CutMix, else 1")
    add("--smmix-min-side", type=fraction, default=0.25, metavar="F", help="window side as a share of the token grid's")
    add("--smmix-max-side", type=fraction, default=0.75, metavar="F", help="window side as a share of the token grid's")
    add("--smmix-loss-weights", type=non_negative, nargs=3, default=[1.0, 1.0, 1.0], metavar="W",
        help="of the classification, fine-grained and consistency loss")  # fmt: skip
    add("--smoothing", type=probability, default=0.1, metavar="S", help="label smoothing, inside the soft targets")
    add("--bce-loss", action=_SWITCH, default=False, help="binary cross entropy instead of cross entropy")
    add("--bce-sum", action=_SWITCH, default=False, help="summed over classes")
    add("--bce-target-thresh", type=probability, metavar="T", help="soft targets above it become 1, others 0")
    add("--bce-pos-weight", type=positive, metavar="W", help="weight of the positive classes")


def add_sizes(group: argparse._ArgumentGroup) -> None:
    """Image sizes that change during the run."""
    add = group.add_argument
    add("--train-img-sizes", type=positive_int, nargs="+", metavar="PX", help="sizes to choose from for each batch")
    add("--train-size-probs", type=non_negative, nargs="+", metavar="W", help="weights of the sizes; default: equal")
    add("--train-size-schedule", default="constant", choices=("constant", "progressive"), help="or first to last size")
    add("--train-size-schedule-spread", type=positive, default=0.65, metavar="F", help="of progressive, in sizes")
    add("--train-size-random-mix", type=probability, default=0.1, metavar="F", help="share of any size in progressive")


def add_run(group: argparse._ArgumentGroup) -> None:
    """What is written, said and repeated."""
    add = group.add_argument
    add("--seed", type=non_negative_int, default=42, metavar="N", help="for weights, data and mixing")
    add("--eval-only", action="store_true", help="evaluate --initial-checkpoint on the validation images and stop")
    add("--bench-steps", type=positive_int, metavar="N", help="after some updates that warm up, time N, report img/s "
        "and stop")  # fmt: skip
    add("--output", type=Path, default=Path("output"), metavar="DIR", help="where runs are written")
    add("--experiment", default="", metavar="NAME", help="folder of this run below --output; default: time and model")
    add("--log-interval", type=positive_int, default=50, metavar="N", help="batches between the losses that are shown")
    add("--val-interval", type=positive_int, default=1, metavar="N", help="epochs between evaluations")
    add("--eval-metric", default="top1", choices=("top1", "top5", "loss"), help="what the best epoch is best in")
    add("--log-wandb", action=_SWITCH, default=False, help="log to Weights & Biases too")
    add("--wandb-project", metavar="NAME", help="default: the experiment's name")
    add("--wandb-tags", nargs="+", default=[], metavar="TAG", help="of the run")
    add("--wandb-resume-id", default="", metavar="ID", help="run to continue")


def add_recovery(group: argparse._ArgumentGroup) -> None:
    """What is kept for a run that is cut off, and what does not stop it."""
    add = group.add_argument
    add("--checkpoint-steps", type=positive_int, metavar="N", help="updates between checkpoints within an epoch")
    add("--checkpoint-hist", type=positive_int, default=10, metavar="N", help="checkpoints to keep")
    add("--auto-resume", action=_SWITCH, default=False, help="continue the newest run of this name, or these settings")
    add("--resume", default="", metavar="DIR", help="continue this run or checkpoint, in a new folder")
    add("--resume-relaxed", action=_SWITCH, default=False, help="with other settings, from the beginning of an epoch")
    add("--nonfinite-limit", type=non_negative_int, default=10, metavar="N",
        help="updates in a row that may be skipped because something is not finite; 0: do not look")  # fmt: skip
    add("--on-bad-image", default="replace", choices=("replace", "error"), help="a file that cannot be decoded")
    add("--max-bad-fraction", type=probability, default=0.001, metavar="F",
        help="share of the images that may be replaced, beyond the first, before the run stops")  # fmt: skip
