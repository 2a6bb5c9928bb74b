"""The command line: timm's names and meanings, checked before anything is built."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from timm.utils import ParseKwargs

from dali_mix.errors import ConfigError

SCHEDULERS = ("cosine", "tanh", "poly", "step", "multistep")

DEMO: dict[str, Any] = {
    "experiment": "demo",
    "model": "vit_tiny_patch16_224",
    "model_kwargs": {"patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4, "mlp_ratio": 2.0},
    "img_size": 64,
    "batch_size": 64,
    "epochs": 10,
    "opt": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.05,
    "warmup_epochs": 2,
    "smoothing": 0.1,
    "scale": (0.5, 1.0),
    "crop_pct": 1.0,
    "mixup": 0.8,
    "cutmix": 1.0,
    "smmix": True,
    "workers": 2,
    "log_interval": 10,
}
"""What ``--demo`` sets: a small ViT and the SMMix recipe, for minutes on two CPU cores."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; argparse would print the usage of every flag first."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``train_imagenet.py``; names, types and defaults are timm's where timm has the flag."""
    parser = _Parser(
        prog="train_imagenet.py",
        description="Train an image classifier: DALI decodes, augments and mixes; SMMix mixes by attention.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    _add_data(parser.add_argument_group("data"))
    _add_model(parser.add_argument_group("model"))
    _add_optimizer(parser.add_argument_group("optimizer and schedule"))
    _add_augmentation(parser.add_argument_group("augmentation and mixing"))
    _add_run(parser.add_argument_group("run"))
    return parser


def _add_data(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--data-dir", type=Path, metavar="DIR", help="folder with train/CLASS/*.jpg and val/CLASS/*.jpg")
    add("--train-split", default="train", metavar="NAME", help="sub-folder of the training images")
    add("--val-split", default="val", metavar="NAME", help="sub-folder of the validation images")
    add("--num-classes", type=_positive_int, metavar="K", help="default: the number of class folders")
    add("-b", "--batch-size", type=_positive_int, default=128, metavar="N", help="images per batch and rank")
    add("-j", "--workers", type=_positive_int, default=4, metavar="N", help="DALI's CPU threads per rank")


def _add_model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--model", default="resnet50", metavar="NAME", help="a model of timm")
    add("--model-kwargs", nargs="*", default={}, action=ParseKwargs, metavar="K=V", help="passed to the model")
    add("--img-size", type=_positive_int, metavar="PX", help="default: the model's")
    add("--drop-path", type=_probability, metavar="RATE", help="stochastic depth")
    add("--checkpoint", type=Path, metavar="FILE", help="weights to start from, or to evaluate with --eval-only")
    add("--mean", type=float, nargs=3, metavar="M", help="default: the model's")
    add("--std", type=float, nargs=3, metavar="S", help="default: the model's")
    add("--crop-pct", type=_fraction, metavar="SHARE", help="of the validation crop; default: the model's")
    add("--interpolation", choices=("bicubic", "bilinear", "lanczos", "nearest"), help="default: the model's")


def _add_optimizer(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--epochs", type=_positive_int, default=300, metavar="N", help="without cool-down")
    add("--opt", default="sgd", metavar="NAME", help="an optimizer of timm")
    add("--momentum", type=float, default=0.9, metavar="M", help="for optimizers that have one")
    add("--weight-decay", type=_non_negative, default=2e-5, metavar="W", help="not applied to biases and norms")
    add("--lr", type=_non_negative, metavar="LR", help="default: from --lr-base and the global batch")
    add("--lr-base", type=_non_negative, default=0.1, metavar="LR", help="lr = lr-base * scale(batch / lr-base-size)")
    add("--lr-base-size", type=_positive_int, default=256, metavar="N", help="batch that --lr-base is meant for")
    add("--lr-base-scale", default="", choices=("", "linear", "sqrt"), help="default: sqrt for adaptive optimizers")
    add("--sched", default="cosine", choices=SCHEDULERS, help="a scheduler of timm, stepped at every update")
    add("--decay-epochs", type=_non_negative, default=90, metavar="N", help="between steps of --sched step")
    add("--decay-milestones", type=int, nargs="+", default=[90, 180, 270], metavar="N", help="of --sched multistep")
    add("--decay-rate", "--dr", type=_non_negative, default=0.1, metavar="F", help="factor of a step")
    add("--warmup-epochs", type=_non_negative_int, default=5, metavar="N", help="from --warmup-lr to --lr")
    add("--warmup-lr", type=_non_negative, default=1e-5, metavar="LR", help="at the first update")
    add("--min-lr", type=_non_negative, default=0.0, metavar="LR", help="at the end")


def _add_augmentation(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--scale", type=float, nargs=2, default=(0.08, 1.0), metavar=("MIN", "MAX"), help="area of the random crop")
    add("--ratio", type=float, nargs=2, default=(3 / 4, 4 / 3), metavar=("MIN", "MAX"), help="its width over height")
    add("--hflip", type=_probability, default=0.5, metavar="PROB", help="horizontal flip")
    add("--smoothing", type=_probability, default=0.1, metavar="S", help="label smoothing, inside the soft targets")
    add("--mixup", type=_non_negative, default=0.0, metavar="ALPHA", help="Mixup where > 0")
    add("--cutmix", type=_non_negative, default=0.0, metavar="ALPHA", help="CutMix where > 0")
    add("--mixup-prob", type=_probability, default=1.0, metavar="PROB", help="of a batch to be mixed at all")
    add("--mixup-switch-prob", type=_probability, default=0.5, metavar="PROB", help="of CutMix, where Mixup is on too")
    add("--smmix", action="store_true", help="SMMix: mix by the attention of the model under training")
    add("--smmix-prob", type=_probability, metavar="PROB", help="of SMMix; default 0.5 beside Mixup or CutMix, else 1")


def _add_run(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--demo", action="store_true", help="make a small data set, train a small ViT on it with SMMix, evaluate")
    add("--eval-only", action="store_true", help="evaluate --checkpoint on the validation images and stop")
    add("--output", type=Path, default=Path("output"), metavar="DIR", help="where runs are written")
    add("--experiment", default="", metavar="NAME", help="folder of this run below --output; default: time and model")
    add("--device", choices=("cuda", "cpu"), help="default: cuda where there is one")
    add("--amp", action="store_true", help="mixed precision: bfloat16 where the device has it, else float16")
    add("--seed", type=_non_negative_int, default=42, metavar="N", help="for weights, data and mixing")
    add("--log-interval", type=_positive_int, default=50, metavar="N", help="updates between readings of the loss")
    add("--checkpoint-hist", type=_positive_int, default=10, metavar="N", help="checkpoints to keep")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line; errors leave with one line and exit code 2.

    ``--demo`` only changes defaults: every other flag still counts.
    """
    parser = build_parser()
    try:
        args = parser.parse_args(argv)
        if args.demo:
            parser.set_defaults(**DEMO)
            args = parser.parse_args(argv)
        _check(args)
    except ConfigError as error:
        parser.error(str(error))
    except ValueError:  # from timm's ParseKwargs, the one flag type that is not ours
        parser.error("--model-kwargs takes NAME=VALUE pairs")
    return args


def _check(args: argparse.Namespace) -> None:
    if args.demo and args.data_dir:
        raise ConfigError("--demo makes its own data; leave out --data-dir, or leave out --demo")
    if not (args.demo or args.data_dir):
        raise ConfigError("--data-dir is missing: give a folder with train/ and val/, or run --demo to see it work")
    if args.eval_only and not args.checkpoint:
        raise ConfigError("--eval-only needs --checkpoint FILE, the weights to evaluate")
    _check_effects(args)
    if args.checkpoint and not args.checkpoint.is_file():
        raise ConfigError(f"--checkpoint {args.checkpoint} is not a file")
    if not 0 < args.scale[0] <= args.scale[1] <= 1:
        raise ConfigError(f"--scale must satisfy 0 < MIN <= MAX <= 1, got {args.scale[0]:g} {args.scale[1]:g}")
    if not 0 < args.ratio[0] <= args.ratio[1]:
        raise ConfigError(f"--ratio must satisfy 0 < MIN <= MAX, got {args.ratio[0]:g} {args.ratio[1]:g}")


def _check_effects(args: argparse.Namespace) -> None:
    """Refuse flags that would do nothing."""
    if args.smmix_prob is not None and not args.smmix:
        raise ConfigError("--smmix-prob has no effect without --smmix")
    if args.smmix and args.smmix_prob == 0:
        raise ConfigError("--smmix has no effect with --smmix-prob 0; leave both out")
    if args.mixup_prob != 1 and not (args.mixup or args.cutmix):
        raise ConfigError("--mixup-prob has no effect without --mixup or --cutmix")
    if args.mixup_switch_prob != 0.5 and not (args.mixup and args.cutmix):
        raise ConfigError("--mixup-switch-prob has no effect unless both --mixup and --cutmix are on")
    if args.lr is not None and (args.lr_base != 0.1 or args.lr_base_size != 256 or args.lr_base_scale):
        raise ConfigError("--lr-base, --lr-base-size and --lr-base-scale have no effect beside --lr")


def mixing_choices(args: argparse.Namespace) -> dict[str, float]:
    """The probability per batch of each method, as ``random_mix`` takes them.

    timm's two probabilities keep their meaning, and share what SMMix leaves: ``--smmix --mixup 0.8``
    is the SMMix authors' recipe, half SMMix and half Mixup.
    """
    others = args.mixup > 0 or args.cutmix > 0
    smmix = 0.0
    if args.smmix:
        smmix = (0.5 if others else 1.0) if args.smmix_prob is None else args.smmix_prob
    mixed = (1 - smmix) * args.mixup_prob
    switch = args.mixup_switch_prob if args.mixup > 0 else 1.0
    choices = {
        "cutmix": mixed * switch if args.cutmix > 0 else 0.0,
        "mixup": mixed * (1 - switch if args.cutmix > 0 else 1.0) if args.mixup > 0 else 0.0,
        "smmix": smmix,
    }
    return {name: share for name, share in choices.items() if share > 0}


def _positive_int(text: str) -> int:
    return _number(text, int, "an integer >= 1", lambda value: value >= 1)


def _non_negative_int(text: str) -> int:
    return _number(text, int, "an integer >= 0", lambda value: value >= 0)


def _non_negative(text: str) -> float:
    return _number(text, float, "a number >= 0", lambda value: 0 <= value < float("inf"))


def _probability(text: str) -> float:
    return _number(text, float, "a number in [0, 1]", lambda value: 0 <= value <= 1)


def _fraction(text: str) -> float:
    return _number(text, float, "a number in (0, 1]", lambda value: 0 < value <= 1)


def _number(text: str, kind: Any, legal: str, check: Any) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not check(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {legal}")
    return value
