"""Flags of how it is trained: optimizer, schedule, augmentation, mixing, the run."""

from __future__ import annotations

import argparse
from pathlib import Path

from timm.utils import ParseKwargs

from dali_mix.train.settings.types import (
    Integer,
    epochs,
    epochs_or_none,
    finite,
    fraction,
    image_size,
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
    add("--opt", default="sgd", metavar="NAME", help="Optimizer of timm.")
    add("--opt-eps", type=non_negative, metavar="EPS", help="Epsilon, by default the optimizer's.")
    add("--opt-betas", type=probability, nargs="+", metavar="BETA", help="Betas, by default the optimizer's.")
    add("--opt-kwargs", nargs="*", default={}, action=ParseKwargs, metavar="K=V",
        help="More arguments for the optimizer, as NAME=VALUE.")  # fmt: skip
    add("--momentum", type=finite, default=0.9, metavar="M", help="Momentum of optimizers that have one.")
    add("--weight-decay", type=non_negative, default=2e-5, metavar="W",
        help="Weight decay, which spares biases and norms.")  # fmt: skip
    add("--clip-grad", type=positive, metavar="NORM",
        help="Limit for the gradients, as --clip-mode means it; without it nothing is clipped.")  # fmt: skip
    add("--clip-mode", default="norm", choices=("norm", "value", "agc"),
        help="Whether --clip-grad limits the norm, each value, or adapts to the weights.")  # fmt: skip
    add("--grad-accum-steps", type=positive_int, default=1, metavar="N", help="Batches per update.")
    add("--layer-decay", type=positive, metavar="F",
        help="Factor on the learning rate from layer to layer, top to bottom.")  # fmt: skip
    add("--layer-decay-min-scale", type=non_negative, default=0.0, metavar="F",
        help="Smallest factor of --layer-decay.")  # fmt: skip
    add("--layer-decay-no-opt-scale", type=non_negative, metavar="F", help="Layers with a smaller factor are frozen.")


def add_schedule(group: argparse._ArgumentGroup) -> None:
    """The learning rate over the run."""
    add = group.add_argument
    add("--epochs", type=epochs, default=300, metavar="N", help="Epochs to train, without cool-down.")
    add("--lr", type=non_negative, metavar="LR", help="Learning rate, by default from --lr-base and the global batch.")
    add("--lr-base", type=non_negative, default=0.1, metavar="LR",
        help="Learning rate for a global batch of --lr-base-size.")  # fmt: skip
    add("--lr-base-size", type=positive_int, default=256, metavar="N", help="Global batch that --lr-base is meant for.")
    add("--lr-base-scale", default="", choices=("", "linear", "sqrt"),
        help="How --lr-base grows with the batch, by default sqrt for adaptive optimizers, else linear.")  # fmt: skip
    add("--sched", default="cosine", choices=SCHEDULERS, help="Scheduler of timm.")
    add("--sched-on-updates", action=_SWITCH, default=True, help="Step the schedule at every update, not every epoch.")
    add("--lr-noise", type=finite, nargs="+", metavar="F",
        help="Shares of the run at which noise on the learning rate begins and ends.")  # fmt: skip
    add("--lr-noise-pct", type=non_negative, default=0.67, metavar="F",
        help="Limit of the noise, as a share of the learning rate.")  # fmt: skip
    add("--lr-noise-std", type=non_negative, default=1.0, metavar="STD", help="Standard deviation of the noise.")
    add("--lr-cycle-mul", type=positive, default=1.0, metavar="F",
        help="Length of a cycle over that of the one before.")  # fmt: skip
    add("--lr-cycle-decay", type=non_negative, default=0.5, metavar="F",
        help="Height of a cycle over that of the one before.")  # fmt: skip
    add("--lr-cycle-limit", type=Integer(1, 1000), default=1, metavar="N", help="Number of cycles.")
    add("--lr-k-decay", type=positive, default=1.0, metavar="K", help="Exponent k of the cosine and poly schedules.")
    add("--warmup-lr", type=non_negative, default=1e-5, metavar="LR", help="Learning rate at the first update.")
    add("--min-lr", type=non_negative, default=0.0, metavar="LR", help="Learning rate at the end.")
    add("--warmup-epochs", type=epochs_or_none, default=5, metavar="N", help="Epochs from --warmup-lr to --lr.")
    add("--warmup-prefix", action=_SWITCH, default=False, help="Begin the decay after the warm-up, not during it.")
    add(
        "--cooldown-epochs",
        type=epochs_or_none,
        default=0,
        metavar="N",
        help="Epochs at --min-lr, after --epochs.",
    )
    add("--decay-epochs", type=positive, default=90, metavar="N", help="Epochs between steps of --sched step.")
    add("--decay-milestones", type=positive_int, nargs="+", default=[90, 180, 270], metavar="N",
        help="Epochs at which --sched multistep steps.")  # fmt: skip
    add("--decay-rate", "--dr", type=non_negative, default=0.1, metavar="F", help="Factor of a step.")


def add_augmentation(group: argparse._ArgumentGroup) -> None:
    """What happens to each image before mixing."""
    add = group.add_argument
    add("--no-aug", action="store_true",
        help="Resize and centre crop the training images too, and do nothing else to them.")  # fmt: skip
    add("--train-crop-mode", choices=("rrc",), help="Crop of the training images: random resized crop.")
    add("--scale", type=fraction, nargs="+", default=[0.08, 1.0], metavar="A",
        help="Smallest and largest area of the random crop, as shares of the image.")  # fmt: skip
    add("--ratio", type=positive, nargs="+", default=[3 / 4, 4 / 3], metavar="R",
        help="Smallest and largest width over height of the random crop.")  # fmt: skip
    add("--train-interpolation", default="random", choices=("random", "bilinear", "bicubic"),
        help="Interpolation of the random crop and of warps.")  # fmt: skip
    add("--hflip", type=probability, default=0.5, metavar="PROB", help="Probability of a horizontal flip.")
    add("--vflip", type=probability, default=0.0, metavar="PROB", help="Probability of a vertical flip.")
    add("--color-jitter", type=non_negative, default=0.4, metavar="F",
        help="Strength of color jitter, which is off beside most policies of --aa.")  # fmt: skip
    add("--color-jitter-prob", type=probability, metavar="PROB",
        help="Probability of color jitter; without it every image has it.")  # fmt: skip
    add("--grayscale-prob", type=probability, metavar="PROB",
        help="Probability of a gray image; without it there is none.")  # fmt: skip
    add("--gaussian-blur-prob", type=probability, metavar="PROB",
        help="Probability of a Gaussian blur; without it there is none.")  # fmt: skip
    add("--aa", metavar="POLICY", help="Policy of augmentation, such as rand-m9-mstd0.5-inc1 or 3a.")
    add("--reprob", type=probability, default=0.0, metavar="PROB",
        help="Probability of random erasing, which comes before mixing.")  # fmt: skip
    add("--remode", default="pixel", choices=("const", "rand", "pixel"),
        help="What erased pixels become: black, one color per box, or noise.")  # fmt: skip
    add("--recount", type=Integer(1, 1000), default=1, metavar="N", help="Most erased boxes per image.")


def add_mixing(group: argparse._ArgumentGroup) -> None:
    """Mixup, CutMix, SMMix and the loss on soft targets."""
    add = group.add_argument
    add("--mixup", type=non_negative, default=0.0, metavar="ALPHA",
        help="Alpha of Mixup, which is on where it is above 0.")  # fmt: skip
    add("--cutmix", type=non_negative, default=0.0, metavar="ALPHA",
        help="Alpha of CutMix, which is on where it is above 0.")  # fmt: skip
    add("--cutmix-minmax", type=fraction, nargs="+", metavar="F",
        help="Smallest and largest side of CutMix's box as shares of the image's; overrides alpha.")  # fmt: skip
    add("--mixup-prob", type=probability, default=1.0, metavar="PROB",
        help="Probability of a batch to be mixed at all.")  # fmt: skip
    add("--mixup-switch-prob", type=probability, default=0.5, metavar="PROB",
        help="Probability of CutMix, where Mixup is on too.")  # fmt: skip
    add("--mixup-mode", default="batch", choices=("batch", "pair", "elem"),
        help="Whether a draw is shared by the batch, by a pair of images, or by none.")  # fmt: skip
    add("--mixup-off-epoch", type=non_negative_int, default=0, metavar="N",
        help="Epochs, counted from 0, after which nothing is mixed; 0 mixes to the end.")  # fmt: skip
    add("--smmix", action=_SWITCH, default=False, help="Mix by the attention of the model under training.")
    add("--smmix-prob", type=probability, metavar="PROB",
        help="Probability of SMMix, by default 0.5 beside Mixup or CutMix, else 1.")  # fmt: skip
    add("--smmix-min-side", type=fraction, default=0.25, metavar="F",
        help="Smallest window side as a share of the token grid's.")  # fmt: skip
    add("--smmix-max-side", type=fraction, default=0.75, metavar="F",
        help="Largest window side as a share of the token grid's.")  # fmt: skip
    add("--smmix-loss-weights", type=non_negative, nargs=3, default=[1.0, 1.0, 1.0], metavar="W",
        help="Weights of the classification, fine-grained and consistency loss.")  # fmt: skip
    add("--smoothing", type=probability, default=0.1, metavar="S", help="Label smoothing, inside the soft targets.")
    add("--bce-loss", action=_SWITCH, default=False, help="Train by binary cross entropy instead of cross entropy.")
    add("--bce-sum", action=_SWITCH, default=False,
        help="Sum binary cross entropy over the classes instead of averaging it.")  # fmt: skip
    add("--bce-target-thresh", type=probability, metavar="T",
        help="Threshold above which soft targets become 1, and others 0.")  # fmt: skip
    add("--bce-pos-weight", type=positive, metavar="W", help="Weight of the positive classes in binary cross entropy.")


def add_sizes(group: argparse._ArgumentGroup) -> None:
    """Image sizes that change during the run."""
    add = group.add_argument
    add("--train-img-sizes", type=image_size, nargs="+", metavar="PX",
        help="Image sizes to choose from for each batch.")  # fmt: skip
    add("--train-size-probs", type=non_negative, nargs="+", metavar="W", help="Weights of the sizes, by default equal.")
    add("--train-size-schedule", default="constant", choices=("constant", "progressive"),
        help="Whether the weights stay, or move from the first size to the last.")  # fmt: skip
    add("--train-size-schedule-spread", type=positive, default=0.65, metavar="F",
        help="Width of the progressive schedule, in sizes.")  # fmt: skip
    add("--train-size-random-mix", type=probability, default=0.1, metavar="F",
        help="Share of any size in the progressive schedule.")  # fmt: skip


def add_run(group: argparse._ArgumentGroup) -> None:
    """What is written, said and repeated."""
    add = group.add_argument
    add("--seed", type=Integer(0, 2**32 - 1), default=42, metavar="N", help="Seed of weights, data and mixing.")
    add("--eval-only", action="store_true", help="Evaluate --initial-checkpoint on the validation images, and stop.")
    add("--bench-steps", type=positive_int, metavar="N",
        help="After some updates that warm up, time N, report img/s and stop.")  # fmt: skip
    add("--output", type=Path, default=Path("output"), metavar="DIR", help="Where runs are written.")
    add("--experiment", default="", metavar="NAME",
        help="Folder of this run below --output, by default time and model.")  # fmt: skip
    add("--log-interval", type=positive_int, default=50, metavar="N", help="Batches between the losses that are shown.")
    add("--val-interval", type=positive_int, default=1, metavar="N", help="Epochs between evaluations.")
    add("--eval-metric", default="top1", choices=("top1", "top5", "loss"),
        help="Metric that the best epoch is best in; with --model-ema that of the average.")  # fmt: skip
    add("--log-wandb", action=_SWITCH, default=False, help="Log to Weights & Biases too.")
    add("--wandb-project", metavar="NAME", help="Project in Weights & Biases, by default the experiment's name.")
    add("--wandb-tags", nargs="+", default=[], metavar="TAG", help="Tags of the run in Weights & Biases.")
    add("--wandb-resume-id", default="", metavar="ID", help="Run in Weights & Biases to continue.")


def add_recovery(group: argparse._ArgumentGroup) -> None:
    """What is kept for a run that is cut off, and what does not stop it."""
    add = group.add_argument
    add("--checkpoint-steps", type=positive_int, metavar="N", help="Updates between checkpoints within an epoch.")
    add("--checkpoint-hist", type=positive_int, default=10, metavar="N", help="Checkpoints to keep.")
    add("--auto-resume", action=_SWITCH, default=False,
        help="Continue the newest run of this name, or of these settings.")  # fmt: skip
    add("--resume", default="", metavar="DIR", help="Continue this run or checkpoint, in a new folder.")
    add("--resume-relaxed", action=_SWITCH, default=False,
        help="Continue with other settings, from the beginning of an epoch.")  # fmt: skip
    add("--nonfinite-limit", type=non_negative_int, default=10, metavar="N",
        help="Updates in a row that may be skipped because something is not finite; 0 does not look.")  # fmt: skip
    add("--on-bad-image", default="replace", choices=("replace", "error"),
        help="What becomes of a file that cannot be decoded: it is replaced, or ends the run.")  # fmt: skip
    add("--max-bad-fraction", type=probability, default=0.001, metavar="F",
        help="Share of the images that may be replaced, beyond the first, before the run stops.")  # fmt: skip
