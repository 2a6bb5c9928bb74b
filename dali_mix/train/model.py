"""The model, the methods, the loss and the trainer; what cannot work is refused here, in one line."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors import SafetensorError
from timm.data import resolve_input_data_config
from timm.layers import PatchEmbed, convert_sync_batchnorm, set_fast_norm
from timm.loss import BinaryCrossEntropy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import dali_mix.models  # noqa: F401  registers them with timm
from dali_mix.errors import ConfigError, first_line
from dali_mix.methods import Plain, StepMethod, registered
from dali_mix.methods.losses import soft_cross_entropy
from dali_mix.train.batch_norm import check_batch_norm
from dali_mix.train.class_names import check_class_names
from dali_mix.train.distributed import World
from dali_mix.train.loop import Trainer
from dali_mix.train.optimizer import Precision, create_ema, create_optimizer, create_scheduler
from dali_mix.train.settings.choices import mixing_choices
from dali_mix.train.step import TrainStep
from dali_mix.train.updater import Updater
from dali_mix.train.weights import load_weights, read_weights

_log = logging.getLogger(__name__)

Loss = Callable[[Tensor, Tensor], Tensor]


def create_model(args: argparse.Namespace, num_classes: int, world: World) -> tuple[nn.Module, dict[str, Any]]:
    """A model on this rank's device, and its data config (timm's ``resolve_input_data_config``)."""
    if args.fast_norm:
        set_fast_norm()
    model = _create(args, num_classes)
    _check_patches(model, _input_sizes(args, model))
    config = _data_config(args, model)
    _check_patches(model, [config["input_size"][1:]])
    _adjust(args, model)
    if world.size > 1 and args.sync_bn:
        if world.device.type != "cuda":
            raise ConfigError("--sync-bn works on GPUs only; leave it out, --dist-bn reduce averages the statistics")
        model = convert_sync_batchnorm(model)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    model = model.to(world.device).to(memory_format=layout)
    check_batch_norm(args, model, config)
    return model, config


def _create(args: argparse.Namespace, num_classes: int) -> nn.Module:
    name = args.model
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() lists them"
        raise ConfigError(f"--model {name} is not a model of timm {timm.__version__}; {hint}")
    for key, flag in (("num_classes", "--num-classes"), ("in_chans", None), ("pretrained", "--pretrained")):
        if key in args.model_kwargs and (flag or args.model_kwargs[key] != 3):
            hint = f"use {flag}" if flag else "the pipeline makes RGB images, three channels"
            raise ConfigError(f"--model-kwargs {key} cannot be set: {hint}")
    named = {
        "drop_rate": args.drop or None,
        "drop_path_rate": args.drop_path,
        "drop_block_rate": args.drop_block,
        "global_pool": args.gp,
    }
    kwargs = {key: value for key, value in named.items() if value is not None}
    kwargs |= dict(args.model_kwargs, num_classes=num_classes)
    kwargs |= _pretrained(args, num_classes)
    size = args.img_size or (args.input_size[1:] if args.input_size else None)
    # A model that is made for one size, as transformers are, takes it; others have no such option.
    attempts = [kwargs] if size is None else [dict(kwargs, img_size=size), kwargs]
    for attempt in attempts:
        try:
            model = timm.create_model(name, **attempt)
            if (getattr(model, "pretrained_cfg", None) or {}).get("state_dict"):
                model.pretrained_cfg["state_dict"] = None  # they are loaded; copies of the model need no copy of them
            return model
        except TypeError as error:
            if "img_size" not in str(error):
                raise ConfigError(f"--model {name} refuses its options: {error}; see --model-kwargs") from error
        except (AssertionError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            raise ConfigError(f"--model {name} refuses its options ({attempt}): {error!r}") from error
        except (OSError, EOFError, RuntimeError, SafetensorError) as error:
            raise ConfigError(
                f"--model {name}: its pretrained weights cannot be loaded: {first_line(error)}"
            ) from error
    raise ConfigError(f"--model {name} refuses --model-kwargs img_size; use --img-size")


def _pretrained(args: argparse.Namespace, num_classes: int) -> dict[str, Any]:
    """The options with which timm loads weights into the model that it makes.

    timm drops a classifier for another number of classes, which is right for fine-tuning only.
    """
    if args.pretrained_path and not args.eval_only:
        # -1: a new head.  Read here, as timm would trust what the file says of its size; it alone reads NumPy's files.
        path = Path(args.pretrained_path)
        ours = path.suffix not in (".npz", ".npy")
        source: dict[str, Any] = {"state_dict": read_weights(path, use_ema=args.use_ema)} if ours else {"file": path}
        if ours:
            source |= {"custom_load": False, "source": ""}
        return {"pretrained": True, "pretrained_cfg_overlay": source | {"num_classes": -1}}
    if not args.pretrained or args.pretrained_path:
        return {}
    if args.eval_only and args.initial_checkpoint:
        return {}  # they would be overwritten
    known = timm.get_pretrained_cfg(args.model)
    if known is not None and known.num_classes != num_classes:
        has = f"the pretrained weights of {args.model} are for {known.num_classes} classes, the data have {num_classes}"
        if args.eval_only:
            raise ConfigError(
                f"--eval-only: {has}; give data whose classes are theirs, or weights with --initial-checkpoint"
            )
        _log.info("%s: their classifier is left out", has)
    return {"pretrained": True}


def _data_config(args: argparse.Namespace, model: nn.Module) -> dict[str, Any]:
    settings = dict(vars(args), interpolation=args.interpolation or None)
    try:
        config = dict(resolve_input_data_config(model, settings))
    except ValueError as error:
        raise ConfigError(f"--model {args.model}: {error}") from error
    if config["interpolation"] == "random":
        config["interpolation"] = "bicubic"
    if config["input_size"][0] != 3:
        raise ConfigError(f"--model {args.model} wants {config['input_size'][0]} channels; images are RGB")
    own = getattr(model, "pretrained_cfg", None) or {}
    tested = own.get("test_input_size")
    if args.eval_only and tested and tuple(tested) != tuple(config["input_size"]) and not args.img_size:
        size, share = tested[1], own.get("test_crop_pct") or config["crop_pct"]
        _log.info(
            "timm's validate.py evaluates %s at %d pixels: --img-size %d --crop-pct %g", args.model, size, size, share
        )
    return config


def _input_sizes(args: argparse.Namespace, model: nn.Module) -> list[tuple[int, int]]:
    """All sizes that ``--train-img-sizes`` will bring."""
    sizes = args.train_img_sizes or []
    if any(getattr(getattr(model, "patch_embed", None), "strict_img_size", False) for _ in sizes):
        raise ConfigError(
            f"--train-img-sizes: {args.model} takes one image size; try --model-kwargs dynamic_img_size=True"
        )
    return [(size, size) for size in sizes]


def _check_patches(model: nn.Module, sizes: list[tuple[int, int]]) -> None:
    """timm's plain patch embedding drops the border that is left over; others overlap, pad or pool."""
    patch_embed = getattr(model, "patch_embed", None)
    if not isinstance(patch_embed, PatchEmbed):
        return
    # It pads, but only with a dynamic size does the position embedding follow.
    if patch_embed.dynamic_img_pad and getattr(model, "dynamic_img_size", False):
        return
    for size in sizes:
        for side, patch in zip(size, patch_embed.patch_size, strict=True):
            if side % patch:
                lower = side // patch * patch
                raise ConfigError(
                    f"--img-size {side}: the patch size {patch} of the model does not divide it; use "
                    f"{lower or patch} or {lower + patch}"
                )


def _adjust(args: argparse.Namespace, model: nn.Module) -> None:
    """What timm's trainer does to a model it has made (``train.py``)."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = module.momentum if args.bn_momentum is None else args.bn_momentum
            module.eps = module.eps if args.bn_eps is None else args.bn_eps
    if args.head_init_scale is not None or args.head_init_bias is not None:
        head = model.get_classifier()  # type: ignore[operator]  # timm's models have it
        if not isinstance(head, nn.Linear):
            raise ConfigError(f"--head-init-scale and --head-init-bias need a linear classifier, not {args.model}'s")
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.mul_(1.0 if args.head_init_scale is None else args.head_init_scale)
            if args.head_init_bias is not None and head.bias is not None:
                head.bias.fill_(args.head_init_bias)
    if args.grad_checkpointing:
        if not hasattr(model, "set_grad_checkpointing"):
            raise ConfigError(f"--grad-checkpointing: {args.model} does not offer it")
        try:
            model.set_grad_checkpointing(enable=True)  # type: ignore[operator]
        except AssertionError as error:
            raise ConfigError(f"--grad-checkpointing: {args.model} does not offer it: {error}") from error


def create_step(args: argparse.Namespace, model: nn.Module, config: dict[str, Any], num_classes: int) -> TrainStep:
    """The methods that the settings choose, and the plain one.

    Raises:
        ConfigError: if one of them cannot serve the model, or an image size.
    """
    chosen = () if args.eval_only else mixing_choices(args)
    methods = [_create_method(kind, args, model, num_classes) for kind in registered() if kind.name in chosen]
    for size in [config["input_size"][1:], *((side, side) for side in args.train_img_sizes or ())]:
        for method in methods:
            method.plan(size, np.random.default_rng(0))
    classify = next((method.classify for method in methods if method.compiled_by_part), None)
    return TrainStep(Plain(model, num_classes, loss=create_loss(args), classify=classify), methods)


def _create_method(kind: type[StepMethod], args: argparse.Namespace, model: nn.Module, num_classes: int) -> StepMethod:
    names = [field.name for field in dataclasses.fields(kind.Options)]
    given = {name: getattr(args, f"{kind.name}_{name}") for name in names if hasattr(args, f"{kind.name}_{name}")}
    return kind(model, num_classes, smoothing=args.smoothing, options=kind.Options(**given))


def load_initial(args: argparse.Namespace, step: TrainStep, classes: Sequence[str]) -> None:
    """Load ``--initial-checkpoint``; what it holds of a method goes to the method.

    With ``--eval-only`` the classifier must be the data's, in their number and order, and ``--pretrained-path`` is no
    different: there is nothing to fine-tune.

    Raises:
        ConfigError: if the weights cannot be read, or do not fit.
    """
    source = args.initial_checkpoint or (args.pretrained_path if args.eval_only else "")
    for each in {args.pretrained_path, args.initial_checkpoint} - {"", None}:
        # A class map is the user's own word on the order, so a difference is then only told.
        check_class_names(Path(each), classes, refuse=args.eval_only and each == source and not args.class_map)
    if source:
        load_weights(step.model, Path(source), step.methods, use_ema=args.use_ema, whole=args.eval_only)


def compile_modules(args: argparse.Namespace, step: TrainStep, device: torch.device) -> None:
    """``--torchcompile``: in place, so that the names in ``state_dict`` stay plain."""
    backend, mode = args.torchcompile, args.torchcompile_mode
    if not backend:
        return
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise ConfigError(f"--torchcompile {backend} is not a backend; there are {', '.join(sorted(known))}")
    if mode not in (None, "default") and backend != "inductor":
        raise ConfigError(f"--torchcompile-mode {mode} is a mode of inductor; leave it out with {backend}")
    if mode in ("reduce-overhead", "max-autotune") and device.type == "cuda" and args.grad_accum_steps > 1:
        raise ConfigError(
            f"--torchcompile-mode {mode}: its CUDA graphs overwrite the gradients that --grad-accum-steps adds up; use "
            "default or max-autotune-no-cudagraphs"
        )
    try:
        step.compile(backend=backend, mode=mode)
    except RuntimeError as error:
        raise ConfigError(f"--torchcompile-mode {mode} is refused: {error}") from error


def create_loss(args: argparse.Namespace) -> Loss:
    """The loss on soft targets of the batches that the pipeline has mixed, or left alone."""
    if not args.bce_loss:
        return soft_cross_entropy
    return BinaryCrossEntropy(
        smoothing=0.0,  # the targets carry it
        target_threshold=args.bce_target_thresh,
        sum_classes=args.bce_sum,
        pos_weight=args.bce_pos_weight,
    )


def build_trainer(args: argparse.Namespace, world: World, step: TrainStep, batches: int) -> tuple[Trainer, int]:
    """The trainer, and the number of epochs with cool-down."""
    optimizer = create_optimizer(args, step.model, step.methods, world)
    precision = Precision(world.device.type, args.amp, args.amp_dtype)
    ema = create_ema(args, step.model)  # before compilation: it copies the model
    step.to(world.device)
    compile_modules(args, step, world.device)
    # Adaptive clipping leaves classifiers alone (Brock 2021, section 4.1), as timm's trainer does.
    clipped = {
        id(parameter): parameter
        for method in step.methods
        for parameter in method.get_clip_parameters(exclude_head=args.clip_mode == "agc")
    }
    parallel = None
    if world.size > 1:
        on_gpu = world.device.type == "cuda"
        # Only where it is not the default: PyTorch 2.15 is about to rename it.
        buffers: dict[str, Any] = {"broadcast_buffers": False} if args.no_ddp_bb else {}
        parallel = DistributedDataParallel(step, device_ids=[world.device] if on_gpu else None, **buffers)
    trainer = Trainer(
        step=step,
        updater=Updater(optimizer, precision, list(clipped.values()), args.clip_grad, args.clip_mode),
        scheduler=None,
        world=world,
        seed=args.seed,
        log_interval=args.log_interval,
        parallel=parallel,
        nonfinite_limit=args.nonfinite_limit,
        accumulate=args.grad_accum_steps,
        ema=ema,
        synchronize=args.synchronize_step,
    )
    trainer.scheduler, epochs = create_scheduler(args, optimizer, trainer.updates_per_epoch(batches))
    return trainer, epochs


def describe(args: argparse.Namespace, trainer: Trainer) -> str:
    """What the defaults came to, in one line."""
    world, precision = trainer.world, trainer.updater.precision
    numbers = str(precision.dtype).removeprefix("torch.") if precision.enabled else "float32"
    total = args.batch_size * world.size * args.grad_accum_steps
    groups: list[dict[str, Any]] = trainer.updater.optimizer.param_groups
    initial = max(group.get("initial_lr", group["lr"]) for group in groups)
    return f"{args.model} on {world.size} x {world.device.type}, {numbers}, {total} images per update, lr {initial:.3g}"
