"""What SMMix asks of a model, and the register of those that can answer.

Shapes: B batch, A heads, N tokens with prefix, D width, h/w token grid, K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from dali_mix.errors import ConfigError

_FAMILIES: dict[type[nn.Module], type[Adapter]] = {}
_AdapterType = TypeVar("_AdapterType", bound="type[Adapter]")


class Adapter(ABC):
    """Reads attention and tokens from one family of models.

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
    def projections(self) -> Sequence[nn.Module]:
        """The layers whose outputs :meth:`received` needs, in the order in which a forward runs them."""

    @abstractmethod
    def received(self, *outputs: Tensor) -> Tensor:
        """What each image token receives in the last attention, float32 (B, h*w).

        Args:
            outputs: of :meth:`projections`, from one forward.
        """

    @abstractmethod
    def logits_and_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and the image tokens after the final norm (B, h*w, D), from one forward."""

    def classify(self, features: Tensor) -> Tensor:
        """The model's own classifier on normed features (B, D)."""
        return self.model.get_submodule("head")(features)

    def grid(self, size_px: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of image tokens for images of (H, W) pixels.

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

    def logits_and_received(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) of a plain forward, and what each image token receives, float32 (B, h*w).

        The fused kernel of the model keeps its attention to itself, so that of the last layer is
        computed a second time, from the query and key that it has just projected.
        """
        outputs: list[Tensor] = []

        def record(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            outputs.append(output)

        handles = [layer.register_forward_hook(record) for layer in self.projections()]
        try:
            logits = self.model(images)
        finally:
            for handle in handles:
                handle.remove()
        return logits, self.received(*outputs)


class JointProjectionAdapter(Adapter):
    """For transformers of one width, with one layer that projects query, key and value together."""

    _attention: Any

    def _read(self, model: Any, attention: Any) -> None:
        self.model = model
        self.width = int(model.num_features)
        self.prefix = int(model.num_prefix_tokens)
        self.cell_px = tuple(model.patch_embed.patch_size)
        self._attention = attention

    def projections(self) -> Sequence[nn.Module]:
        """The joint projection of the last attention."""
        return [self._attention.qkv]

    def _query_and_key(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """Both (B, A, N, D / A), from the projection (B, N, 3 * D)."""
        batch, tokens, width = qkv.shape
        heads = self._attention.num_heads
        q, k, _ = qkv.reshape(batch, tokens, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k


def serves(model_type: type[nn.Module]) -> Callable[[_AdapterType], _AdapterType]:
    """Register an adapter for a type of model and its subclasses."""

    def register(adapter: _AdapterType) -> _AdapterType:
        _FAMILIES[model_type] = adapter
        return adapter

    return register


def adapter_for(model: nn.Module) -> Adapter:
    """The adapter of a model.

    Raises:
        ConfigError: for a model of no known family; the message lists those that work.
    """
    for ancestor in type(model).__mro__:
        if ancestor in _FAMILIES:
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


def mean_received(weights: Tensor, prefix: int) -> Tensor:
    """Softmax attention averaged over heads and image-token queries, prefix tokens dropped from both sides.

    Args:
        weights: (B, A, N, N), after the softmax.
        prefix: number of tokens to drop.

    Source: ChenMnZ/SMMix @14b1edc ``deit.py``: ``attn[:, :, 1:, 1:].mean(dim=(1, 2))``; not
    renormalised after the prefix is dropped.
    """
    return weights[:, :, prefix:, prefix:].mean(dim=(1, 2))


def softmax_attention(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """float32 (B, A, N, N) from query and key (B, A, N, D / A)."""
    return torch.softmax(((q * scale) @ k.transpose(-2, -1)).float(), dim=-1)
