"""How it is trained: optimizer, schedule, mixing, loss and image sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dali_mix.errors import ConfigError
from dali_mix.options import (
    Needs,
    finite,
    fraction,
    integer,
    non_negative,
    non_negative_int,
    option,
    positive,
    positive_int,
    probability,
)
from dali_mix.train.settings.sections.model import image_size

SCHEDULERS = ("cosine", "tanh", "poly", "step", "multistep")

_epochs = integer(1, 1_000_000)
_epochs_or_none = integer(0, 1_000_000)


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Optimizer, gradient clipping, accumulation, layer decay."""

    opt: str = option("sgd", None, "Optimizer of timm.", metavar="NAME")
    opt_eps: float | None = option(None, non_negative, "Epsilon, by default the optimizer's.", metavar="EPS")
    opt_betas: tuple[float, ...] | None = option(None, probability, "Betas, by default the optimizer's.", nargs="+",
        metavar="BETA")  # fmt: skip
    opt_kwargs: dict[str, Any] = option({}, None, "More arguments for the optimizer, as NAME=VALUE.", pairs=True,
        metavar="K=V")  # fmt: skip
    momentum: float = option(0.9, finite, "Momentum of optimizers that have one.", metavar="M")
    weight_decay: float = option(2e-5, non_negative, "Weight decay, which spares biases and norms.", metavar="W")
    clip_grad: float | None = option(None, positive,
        "Limit for the gradients, as --clip-mode means it; without it nothing is clipped.", metavar="NORM")  # fmt: skip
    clip_mode: str = option("norm", None,
        "Whether --clip-grad limits the norm, each value, or adapts to the weights.", needs="clip_grad",
        choices=("norm", "value", "agc"))  # fmt: skip
    grad_accum_steps: int = option(1, positive_int, "Batches per update.", metavar="N")
    layer_decay: float | None = option(None, positive,
        "Factor on the learning rate from layer to layer, top to bottom.", metavar="F")  # fmt: skip
    layer_decay_min_scale: float = option(0.0, non_negative, "Smallest factor of --layer-decay.", metavar="F")
    layer_decay_no_opt_scale: float | None = option(None, non_negative,
        "Factor of --layer-decay below which layers are frozen.", metavar="F")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate over the run."""

    epochs: int = option(300, _epochs, "Epochs to train, without cool-down.", metavar="N")
    lr: float | None = option(None, non_negative, "Learning rate, by default from --lr-base and the global batch.",
        metavar="LR")  # fmt: skip
    lr_base: float = option(0.1, non_negative, "Learning rate for a global batch of --lr-base-size.", metavar="LR")
    lr_base_size: int = option(256, positive_int, "Global batch that --lr-base is meant for.", metavar="N")
    lr_base_scale: str = option("", None,
        "How --lr-base grows with the batch, by default sqrt for adaptive optimizers, else linear.",
        choices=("", "linear", "sqrt"))  # fmt: skip
    sched: str = option("cosine", None, "Learning rate scheduler of timm.", choices=SCHEDULERS)
    sched_on_updates: bool = option(True, help="Step the schedule at every update, not every epoch.")
    lr_noise: tuple[float, ...] | None = option(None, finite,
        "Shares of the run at which noise on the learning rate begins and ends.", nargs="+", metavar="F")  # fmt: skip
    lr_noise_pct: float = option(0.67, non_negative,
        "Limit of the noise on the learning rate, as a share of it.", metavar="F")  # fmt: skip
    lr_noise_std: float = option(1.0, non_negative, "Standard deviation of the noise on the learning rate.",
        metavar="STD")  # fmt: skip
    lr_cycle_mul: float = option(1.0, positive, "Length of a cycle of the schedule over that of the one before.",
        metavar="F")  # fmt: skip
    lr_cycle_decay: float = option(0.5, non_negative,
        "Height of a cycle of the schedule over that of the one before.", metavar="F")  # fmt: skip
    lr_cycle_limit: int = option(1, integer(1, 1000), "Number of cycles of the schedule.", metavar="N")
    lr_k_decay: float = option(1.0, positive, "Exponent k of the cosine and poly schedules.", metavar="K")
    warmup_lr: float = option(1e-5, non_negative, "Initial learning rate of the warm-up.", metavar="LR")
    min_lr: float = option(0.0, non_negative, "Final learning rate of the schedule.", metavar="LR")
    warmup_epochs: int = option(5, _epochs_or_none,
        "Epochs of the warm-up, in which the learning rate rises from --warmup-lr to --lr.", metavar="N")  # fmt: skip
    warmup_prefix: bool = option(False, help="Begin the decay after the warm-up, not during it.")
    cooldown_epochs: int = option(0, _epochs_or_none, "Epochs at --min-lr, after --epochs.", metavar="N")
    decay_epochs: float = option(90, positive, "Epochs between steps of --sched step.", metavar="N")
    decay_milestones: tuple[int, ...] = option((90, 180, 270), positive_int,
        "Epochs at which --sched multistep steps.", nargs="+", metavar="N")  # fmt: skip
    decay_rate: float = option(0.1, non_negative,
        "Factor on the learning rate at a step of --sched step or multistep.", metavar="F",
        aliases=("--dr",))  # fmt: skip


_MIXED = Needs(("mixup", "cutmix"), unsaid=("cutmix_minmax",))


@dataclass(frozen=True, kw_only=True)
class Methods:
    """Which batches are mixed by which method: timm's short forms for CutMix and Mixup, and ``--mix`` for all."""

    mix: dict[str, float] = option({}, fraction,
        "Methods to mix by, each with its share of the batches; the rest is left unmixed.", pairs=True,
        metavar="NAME=SHARE")  # fmt: skip
    mixup: float = option(0.0, non_negative, "Alpha of Mixup, which is on where it is above 0.", metavar="ALPHA")
    cutmix: float = option(0.0, non_negative, "Alpha of CutMix, which is on where it is above 0.", metavar="ALPHA")
    cutmix_minmax: Sequence[float] | None = option(None, fraction,
        "Smallest and largest side of CutMix's box as shares of the image's; overrides alpha.", nargs="+",
        metavar="F")  # fmt: skip
    mixup_prob: float = option(1.0, probability, "Probability of a batch to be mixed at all.", needs=_MIXED,
        metavar="PROB")  # fmt: skip
    mixup_switch_prob: float = option(0.5, probability, "Probability of CutMix, where Mixup is on too.",
        metavar="PROB")  # fmt: skip
    mixup_off_epoch: int = option(0, non_negative_int,
        "Epochs, counted from 0, after which nothing is mixed; 0 mixes to the end.",
        metavar="N")  # fmt: skip

    def __post_init__(self) -> None:
        pair = self.cutmix_minmax
        if pair is not None and (len(pair) != 2 or not pair[0] <= pair[1]):
            raise ConfigError(f"--cutmix-minmax must satisfy MIN <= MAX, got {' '.join(f'{x:g}' for x in pair)}")


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss on soft targets, where it is not cross entropy."""

    bce_loss: bool = option(False, help="Train by binary cross entropy instead of cross entropy.")
    bce_sum: bool = option(False, help="Sum binary cross entropy over the classes instead of averaging it.",
        needs="bce_loss")  # fmt: skip
    bce_target_thresh: float | None = option(None, probability,
        "Threshold above which soft targets become 1, and others 0.", needs="bce_loss", metavar="T")  # fmt: skip
    bce_pos_weight: float | None = option(None, positive,
        "Weight of the positive classes in binary cross entropy.", needs="bce_loss", metavar="W")  # fmt: skip


_PROGRESSIVE = "train_size_schedule=progressive"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Image sizes that change during the run."""

    train_img_sizes: tuple[int, ...] | None = option(None, image_size, "Image sizes to choose from for each batch.",
        nargs="+", metavar="PX")  # fmt: skip
    train_size_probs: tuple[float, ...] | None = option(None, non_negative, "Weights of the sizes, by default equal.",
        needs="train_img_sizes", nargs="+", metavar="W")  # fmt: skip
    train_size_schedule: str = option("constant", None,
        "Whether the weights of the sizes stay, or move from the first size to the last.", needs="train_img_sizes",
        choices=("constant", "progressive"))  # fmt: skip
    train_size_schedule_spread: float = option(0.65, positive, "Width of the progressive schedule, in sizes.",
        needs=_PROGRESSIVE, metavar="F")  # fmt: skip
    train_size_random_mix: float = option(0.1, probability, "Share of any size in the progressive schedule.",
        needs=_PROGRESSIVE, metavar="F")  # fmt: skip
