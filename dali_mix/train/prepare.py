"""Everything a run needs before its first step; what cannot work is refused here, in one line."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import timm
import torch
from nvidia.dali.pipeline import Pipeline
from timm.data import resolve_input_data_config
from timm.layers import PatchEmbed
from timm.optim import create_optimizer_v2, list_optimizers, optimizer_kwargs
from torch import nn

from dali_mix.data import ImageFolder, MixLoader, scan_image_folder
from dali_mix.data.synthetic import write_synthetic_folder
from dali_mix.errors import ConfigError
from dali_mix.smmix import SMMix
from dali_mix.train.arguments import mixing_choices
from dali_mix.train.checkpoint import load_weights
from dali_mix.train.distributed import World

PipelineFactory: TypeAlias = Callable[..., Pipeline]


@dataclass(frozen=True)
class Data:
    """The images of a run; ``train`` is None where only validation is wanted."""

    train: ImageFolder | None
    val: ImageFolder
    num_classes: int


def open_data(args: argparse.Namespace, world: World) -> Data:
    """List the images and check the class count."""
    data_dir = args.data_dir
    if args.demo:
        data_dir = args.output / "demo-data"
        if world.is_main:
            try:
                write_synthetic_folder(data_dir)
            except OSError as error:
                raise ConfigError(f"--output {args.output} cannot be written: {error.strerror}") from error
        world.wait()
    train_dir = data_dir / args.train_split
    if not data_dir.is_dir():
        raise ConfigError(f"--data-dir {data_dir} does not exist; give a folder with train/ and val/")
    train = None if args.eval_only and not train_dir.is_dir() else scan_image_folder(train_dir)
    val = scan_image_folder(data_dir / args.val_split, train.classes if train else None)
    found = len(val.classes)
    if args.num_classes is not None and args.num_classes != found:
        source = train.root if train else val.root
        raise ConfigError(
            f"--num-classes {args.num_classes} contradicts the {found} class folders in {source}; leave the flag "
            f"out, or point --data-dir at the right data"
        )
    return Data(train, val, found)


def create_model(args: argparse.Namespace, num_classes: int, world: World) -> tuple[nn.Module, dict[str, Any]]:
    """A timm model on this rank's device, and its data config (timm's ``resolve_input_data_config``)."""
    if not timm.is_model(args.model):
        close = difflib.get_close_matches(args.model, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() lists them"
        raise ConfigError(f"--model {args.model} is not a model of timm {timm.__version__}; {hint}")
    if args.model_kwargs.get("in_chans", 3) != 3:
        raise ConfigError("--model-kwargs in_chans: the pipeline makes RGB images, three channels")
    if "num_classes" in args.model_kwargs:
        raise ConfigError("--model-kwargs num_classes has no effect: use --num-classes")
    kwargs = dict(args.model_kwargs, num_classes=num_classes)
    if args.drop_path is not None:
        kwargs["drop_path_rate"] = args.drop_path
    model = _create(args.model, kwargs, args.img_size)
    try:
        config = resolve_input_data_config(model, vars(args))
    except ValueError as error:
        raise ConfigError(f"--model {args.model}: {error}") from error
    _check_patches(model, config["input_size"])
    if config["interpolation"] == "random":
        config["interpolation"] = "bicubic"
    if args.checkpoint:
        load_weights(model, args.checkpoint)
    return model.to(world.device).to(memory_format=torch.channels_last), config


def _create(name: str, kwargs: dict[str, Any], img_size: int | None) -> nn.Module:
    """Build the model for ``img_size`` where its kind is made for one size, as transformers are."""
    attempts = [kwargs] if img_size is None else [dict(kwargs, img_size=img_size), kwargs]
    for attempt in attempts:
        try:
            return timm.create_model(name, **attempt)
        except TypeError as error:
            if "img_size" not in str(error):
                raise ConfigError(f"--model {name} refuses its options: {error}; see --model-kwargs") from error
        except (AssertionError, ValueError) as error:
            raise ConfigError(f"--model {name} refuses its options ({attempt}): {error}") from error
    raise ConfigError(f"--model {name} refuses --model-kwargs img_size; use --img-size")


def _check_patches(model: nn.Module, input_size: tuple[int, int, int]) -> None:
    """timm's plain patch embedding drops the border that is left over; others overlap, pad or pool."""
    patch_embed = getattr(model, "patch_embed", None)
    if not isinstance(patch_embed, PatchEmbed) or patch_embed.dynamic_img_pad:
        return
    for side, patch in zip(input_size[1:], patch_embed.patch_size, strict=True):
        if side % patch:
            lower = side // patch * patch
            raise ConfigError(
                f"--img-size {side}: the patch size {patch} of the model does not divide it; use "
                f"{lower or patch} or {lower + patch}"
            )


def create_stage(args: argparse.Namespace, model: nn.Module, config: dict[str, Any], num_classes: int) -> SMMix | None:
    """The SMMix stage, None without ``--smmix``."""
    if not args.smmix or args.eval_only:
        return None
    stage = SMMix(model, num_classes, smoothing=args.smoothing)
    stage.sides(stage.grid(config["input_size"][1:]))
    return stage


def create_optimizer(args: argparse.Namespace, model: nn.Module, stage: SMMix | None, world: World) -> Any:
    """timm's optimizer, with the token head beside the model's own parameters; fills ``args.lr``."""
    if args.lr is None:
        args.lr = _learning_rate(args, world.size)
    known = list_optimizers()
    if args.opt.lower().removeprefix("lookahead_") not in known:
        close = difflib.get_close_matches(args.opt, known, n=3)
        raise ConfigError(f"--opt {args.opt} is not an optimizer of timm; close: {', '.join(close)}")
    try:
        optimizer = create_optimizer_v2(model, **optimizer_kwargs(cfg=args))
    except (ValueError, AssertionError, TypeError, ImportError) as error:
        raise ConfigError(f"--opt {args.opt} refuses its settings: {error}") from error
    if getattr(optimizer, "is_second_order", False):
        raise ConfigError(f"--opt {args.opt} needs second derivatives, which this trainer does not compute")
    if stage is not None and stage.token_head is not None:
        optimizer.add_param_group({"params": [stage.token_head.weight], "weight_decay": args.weight_decay})
        optimizer.add_param_group({"params": [stage.token_head.bias], "weight_decay": 0.0})
    return optimizer


def _learning_rate(args: argparse.Namespace, world_size: int) -> float:
    """timm's rule for ``--lr-base`` (train.py)."""
    ratio = args.batch_size * world_size / args.lr_base_size
    adaptive = any(name in args.opt.lower() for name in ("ada", "lamb"))
    scale = args.lr_base_scale or ("sqrt" if adaptive else "linear")
    return args.lr_base * (math.sqrt(ratio) if scale == "sqrt" else ratio)


def open_loaders(
    args: argparse.Namespace,
    data: Data,
    config: dict[str, Any],
    world: World,
    build_train: PipelineFactory,
    build_val: PipelineFactory,
) -> tuple[MixLoader | None, MixLoader]:
    """The training and validation loaders of this rank."""
    img_size = _square_side(config)
    common: dict[str, Any] = {
        "batch_size": args.batch_size,
        "img_size": img_size,
        "num_classes": data.num_classes,
        "interpolation": config["interpolation"],
        "mean": config["mean"],
        "std": config["std"],
        # Without an explicit choice the pipeline looks for a GPU itself, and says if there is none.
        "device": "cpu" if args.device == "cpu" else "gpu",
        "device_id": world.device.index or 0,
        "num_threads": args.workers,
        "shard_id": world.rank,
        "num_shards": world.size,
    }
    val = MixLoader(build_val(data.val, crop_pct=config["crop_pct"], **common), "partial")
    if args.eval_only or data.train is None:
        return None, val
    train = build_train(
        data.train,
        choices=mixing_choices(args),
        # Where a method is off its alpha is never used, but must be legal.
        cutmix_alpha=args.cutmix or 1.0,
        mixup_alpha=args.mixup or 1.0,
        smoothing=args.smoothing,
        scale=tuple(args.scale),
        ratio=tuple(args.ratio),
        hflip=args.hflip,
        seed=args.seed,
        branch_seed=args.seed,
        **common,
    )
    loader = MixLoader(train, "drop")
    len(loader)  # builds the pipeline, and refuses a data set smaller than one batch
    return loader, val


def _square_side(config: dict[str, Any]) -> int:
    _, height, width = config["input_size"]
    if height != width:
        raise ConfigError(f"the pipeline makes square images, but the model wants {height} x {width} pixels")
    if config["crop_pct"] > 1:
        raise ConfigError(f"the model's crop_pct is {config['crop_pct']}; choose one in (0, 1] with --crop-pct")
    return int(height)
