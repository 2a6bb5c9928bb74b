"""What SMMix asks of a model, and the register of those that can answer.

Shapes: B batch, A heads, N tokens with prefix, D width, h/w token grid, K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from timm.models import checkpoint
from torch import Tensor, nn

from dali_mix.errors import ConfigError

_FAMILIES: dict[type[nn.Module], type[Adapter]] = {}
_AdapterType = TypeVar("_AdapterType", bound="type[Adapter]")

ALL_TOKENS = slice(None)
CLASS_TOKEN = slice(0, 1)


class Adapter(ABC):
    """Runs one family of models in two parts, cut before the block of the last attention.

    Both ends give the logits of ``model(images)``: :meth:`finish` with the tokens, for training, :meth:`observe`
    with the attention.  The parts are plain functions of tensors: no hook has to fire, and each can be compiled.

    Args:
        model: of the type that the adapter is registered for.

    Raises:
        ConfigError: for a model of this type whose last attention cannot be read.

    Fields:
        examples: names of timm models, for messages.
        model: as given.
        cell_px: height and width in pixels that one token of the last attention stands for.
        prefix: tokens before the image tokens, in the last attention and after the final norm.
        width: D, of the tokens after the final norm.
    """

    examples: ClassVar[str]
    model: nn.Module
    cell_px: tuple[int, int]
    prefix: int
    width: int

    @abstractmethod
    def __init__(self, model: nn.Module) -> None: ...

    @abstractmethod
    def trunk(self, images: Tensor) -> Tensor:
        """Compute what enters the block of the last attention, (B, N, D), from images (B, 3, H, W)."""

    @abstractmethod
    def finish(self, hidden: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Compute the rest of the forward.

        Args:
            hidden: from :meth:`trunk`.
            grid: (h, w).

        Returns:
            logits (B, K) and the image tokens after the final norm (B, h*w, D).
        """

    @abstractmethod
    def observe(self, hidden: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Compute the rest of the forward with the last attention written out; for a model in eval mode.

        The fused kernel keeps its attention to itself.  What no logit depends on is left out.

        Args:
            hidden: from :meth:`trunk`.
            grid: (h, w).

        Returns:
            logits (B, K) and what each image token receives in the last attention, float32 (B, h*w).
        """

    def classify(self, features: Tensor) -> Tensor:
        """Apply the model's own classifier to normed features (B, D)."""
        return self.model.get_submodule("head")(features)

    def grid(self, size_px: Sequence[int]) -> tuple[int, int]:
        """Return rows and columns of image tokens for images of (H, W) pixels.

        Raises:
            ConfigError: if the cells do not divide the image, whose border would be lost.
        """
        height, width = size_px
        cell_h, cell_w = self.cell_px
        if height % cell_h or width % cell_w:
            raise ConfigError(
                f"the patch size {cell_h} x {cell_w} must divide the image size, got {height} x {width} pixels"
            )
        return height // cell_h, width // cell_w


def serves(model_type: type[nn.Module]) -> Callable[[_AdapterType], _AdapterType]:
    """Register an adapter for a type of model and its subclasses."""

    def register(adapter: _AdapterType) -> _AdapterType:
        _FAMILIES[model_type] = adapter
        return adapter

    return register


def adapter_for(model: nn.Module) -> Adapter:
    """Find the adapter of a model.

    Raises:
        ConfigError: for a model of no known family; the message lists those that work.
    """
    for ancestor in type(model).__mro__:
        if ancestor in _FAMILIES:
            _check_forward(model, ancestor)
            return _FAMILIES[ancestor](model)
    if type(model).__name__ in ("OptimizedModule", "DistributedDataParallel", "DataParallel"):
        raise ConfigError(
            f"SMMix needs the model itself, got it inside {type(model).__name__}; make the stage first, then wrap or "
            "compile the stage"
        )
    works = "; ".join(dict.fromkeys(family.examples for family in _FAMILIES.values()))
    raise ConfigError(
        f"SMMix cannot serve {type(model).__name__}: it needs image tokens and their attention to each other; use one "
        f"of {works}; or train this model with --cutmix / --mixup"
    )


def _check_forward(model: nn.Module, served: Any) -> None:
    """An adapter writes the forward of its family out: another one would be passed over in silence."""
    for name in ("forward", "forward_features"):
        if not same_method(model, served, name):
            raise ConfigError(
                f"SMMix cannot serve {type(model).__name__}: it has its own {name}, which SMMix does not run; register "
                f"an adapter for it, or use {served.__name__} itself"
            )


def same_method(module: nn.Module, expected: Any, name: str = "forward") -> bool:
    """Whether a module runs the method of an expected type, and not one of its own."""
    return getattr(type(module), name, None) is getattr(expected, name, None)


def run_block(block: nn.Module, *inputs: Any, checkpointed: bool) -> Tensor:
    """Compute a block's output; recomputed in the backward pass if ``checkpointed``."""
    if checkpointed and torch.is_grad_enabled():
        return checkpoint(block, *inputs)
    return block(*inputs)


def softmax_attention(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """float32 (B, A, N, N) from query and key (B, A, N, D / A)."""
    return torch.softmax((q * scale) @ k.transpose(-2, -1), dim=-1, dtype=torch.float32)


def attend(weights: Tensor, values: Tensor, queries: slice) -> Tensor:
    """Compute the output (B, n, D) of an attention for some of its queries.

    Args:
        weights: (B, A, N, N), after the softmax.
        values: (B, A, N, D / A).
        queries: n of the N tokens.
    """
    return (weights[:, :, queries].to(values.dtype) @ values).transpose(1, 2).flatten(2)


def mean_received(weights: Tensor, prefix: int) -> Tensor:
    """Compute the softmax attention averaged over heads and image-token queries, prefix tokens dropped from both sides.

    Args:
        weights: (B, A, N, N), after the softmax.
        prefix: number of tokens to drop.

    Source: ChenMnZ/SMMix @14b1edc ``deit.py``: ``attn[:, :, 1:, 1:].mean(dim=(1, 2))``; not
    renormalized after the prefix is dropped.
    """
    return weights[:, :, prefix:, prefix:].mean(dim=(1, 2))


def joint_query_key_value(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Three of (B, A, N, D / A) from tokens (B, N, D), by an attention with one projection for all."""
    qkv = attention.qkv(tokens).unflatten(-1, (3, attention.num_heads, -1))
    return qkv.permute(2, 0, 3, 1, 4).unbind(0)
