"""Flags of what is trained, on what: data, model, device, norms, moving average."""

from __future__ import annotations

import argparse
from pathlib import Path

from timm.utils import ParseKwargs

from dali_mix import native
from dali_mix.train.config.types import finite, fraction, non_negative, non_negative_int, positive_int, probability

_SWITCH = argparse.BooleanOptionalAction  # so that a recipe's switch can be turned off: --no-amp


def add_data(group: argparse._ArgumentGroup) -> None:
    """Where the images are and how they are read."""
    add = group.add_argument
    add("data", nargs="?", type=Path, metavar="DIR", help="the same as --data-dir (deprecated in timm)")
    add("--data-dir", type=Path, metavar="DIR", help="folder with train/CLASS/*.jpg and val/CLASS/*.jpg")
    add("--dataset", default="", choices=("", "folder"), help="kind of data: image folders")
    add("--train-split", default="train", metavar="NAME", help="sub-folder of the training images")
    add("--val-split", default="validation", metavar="NAME", help="sub-folder of the validation images; also val")
    add("--class-map", default="", metavar="FILE", help="text file with one class folder a line, in label order")
    add("--pipeline", default="imagenet", metavar="NAME", help="imagenet, or cifar (padded crop of small images)")
    add("--exclude-list", type=Path, metavar="FILE", help="text file of images to leave out, one path a line")
    add("--num-classes", type=positive_int, metavar="K", help="default: the number of class folders")
    add("-b", "--batch-size", type=positive_int, default=128, metavar="N", help="images per batch and rank")
    add("-vb", "--validation-batch-size", type=positive_int, metavar="N", help="default: --batch-size")
    add("-j", "--workers", type=positive_int, default=4, metavar="N", help="DALI's CPU threads per rank, to decode too")
    add("--dali-device", choices=("gpu", "cpu"), help="backend of the pipelines; default: where the model is")
    add("--native", default="auto", choices=native.MODES,
        help="mix by the native operators: if they can be had on all ranks, in any case, or not")  # fmt: skip
    add("--dali-prefetch", type=positive_int, default=2, metavar="N", help="batches that DALI prepares ahead")
    add("--hw-decoder-load", type=probability, metavar="F", help="share that the GPU's JPEG engine decodes; DALI: 0.65")
    add("--preallocate-width-hint", type=non_negative_int, metavar="PX", help="of the largest image; for the engine")
    add("--preallocate-height-hint", type=non_negative_int, metavar="PX", help="of the largest image; for the engine")
    add("--device-memory-padding", type=non_negative_int, metavar="BYTES", help="to decode, per thread; DALI: 16 MiB")
    add("--host-memory-padding", type=non_negative_int, metavar="BYTES", help="to decode, per thread; DALI: 8 MiB")


def add_model(group: argparse._ArgumentGroup) -> None:
    """The model and the images it wants."""
    add = group.add_argument
    add("--model", default="resnet50", metavar="NAME", help="a model of timm or of dali_mix.models")
    add("--pretrained", action=_SWITCH, default=False, help="start from timm's weights")
    add("--pretrained-path", metavar="FILE", help="weights to use as if they were timm's pretrained ones")
    add("--initial-checkpoint", default="", metavar="FILE", help="weights to start from, or to evaluate")
    add("--model-kwargs", nargs="*", default={}, action=ParseKwargs, metavar="K=V", help="passed to the model")
    add("--gp", metavar="POOL", help="global pooling: fast, avg, max, avgmax, avgmaxc, token")
    add("--img-size", type=positive_int, metavar="PX", help="default: the model's")
    add("--in-chans", type=positive_int, metavar="N", help="the pipeline makes three")
    add("--input-size", type=positive_int, nargs=3, metavar="N", help="channels, height and width")
    add("--mean", type=finite, nargs="+", metavar="M", help="of the normalisation; default: the model's")
    add("--std", type=finite, nargs="+", metavar="S", help="of the normalisation; default: the model's")
    add("--crop-pct", type=fraction, metavar="SHARE", help="of the validation crop; default: the model's")
    add("--interpolation", default="", choices=("", "bicubic", "bilinear", "lanczos", "nearest"), help="of validation")
    add("--drop", type=probability, default=0.0, metavar="RATE", help="dropout")
    add("--drop-path", type=probability, metavar="RATE", help="stochastic depth")
    add("--drop-block", type=probability, metavar="RATE", help="drop block")
    add("--head-init-scale", type=finite, metavar="F", help="factor on the classifier's initial weights")
    add("--head-init-bias", type=finite, metavar="B", help="the classifier's initial bias")
    add("--grad-checkpointing", action=_SWITCH, default=False, help="recompute activations in the backward pass")
    add("--fast-norm", action=_SWITCH, default=False, help="timm's norms in the lower precision under --amp")
    add("--torchcompile", nargs="?", const="inductor", metavar="BACKEND", help="compile the step")
    add("--torchcompile-mode", metavar="MODE", help="default, reduce-overhead or max-autotune")


def add_device(group: argparse._ArgumentGroup) -> None:
    """Where and how exactly it computes."""
    add = group.add_argument
    add("--device", choices=("cuda", "cpu"), help="default: cuda where there is one")
    add("--channels-last", action=_SWITCH, default=True, help="memory layout of the model, as the pipeline's images")
    add("--amp", action=_SWITCH, default=False, help="mixed precision")
    add("--amp-dtype", choices=("float16", "bfloat16"), help="default: bfloat16 where the device has it, else float16")
    add("--no-ddp-bb", action="store_true", help="no broadcast of buffers before each distributed forward")
    add("--synchronize-step", action=_SWITCH, default=False, help="wait for the device after every step")
    add("--deterministic", action=_SWITCH, default=False, help="the same bits for the same flags and machine; slower")
    add("--local_rank", "--local-rank", type=int, default=0, help="ignored: torchrun's environment counts")


def add_norm_and_ema(group: argparse._ArgumentGroup) -> None:
    """Batch norm, and the moving average of the weights."""
    add = group.add_argument
    add("--bn-momentum", type=probability, metavar="M", help="of every batch norm")
    add("--bn-eps", type=non_negative, metavar="EPS", help="of every batch norm")
    add("--sync-bn", action=_SWITCH, default=False, help="batch statistics over all ranks")
    add("--dist-bn", default="reduce", choices=("reduce", "broadcast", ""), help="running statistics after an epoch")
    add("--model-ema", action=_SWITCH, default=False, help="keep a moving average of the weights and evaluate it")
    add("--model-ema-force-cpu", action=_SWITCH, default=False, help="keep it on the CPU; it is then not evaluated")
    add("--model-ema-decay", type=probability, default=0.9998, metavar="D", help="per update")
    add("--model-ema-warmup", action=_SWITCH, default=False, help="begin with a smaller decay")
