"""The model, the methods, the loss and the trainer; what cannot work is refused here, in one line."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Sequence
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
from dali_mix.methods import Plain, registered
from dali_mix.methods.losses import soft_cross_entropy
from dali_mix.train.class_names import check_class_names
from dali_mix.train.distributed import World
from dali_mix.train.loop import Trainer
from dali_mix.train.optimizer import Precision, create_ema, create_optimizer, create_scheduler, learning_rate
from dali_mix.train.settings.choices import shares
from dali_mix.train.settings.sections import BatchNorm, Model, Settings
from dali_mix.train.settings.sections import Loss as LossSettings
from dali_mix.train.step import TrainStep
from dali_mix.train.updater import Updater
from dali_mix.train.weights import load_weights, read_weights

_log = logging.getLogger(__name__)

Loss = Callable[[Tensor, Tensor], Tensor]
_BATCH_NORM = BatchNorm()


def create_model(
    section: Model,
    num_classes: int,
    device: torch.device,
    *,
    batch_norm: BatchNorm = _BATCH_NORM,
    channels_last: bool = True,
    eval_only: bool = False,
) -> tuple[nn.Module, dict[str, Any]]:
    """Create a model on this rank's device, and its data config (timm's ``resolve_input_data_config``).

    Args:
        section: which model, and what images it wants.
        num_classes: of the data.
        device: of this rank.
        batch_norm: what its batch norms are set to.
        channels_last: whether its weights have that memory layout.
        eval_only: whether there is nothing to train, so that weights must fit as they are.

    Raises:
        ConfigError: for settings that the model does not take.
    """
    if section.fast_norm:
        set_fast_norm()
    model = _create(section, num_classes, eval_only)
    config = _data_config(section, model, eval_only)
    check_patches(model, [config["input_size"][1:]])
    _adjust(section, batch_norm, model)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return model.to(device).to(memory_format=layout), config


def synchronized(model: nn.Module, world: World) -> nn.Module:
    """Give a model batch norms that take their statistics over all ranks (``--sync-bn``)."""
    if world.size == 1:
        return model
    if world.device.type != "cuda":
        raise ConfigError("--sync-bn works on GPUs only; leave it out, --dist-bn reduce averages the statistics")
    return convert_sync_batchnorm(model)


def _create(section: Model, num_classes: int, eval_only: bool) -> nn.Module:
    name = section.model
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() lists them"
        raise ConfigError(f"--model {name} is not a model of timm {timm.__version__}; {hint}")
    for key, flag in (("num_classes", "--num-classes"), ("in_chans", None), ("pretrained", "--pretrained")):
        if key in section.model_kwargs and (flag or section.model_kwargs[key] != 3):
            hint = f"use {flag}" if flag else "the pipeline makes RGB images, three channels"
            raise ConfigError(f"--model-kwargs {key} cannot be set: {hint}")
    named: dict[str, Any] = {
        "drop_rate": section.drop or None,
        "drop_path_rate": section.drop_path,
        "drop_block_rate": section.drop_block,
        "global_pool": section.gp,
    }
    kwargs = {key: value for key, value in named.items() if value is not None}
    kwargs |= dict(section.model_kwargs, num_classes=num_classes)
    kwargs |= _pretrained(section, num_classes, eval_only)
    size = section.img_size or (section.input_size[1:] if section.input_size else None)
    # A model that is made for one size, as transformers are, takes it; others have no such option.
    attempts = [kwargs] if size is None else [dict(kwargs, img_size=size), kwargs]
    for attempt in attempts:
        try:
            model = timm.create_model(name, **attempt)
            described = getattr(model, "pretrained_cfg", None) or {}
            if described.get("state_dict"):
                described["state_dict"] = None  # they are loaded; copies of the model need no copy of them
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


def _pretrained(section: Model, num_classes: int, eval_only: bool) -> dict[str, Any]:
    """The options with which timm loads weights into the model that it makes.

    timm drops a classifier for another number of classes, which is right for fine-tuning only.
    """
    if section.pretrained_path and not eval_only:
        # -1: a new head.  Read here, as timm would trust what the file says of its size; it alone reads NumPy's files.
        path = Path(section.pretrained_path)
        ours = path.suffix not in (".npz", ".npy")
        source: dict[str, Any] = {"state_dict": read_weights(path, use_ema=section.use_ema)} if ours else {"file": path}
        if ours:
            source |= {"custom_load": False, "source": ""}
        return {"pretrained": True, "pretrained_cfg_overlay": source | {"num_classes": -1}}
    if not section.pretrained or section.pretrained_path:
        return {}
    if eval_only and section.initial_checkpoint:
        return {}  # they would be overwritten
    known = timm.get_pretrained_cfg(section.model)
    if known is not None and known.num_classes != num_classes:
        counts = f"for {known.num_classes} classes, the data have {num_classes}"
        has = f"the pretrained weights of {section.model} are {counts}"
        if eval_only:
            raise ConfigError(
                f"--eval-only: {has}; give data whose classes are theirs, or weights with --initial-checkpoint"
            )
        _log.info("%s: their classifier is left out", has)
    return {"pretrained": True}


def _data_config(section: Model, model: nn.Module, eval_only: bool) -> dict[str, Any]:
    settings = dict(vars(section), interpolation=section.interpolation or None)
    try:
        config = dict(resolve_input_data_config(model, settings))
    except ValueError as error:
        raise ConfigError(f"--model {section.model}: {error}") from error
    if config["interpolation"] == "random":
        config["interpolation"] = "bicubic"
    if config["input_size"][0] != 3:
        raise ConfigError(f"--model {section.model} wants {config['input_size'][0]} channels; images are RGB")
    known = getattr(model, "pretrained_cfg", None) or {}
    tested = known.get("test_input_size")
    if eval_only and tested and tuple(tested) != tuple(config["input_size"]) and not section.img_size:
        size, share = tested[1], known.get("test_crop_pct") or config["crop_pct"]
        _log.info(
            "timm's validate.py evaluates %s at %d pixels: --img-size %d --crop-pct %g",
            section.model,
            size,
            size,
            share,
        )
    return config


def check_sizes(model: nn.Module, name: str, sizes: Sequence[int]) -> None:
    """Refuse what ``--train-img-sizes`` will bring to a model that takes one size.

    Raises:
        ConfigError: see there.
    """
    if sizes and getattr(getattr(model, "patch_embed", None), "strict_img_size", False):
        raise ConfigError(f"--train-img-sizes: {name} takes one image size; try --model-kwargs dynamic_img_size=True")
    check_patches(model, [(size, size) for size in sizes])


def check_patches(model: nn.Module, sizes: list[tuple[int, int]]) -> None:
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


def _adjust(section: Model, batch_norm: BatchNorm, model: nn.Module) -> None:
    """What timm's trainer does to a model it has made (``train.py``)."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = module.momentum if batch_norm.bn_momentum is None else batch_norm.bn_momentum
            module.eps = module.eps if batch_norm.bn_eps is None else batch_norm.bn_eps
    if section.head_init_scale is not None or section.head_init_bias is not None:
        head = model.get_classifier()  # type: ignore[operator]  # timm's models have it
        if not isinstance(head, nn.Linear):
            raise ConfigError(f"--head-init-scale and --head-init-bias need a linear classifier, not {section.model}'s")
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.mul_(1.0 if section.head_init_scale is None else section.head_init_scale)
            if section.head_init_bias is not None and head.bias is not None:
                head.bias.fill_(section.head_init_bias)
    if section.grad_checkpointing:
        if not hasattr(model, "set_grad_checkpointing"):
            raise ConfigError(f"--grad-checkpointing: {section.model} does not offer it")
        try:
            model.set_grad_checkpointing(enable=True)  # type: ignore[operator]
        except AssertionError as error:
            raise ConfigError(f"--grad-checkpointing: {section.model} does not offer it: {error}") from error


def create_step(
    settings: Settings, model: nn.Module, num_classes: int, sizes_px: Iterable[tuple[int, int]] = ()
) -> TrainStep:
    """Create the methods that the settings choose, and the plain one.

    Args:
        settings: of the run.
        model: on its device.
        num_classes: of the data.
        sizes_px: (H, W) of all images that will come.

    Raises:
        ConfigError: if a method cannot serve the model, or an image size.
    """
    chosen = () if settings.run.eval_only else shares(settings)
    options, smoothing = settings.options, settings.mixing.smoothing
    # A name may be a method's of the graph too, whose options are not the step's.
    methods = [
        kind(model, num_classes, smoothing=smoothing, options=own if isinstance(own, kind.Options) else None)
        for kind in registered()
        if kind.name in chosen
        for own in [options.get(kind.name)]
    ]
    for size in sizes_px:
        for method in methods:
            method.plan(size, np.random.default_rng(0))
    classify = next((method.classify for method in methods if method.compiled_by_part), None)
    return TrainStep(Plain(model, num_classes, loss=create_loss(settings.loss), classify=classify), methods)


def load_initial(
    section: Model, step: TrainStep, classes: Sequence[str], *, eval_only: bool = False, mapped: bool = False
) -> None:
    """Load ``--initial-checkpoint``; what it holds of a method goes to the method.

    With ``--eval-only`` the classifier must be the data's, in their number and order, and ``--pretrained-path`` is no
    different: there is nothing to fine-tune.

    Args:
        section: names the weights.
        step: to load them into.
        classes: of the data.
        eval_only: see above.
        mapped: whether the order of the classes is the user's own (``--class-map``).

    Raises:
        ConfigError: if the weights cannot be read, or do not fit.
    """
    source = section.initial_checkpoint or (section.pretrained_path if eval_only else "")
    for each in filter(None, {section.pretrained_path, section.initial_checkpoint}):
        # A class map is the user's own word on the order, so a difference is then only told.
        check_class_names(Path(each), classes, refuse=eval_only and each == source and not mapped)
    if source:
        load_weights(step.model, Path(source), step.methods, use_ema=section.use_ema, whole=eval_only)


def compile_modules(
    step: TrainStep, device: torch.device, backend: str | None, mode: str | None = None, *, accumulates: bool = False
) -> None:
    """Compile for ``--torchcompile``: in place, so that the names in ``state_dict`` stay plain.

    Args:
        step: to compile.
        device: of the step.
        backend: of ``torch.compile``; None compiles nothing.
        mode: of inductor.
        accumulates: whether gradients of several batches are added up.

    Raises:
        ConfigError: for a backend or mode that does not exist, or does not go with the rest.
    """
    if not backend:
        return
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise ConfigError(f"--torchcompile {backend} is not a backend; there are {', '.join(sorted(known))}")
    if mode not in (None, "default") and backend != "inductor":
        raise ConfigError(f"--torchcompile-mode {mode} is a mode of inductor; leave it out with {backend}")
    if mode in ("reduce-overhead", "max-autotune") and device.type == "cuda" and accumulates:
        raise ConfigError(
            f"--torchcompile-mode {mode}: its CUDA graphs overwrite the gradients that --grad-accum-steps adds up; use "
            "default or max-autotune-no-cudagraphs"
        )
    try:
        step.compile(backend=backend, mode=mode)
    except RuntimeError as error:
        raise ConfigError(f"--torchcompile-mode {mode} is refused: {error}") from error


def create_loss(section: LossSettings) -> Loss:
    """Create the loss on soft targets of the batches that the pipeline has mixed, or left alone."""
    if not section.bce_loss:
        return soft_cross_entropy
    return BinaryCrossEntropy(
        smoothing=0.0,  # the targets carry it
        target_threshold=section.bce_target_thresh,
        sum_classes=section.bce_sum,
        pos_weight=section.bce_pos_weight,
    )


def build_trainer(settings: Settings, world: World, step: TrainStep, batches: int) -> tuple[Trainer, int]:
    """Build the trainer, and tell the number of epochs with cool-down.

    Args:
        settings: of the run.
        world: this rank.
        step: from :func:`create_step`.
        batches: of an epoch on this rank.
    """
    section, schedule = settings.optimizer, settings.schedule
    lr = learning_rate(schedule, section.opt, images_per_update(settings, world))
    optimizer = create_optimizer(section, lr, step.model, step.methods, world.device)
    precision = Precision(world.device.type, settings.precision.amp, settings.precision.amp_dtype)
    ema = create_ema(settings.ema, step.model)  # before compilation: it copies the model
    step.to(world.device)
    compiler, accumulates = settings.model, section.grad_accum_steps > 1
    compile_modules(step, world.device, compiler.torchcompile, compiler.torchcompile_mode, accumulates=accumulates)
    # Adaptive clipping leaves classifiers alone (Brock 2021, section 4.1), as timm's trainer does.
    clipped = {
        id(parameter): parameter
        for method in step.methods
        for parameter in method.get_clip_parameters(exclude_head=section.clip_mode == "agc")
    }
    trainer = Trainer(
        step=step,
        updater=Updater(optimizer, precision, list(clipped.values()), section.clip_grad, section.clip_mode),
        scheduler=None,
        world=world,
        seed=settings.run.seed,
        log=settings.log,
        recovery=settings.recovery,
        parallel=_in_parallel(step, world, settings.device.no_ddp_bb),
        accumulate=section.grad_accum_steps,
        ema=ema,
        synchronize=settings.device.synchronize_step,
    )
    updates = trainer.updates_per_epoch(batches)
    trainer.scheduler, epochs = create_scheduler(schedule, settings.run.seed, optimizer, updates)
    return trainer, epochs


def _in_parallel(step: TrainStep, world: World, keep_buffers: bool) -> DistributedDataParallel | None:
    if world.size == 1:
        return None
    # Only where it is not the default: PyTorch 2.15 is about to rename it.
    buffers: dict[str, Any] = {"broadcast_buffers": False} if keep_buffers else {}
    return DistributedDataParallel(step, device_ids=[world.device] if world.device.type == "cuda" else None, **buffers)


def images_per_update(settings: Settings, world: World) -> int:
    """Count the images of an update, over all ranks and accumulated batches."""
    return settings.reading.batch_size * world.size * settings.optimizer.grad_accum_steps


def describe(settings: Settings, trainer: Trainer) -> str:
    """Tell in one line what the defaults came to."""
    world, precision = trainer.world, trainer.updater.precision
    numbers = str(precision.dtype).removeprefix("torch.") if precision.enabled else "float32"
    total = images_per_update(settings, world)
    groups: list[dict[str, Any]] = trainer.updater.optimizer.param_groups
    initial = max(group.get("initial_lr", group["lr"]) for group in groups)
    return (
        f"{settings.model.model} on {world.size} x {world.device.type}, {numbers}, {total} images per update, "
        f"lr {initial:.3g}"
    )
