"""Flags of what is trained, on what: data, model, device, norms, moving average."""

from __future__ import annotations

import argparse
from pathlib import Path

from timm.utils import ParseKwargs

from dali_mix import native
from dali_mix.train.settings.types import (
    Integer,
    batch_size,
    dataset,
    finite,
    fraction,
    image_size,
    memory,
    non_negative,
    non_negative_int,
    positive_int,
    probability,
)

_SWITCH = argparse.BooleanOptionalAction  # so that a recipe's switch can be turned off: --no-amp


def add_data(group: argparse._ArgumentGroup) -> None:
    """Where the images are and how they are read."""
    add = group.add_argument
    add("data", nargs="?", type=Path, metavar="DIR", help="The same as --data-dir (deprecated in timm).")
    add("--data-dir", type=Path, metavar="DIR", help="Folder with train/CLASS/*.jpg and val/CLASS/*.jpg.")
    add(
        "--dataset",
        default="",
        type=dataset,
        metavar="KIND",
        help="Kind of data: image folders only.",
    )
    add("--train-split", default="train", metavar="NAME", help="Sub-folder of the training images.")
    add("--val-split", default="validation", metavar="NAME",
        help="Sub-folder of the validation images; val is found too.")  # fmt: skip
    add(
        "--class-map",
        default="",
        metavar="FILE",
        help="Text file with one class folder a line, in label order; others are left out.",
    )
    add("--pipeline", default="imagenet", metavar="NAME",
        help="Ready-made pipeline: imagenet, or cifar (padded crop of small images).")  # fmt: skip
    add("--exclude-list", type=Path, metavar="FILE", help="Text file of images to leave out, one path a line.")
    add("--num-classes", type=positive_int, metavar="K",
        help="Number of classes, by default that of the class folders.")  # fmt: skip
    add("-b", "--batch-size", type=batch_size, default=128, metavar="N", help="Images per batch and rank.")
    add("-vb", "--validation-batch-size", type=batch_size, metavar="N",
        help="Images per validation batch and rank, by default --batch-size.")  # fmt: skip
    add("-j", "--workers", type=Integer(1, 1024), default=4, metavar="N",
        help="DALI's CPU threads per rank, to decode too.")  # fmt: skip
    add("--dali-device", choices=("gpu", "cpu"), help="Backend of the pipelines, by default where the model is.")
    add("--native", default="auto", choices=native.MODES,
        help="Mix by the native operators: if all ranks can have them, in any case, or not.")  # fmt: skip
    add("--dali-prefetch", type=Integer(1, 1024), default=2, metavar="N", help="Batches that DALI prepares ahead.")
    add("--hw-decoder-load", type=probability, metavar="F",
        help="Share of the images that the GPU's JPEG engine decodes; DALI's default is 0.65.")  # fmt: skip
    add("--preallocate-width-hint", type=non_negative_int, metavar="PX",
        help="Width of the largest image, for which the JPEG engine takes memory at the start.")  # fmt: skip
    add("--preallocate-height-hint", type=non_negative_int, metavar="PX",
        help="Height of the largest image, for which the JPEG engine takes memory at the start.")  # fmt: skip
    add("--device-memory-padding", type=memory, metavar="BYTES",
        help="GPU memory per thread that nvJPEG begins with; DALI's default is 16 MiB.")  # fmt: skip
    add("--host-memory-padding", type=memory, metavar="BYTES",
        help="Host memory per thread that nvJPEG begins with; DALI's default is 8 MiB.")  # fmt: skip


def add_model(group: argparse._ArgumentGroup) -> None:
    """The model and the images it wants."""
    add = group.add_argument
    add("--model", default="resnet50", metavar="NAME", help="Model of timm or of dali_mix.models.")
    add("--pretrained", action=_SWITCH, default=False, help="Start from timm's weights.")
    add("--pretrained-path", metavar="FILE", help="Weights to use as if they were timm's pretrained ones.")
    add("--initial-checkpoint", default="", metavar="FILE", help="Weights to start from, or to evaluate.")
    add("--use-ema", action="store_true", help="Take the moving average that the file of weights holds beside them.")
    add("--model-kwargs", nargs="*", default={}, action=ParseKwargs, metavar="K=V",
        help="Arguments for the model, as NAME=VALUE.")  # fmt: skip
    add("--gp", metavar="POOL",
        help="Global pooling: fast, avg, max, avgmax, avgmaxc or token; by default the model's.")  # fmt: skip
    add("--img-size", type=image_size, metavar="PX", help="Side of the images, by default the model's.")
    add("--in-chans", type=positive_int, metavar="N", help="Channels of the images; the pipeline makes three.")
    add("--input-size", type=image_size, nargs=3, metavar="N", help="Channels, height and width of the images.")
    add("--mean", type=finite, nargs="+", metavar="M", help="Mean for the normalization, by default the model's.")
    add("--std", type=finite, nargs="+", metavar="S",
        help="Standard deviation for the normalization, by default the model's.")  # fmt: skip
    add("--crop-pct", type=fraction, metavar="SHARE",
        help="Share of the image that validation crops, by default the model's.")  # fmt: skip
    add("--interpolation", default="", choices=("", "bicubic", "bilinear", "lanczos", "nearest"),
        help="Interpolation of the validation images, by default the model's.")  # fmt: skip
    add("--drop", type=probability, default=0.0, metavar="RATE", help="Dropout rate.")
    add("--drop-path", type=probability, metavar="RATE", help="Rate of stochastic depth, by default the model's.")
    add("--drop-block", type=probability, metavar="RATE", help="Drop block rate, by default the model's.")
    add("--head-init-scale", type=finite, metavar="F", help="Factor on the classifier's initial weights.")
    add("--head-init-bias", type=finite, metavar="B", help="Initial bias of the classifier.")
    add("--grad-checkpointing", action=_SWITCH, default=False,
        help="Recompute activations in the backward pass to save memory.")  # fmt: skip
    add("--fast-norm", action=_SWITCH, default=False, help="Compute timm's norms in the lower precision under --amp.")
    add("--torchcompile", nargs="?", const="inductor", metavar="BACKEND",
        help="Compile the step, by inductor or this backend.")  # fmt: skip
    add("--torchcompile-mode", metavar="MODE",
        help="Mode of inductor: default, reduce-overhead, max-autotune or max-autotune-no-cudagraphs.")  # fmt: skip


def add_device(group: argparse._ArgumentGroup) -> None:
    """Where and how exactly it computes."""
    add = group.add_argument
    add("--device", choices=("cuda", "cpu"), help="Device of the model, by default cuda where there is one.")
    add("--channels-last", action=_SWITCH, default=True,
        help="Keep the model in the memory layout of the pipeline's images.")  # fmt: skip
    add("--amp", action=_SWITCH, default=False, help="Train and evaluate in mixed precision.")
    add("--amp-dtype", choices=("float16", "bfloat16"),
        help="Type under --amp, by default bfloat16 where the device has it, else float16.")  # fmt: skip
    add("--no-ddp-bb", action="store_true", help="Broadcast no buffers before each distributed forward.")
    add("--synchronize-step", action=_SWITCH, default=False, help="Wait for the device after every step.")
    add("--deterministic", action=_SWITCH, default=False,
        help="Give the same bits for the same flags and machine; this is slower.")  # fmt: skip
    add("--local_rank", "--local-rank", type=int, default=0, help="Ignored, as torchrun's environment counts.")


def add_norm_and_ema(group: argparse._ArgumentGroup) -> None:
    """Batch norm, and the moving average of the weights."""
    add = group.add_argument
    add("--bn-momentum", type=probability, metavar="M", help="Momentum of every batch norm, by default the model's.")
    add("--bn-eps", type=non_negative, metavar="EPS", help="Epsilon of every batch norm, by default the model's.")
    add("--sync-bn", action=_SWITCH, default=False, help="Take batch statistics over all ranks.")
    add("--dist-bn", default="reduce", choices=("reduce", "broadcast", ""),
        help="What happens to running statistics after an epoch of several ranks.")  # fmt: skip
    add("--model-ema", action=_SWITCH, default=False, help="Keep a moving average of the weights, and evaluate it.")
    add("--model-ema-force-cpu", action=_SWITCH, default=False,
        help="Keep the average on the CPU, where it is not evaluated.")  # fmt: skip
    add("--model-ema-decay", type=probability, default=0.9998, metavar="D", help="Decay of the average per update.")
    add("--model-ema-warmup", action=_SWITCH, default=False, help="Begin with a smaller decay.")
