"""What flags must agree on; a flag that would do nothing is refused."""

from __future__ import annotations

import argparse
from pathlib import Path

from dali_mix.errors import ConfigError
from dali_mix.train.settings.choices import decoder_settings
from dali_mix.train.settings.values import check_values


def check(args: argparse.Namespace) -> None:
    """Check settings against each other.

    Raises:
        ConfigError: for the first that cannot work or would have no effect.
    """
    check_values(args)
    _check_data(args)
    _check_model(args)
    _check_pairs(args)
    _check_mixing(args)
    _check_training(args)
    _check_sizes(args)


def _check_data(args: argparse.Namespace) -> None:
    if args.demo and args.data_dir:
        raise ConfigError("--demo makes its own data; leave out --data-dir, or use --recipe demo")
    if not (args.demo or args.data_dir):
        raise ConfigError("--data-dir is missing: give a folder with train/ and val/, or run --demo to see it work")
    _check_decoder(args)
    _check_file("--class-map", args.class_map)
    _check_file("--exclude-list", args.exclude_list)


def _check_decoder(args: argparse.Namespace) -> None:
    """Where a GPU is only missing, and not refused, the pipelines warn instead, and the same command runs anywhere."""
    on_cpu = "--dali-device cpu" if args.dali_device == "cpu" else "--device cpu" if args.device == "cpu" else None
    given = decoder_settings(args).given()
    if given and on_cpu and args.dali_device != "gpu":
        flag = next(iter(given)).replace("_", "-")
        raise ConfigError(f"--{flag} has no effect with {on_cpu}: it is a setting of the decoder on the GPU")


def _check_model(args: argparse.Namespace) -> None:
    if args.eval_only and not (args.initial_checkpoint or args.pretrained or args.pretrained_path):
        raise ConfigError("--eval-only needs weights: --initial-checkpoint FILE or --pretrained")
    if not (Path(args.initial_checkpoint) / "model.safetensors").is_file():  # of a checkpoint's folder
        _check_file("--initial-checkpoint", args.initial_checkpoint)
    _check_file("--pretrained-path", args.pretrained_path)
    given = args.initial_checkpoint or args.pretrained_path
    _needs("--use-ema", args.use_ema, "--initial-checkpoint or --pretrained-path", given)
    if args.in_chans not in (None, 3) or (args.input_size and args.input_size[0] != 3):
        raise ConfigError("the pipeline makes RGB images: --in-chans and the first of --input-size must be 3")
    if args.input_size and args.img_size:
        raise ConfigError("--img-size and --input-size both give the image size; leave one out")
    for name in ("mean", "std"):
        values = getattr(args, name)
        if values is not None and len(values) == 1:
            setattr(args, name, values * 3)
        elif values is not None and len(values) != 3:
            raise ConfigError(f"--{name} takes one number or three, got {len(values)}")
    if args.std is not None and min(args.std) <= 0:
        raise ConfigError(f"--std must be positive, got {' '.join(map(str, args.std))}")
    _needs("--torchcompile-mode", args.torchcompile_mode is not None, "--torchcompile", args.torchcompile)
    _needs("--amp-dtype", args.amp_dtype is not None, "--amp", args.amp)
    _needs("--fast-norm", args.fast_norm, "--amp", args.amp)


def _check_pairs(args: argparse.Namespace) -> None:
    for name, upper in (("scale", 1.0), ("ratio", float("inf"))):
        pair = getattr(args, name)
        if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= upper:
            limit = " <= 1" if upper == 1 else ""
            raise ConfigError(f"--{name} must satisfy 0 < MIN <= MAX{limit}, got {' '.join(f'{x:g}' for x in pair)}")
    if args.cutmix_minmax is not None:
        pair = args.cutmix_minmax
        if len(pair) != 2 or not pair[0] <= pair[1]:
            raise ConfigError(f"--cutmix-minmax must satisfy MIN <= MAX, got {' '.join(f'{x:g}' for x in pair)}")
    if args.smmix_min_side > args.smmix_max_side:
        raise ConfigError(
            f"--smmix-min-side {args.smmix_min_side:g} is larger than --smmix-max-side {args.smmix_max_side:g}"
        )


def _check_mixing(args: argparse.Namespace) -> None:
    mixing = bool(args.mixup or args.cutmix or args.cutmix_minmax)
    smmix = args.smmix
    _needs("--smmix-prob", args.smmix_prob is not None, "--smmix", smmix)
    _needs("--smmix-min-side", args.smmix_min_side != 0.25, "--smmix", smmix)
    _needs("--smmix-max-side", args.smmix_max_side != 0.75, "--smmix", smmix)
    _needs("--smmix-loss-weights", args.smmix_loss_weights != [1.0, 1.0, 1.0], "--smmix", smmix)
    if smmix and args.smmix_prob == 0:
        raise ConfigError("--smmix has no effect with --smmix-prob 0; leave both out")
    _needs("--mixup-prob", args.mixup_prob != 1, "--mixup or --cutmix", mixing)
    _needs("--mixup-mode", args.mixup_mode != "batch", "--mixup or --cutmix", mixing)
    _needs("--mixup-off-epoch", args.mixup_off_epoch > 0, "--mixup, --cutmix or --smmix", mixing or smmix)
    if args.mixup_switch_prob != 0.5 and not (args.mixup and (args.cutmix or args.cutmix_minmax)):
        raise ConfigError("--mixup-switch-prob has no effect unless both --mixup and --cutmix are on")
    for name in ("sum", "target_thresh", "pos_weight"):
        flag = f"bce_{name}"
        _needs("--" + flag.replace("_", "-"), getattr(args, flag) not in (None, False), "--bce-loss", args.bce_loss)
    if args.bce_loss and smmix:
        raise ConfigError("--bce-loss does not go with --smmix, whose losses are cross entropies (SMMix, engine.py)")


def _check_training(args: argparse.Namespace) -> None:
    if args.lr is not None and (args.lr_base != 0.1 or args.lr_base_size != 256 or args.lr_base_scale):
        raise ConfigError("--lr-base, --lr-base-size and --lr-base-scale have no effect beside --lr")
    _needs("--clip-mode", args.clip_mode != "norm", "--clip-grad", args.clip_grad)
    _needs("--model-ema-warmup", args.model_ema_warmup, "--model-ema", args.model_ema)
    _needs("--model-ema-force-cpu", args.model_ema_force_cpu, "--model-ema", args.model_ema)
    _needs("--model-ema-decay", args.model_ema_decay != 0.9998, "--model-ema", args.model_ema)
    for flag in ("wandb_project", "wandb_tags", "wandb_resume_id"):
        _needs("--" + flag.replace("_", "-"), bool(getattr(args, flag)), "--log-wandb", args.log_wandb)
    if args.eval_only and args.bench_steps:
        raise ConfigError("--bench-steps times training; leave out --eval-only")
    _needs("--resume-relaxed", args.resume_relaxed, "--resume or --auto-resume", args.resume or args.auto_resume)
    for flag in ("resume", "auto_resume"):
        if getattr(args, flag) and (args.eval_only or args.bench_steps):
            mode = "--eval-only" if args.eval_only else "--bench-steps"
            raise ConfigError(f"--{flag.replace('_', '-')} continues a training; leave it out with {mode}")


def _check_sizes(args: argparse.Namespace) -> None:
    sizes = args.train_img_sizes
    _needs("--train-size-probs", args.train_size_probs is not None, "--train-img-sizes", sizes)
    _needs("--train-size-schedule", args.train_size_schedule != "constant", "--train-img-sizes", sizes)
    progressive = args.train_size_schedule == "progressive"
    for flag, default in (("train_size_schedule_spread", 0.65), ("train_size_random_mix", 0.1)):
        changed = getattr(args, flag) != default
        _needs("--" + flag.replace("_", "-"), changed, "--train-size-schedule progressive", progressive)
    if sizes and args.no_aug:
        raise ConfigError("--train-img-sizes changes the random crop; it does not go with --no-aug")
    probs = args.train_size_probs
    if probs is not None and (len(probs) != len(sizes) or sum(probs) == 0):
        raise ConfigError(f"--train-size-probs needs a weight for each of {len(sizes)} sizes, one of them above 0")


def _needs(flag: str, given: bool, other: str, on: object) -> None:
    if given and not on:
        raise ConfigError(f"{flag} has no effect without {other}")


def _check_file(flag: str, path: str | Path | None) -> None:
    if path and not Path(path).is_file():
        raise ConfigError(f"{flag} {path} is not a file")
