"""What is trained, where, and how exactly it computes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from dali_mix.options import (
    Needs,
    finite,
    fraction,
    integer,
    non_negative,
    option,
    positive_int,
    probability,
)

_free = partial(option, changes_weights=False)

image_size = integer(1, 8192)
"""A side in pixels; a transformer's position embedding of a larger one fills the memory before anything is refused."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """The model and the images it wants."""

    model: str = option("resnet50", None, "Model of timm or of dali_mix.models.", metavar="NAME")
    pretrained: bool = option(False, help="Start from timm's weights.")
    pretrained_path: str | None = option(None, None, "Weights to use as if they were timm's pretrained ones.",
        metavar="FILE", path=True)  # fmt: skip
    initial_checkpoint: str = option("", None, "Weights to start from, or to evaluate.", metavar="FILE", path=True)
    use_ema: bool = option(False, help="Take the moving average that the file of weights holds beside them.",
        needs=Needs(("initial_checkpoint", "pretrained_path")), negatable=False)  # fmt: skip
    model_kwargs: dict[str, Any] = option({}, None, "Arguments for the model, as NAME=VALUE.", pairs=True,
        metavar="K=V")  # fmt: skip
    gp: str | None = option(None, None,
        "Global pooling: fast, avg, max, avgmax, avgmaxc or token; by default the model's.",
        metavar="POOL")  # fmt: skip
    img_size: int | None = option(None, image_size, "Side of the images, by default the model's.", metavar="PX")
    in_chans: int | None = option(None, positive_int, "Channels of the images; the pipeline makes three.", metavar="N")
    input_size: tuple[int, int, int] | None = option(None, image_size, "Channels, height and width of the images.",
        nargs=3, metavar="N")  # fmt: skip
    mean: tuple[float, ...] | None = option(None, finite, "Mean for the normalization, by default the model's.",
        nargs="+", metavar="M")  # fmt: skip
    std: tuple[float, ...] | None = option(None, finite,
        "Standard deviation for the normalization, by default the model's.", nargs="+", metavar="S")  # fmt: skip
    crop_pct: float | None = option(None, fraction,
        "Share of the image that validation crops, by default the model's.", metavar="SHARE")  # fmt: skip
    interpolation: str = option("", None, "Interpolation of the validation images, by default the model's.",
        choices=("", "bicubic", "bilinear", "lanczos", "nearest"))  # fmt: skip
    drop: float = option(0.0, probability, "Dropout rate.", metavar="RATE")
    drop_path: float | None = option(None, probability, "Rate of stochastic depth, by default the model's.",
        metavar="RATE")  # fmt: skip
    drop_block: float | None = option(None, probability, "Drop block rate, by default the model's.", metavar="RATE")
    head_init_scale: float | None = option(None, finite, "Factor on the classifier's initial weights.", metavar="F")
    head_init_bias: float | None = option(None, finite, "Initial bias of the classifier.", metavar="B")
    grad_checkpointing: bool = option(False, help="Recompute activations in the backward pass to save memory.")
    fast_norm: bool = option(False, help="Compute timm's norms in the lower precision under --amp.", needs="amp")
    torchcompile: str | None = option(None, None, "Compile the step, by inductor or this backend.", nargs="?",
        const="inductor", metavar="BACKEND")  # fmt: skip
    torchcompile_mode: str | None = option(None, None,
        "Mode of inductor: default, reduce-overhead, max-autotune or max-autotune-no-cudagraphs.",
        needs="torchcompile", metavar="MODE")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where it computes."""

    device: str | None = _free(None, None, "Device of the model, by default cuda where there is one.",
        choices=("cuda", "cpu"))  # fmt: skip
    channels_last: bool = option(True, help="Keep the model in the memory layout of the pipeline's images.")
    no_ddp_bb: bool = option(False, help="Broadcast no buffers before each distributed forward.", negatable=False)
    synchronize_step: bool = _free(False, help="Wait for the device after every step.")
    deterministic: bool = option(False, help="Give the same bits for the same flags and machine; this is slower.")


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How exactly it computes."""

    amp: bool = option(False, help="Train and evaluate in mixed precision.")
    amp_dtype: str | None = option(None, None,
        "Type under --amp, by default bfloat16 where the device has it, else float16.", needs="amp",
        choices=("float16", "bfloat16"))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BatchNorm:
    """Batch norms, and what several ranks make of their statistics."""

    bn_momentum: float | None = option(None, probability, "Momentum of every batch norm, by default the model's.",
        metavar="M")  # fmt: skip
    bn_eps: float | None = option(None, non_negative, "Epsilon of every batch norm, by default the model's.",
        metavar="EPS")  # fmt: skip
    sync_bn: bool = option(False, help="Take batch statistics over all ranks.")
    dist_bn: str = option("reduce", None, "What happens to running statistics after an epoch of several ranks.",
        choices=("reduce", "broadcast", ""))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Ema:
    """The moving average of the weights."""

    model_ema: bool = option(False, help="Keep a moving average of the weights, and evaluate it.")
    model_ema_force_cpu: bool = option(False, help="Keep the average on the CPU, where it is not evaluated.",
        needs="model_ema")  # fmt: skip
    model_ema_decay: float = option(0.9998, probability, "Decay of the average per update.", needs="model_ema",
        metavar="D")  # fmt: skip
    model_ema_warmup: bool = option(False, help="Begin the average with a smaller decay.", needs="model_ema")

    @property
    def evaluated(self) -> bool:
        """Whether there is an average that is evaluated beside the model."""
        return self.model_ema and not self.model_ema_force_cpu
