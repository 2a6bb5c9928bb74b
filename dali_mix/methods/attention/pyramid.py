"""Pyramids with global attention in their last stage: PVT v1, PVT v2, Twins-PCPVT and Twins-SVT.

Their earlier stages shrink keys and values, so that only the last stage's attention is from every
token to every token.  A token of the last stage stands for 32 x 32 pixels.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

from timm.models.pvt_v2 import Attention as PvtV2Attention
from timm.models.pvt_v2 import Block as PvtV2Block
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from timm.models.twins import Block as TwinsBlock
from timm.models.twins import GlobalSubSampleAttn, Twins
from torch import Tensor, nn

from dali_mix.errors import ConfigError
from dali_mix.methods.attention.base import (
    ALL_TOKENS,
    CLASS_TOKEN,
    Adapter,
    attend,
    mean_received,
    run_block,
    same_method,
    serves,
    softmax_attention,
)
from dali_mix.models.pvt import PyramidVisionTransformer


class _PyramidAdapter(Adapter):
    """Attention of the last block, from separate projections of query and of key and value."""

    model: Any

    def _set(self, model: Any, *, prefix: int, reduction_px: int) -> None:
        self.model = model
        attention = self._last_block.attn
        if getattr(attention, "sr", None) is not None or getattr(attention, "pool", None) is not None:
            raise ConfigError(
                f"SMMix cannot serve this {type(model).__name__}: the attention of its last stage sees a reduced "
                f"set of tokens; use one of {self.examples}"
            )
        self.width = int(model.num_features)
        self.prefix = prefix
        self.cell_px = (reduction_px, reduction_px)

    @property
    @abstractmethod
    def _last_block(self) -> Any: ...

    @abstractmethod
    def _head(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and normed tokens, like ``tokens``: the last block's, in training all of them."""

    def _observe(self, hidden: Tensor, read: slice, *mlp_inputs: Any) -> tuple[Tensor, Tensor]:
        """The last block's output (B, n, D) for the tokens in ``read``, and what is received, (B, h*w)."""
        block = self._last_block
        layer = block.attn
        normed = block.norm1(hidden)
        q = layer.q(normed).unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)
        k, v = layer.kv(normed).unflatten(-1, (2, layer.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        weights = softmax_attention(q, k, layer.scale)
        # Without stochastic depth: in eval mode it does nothing.
        x = hidden[:, read] + layer.proj(attend(weights, v, read))
        return x + block.mlp(block.norm2(x), *mlp_inputs), mean_received(weights, self.prefix)


@serves(PyramidVisionTransformer)
class PvtAdapter(_PyramidAdapter):
    """PVT v1; the class token joins in the last stage.  Source: ChenMnZ/SMMix @14b1edc ``pvt.py``."""

    examples: ClassVar[str] = "pvt_tiny, pvt_small, pvt_medium, pvt_large"

    def __init__(self, model: nn.Module) -> None:
        assert isinstance(model, PyramidVisionTransformer)  # by registration
        self._set(model, prefix=1, reduction_px=32)

    @property
    def _last_block(self) -> Any:
        return self.model.block4[-1]

    def trunk(self, images: Tensor) -> Tensor:
        """See :meth:`Adapter.trunk`."""
        return self.model.forward_trunk(images)

    def finish(self, hidden: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`Adapter.finish`."""
        x = run_block(self._last_block, hidden, grid, checkpointed=self.model.grad_checkpointing)
        logits, tokens = self._head(x, grid)
        return logits, tokens[:, self.prefix :]

    def observe(self, hidden: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`Adapter.observe`."""
        x, received = self._observe(hidden, CLASS_TOKEN)
        return self._head(x, grid)[0], received

    def _head(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        normed = self.model.norm(tokens)
        return self.model.forward_head(normed), normed


@serves(PyramidVisionTransformerV2)
class PvtV2Adapter(_PyramidAdapter):
    """PVT v2, which has no class token.  Not in the paper."""

    examples: ClassVar[str] = "pvt_v2_b0 to pvt_v2_b5"

    def __init__(self, model: nn.Module) -> None:
        assert isinstance(model, PyramidVisionTransformerV2)  # by registration
        self._set(model, prefix=0, reduction_px=model.feature_info[-1]["reduction"])
        if not same_method(self._last_block, PvtV2Block) or not same_method(self._last_block.attn, PvtV2Attention):
            raise ConfigError(f"SMMix cannot serve this PVT v2, whose last block is a {type(self._last_block)}")

    @property
    def _last_block(self) -> Any:
        return self.model.stages[-1].blocks[-1]

    def trunk(self, images: Tensor) -> Tensor:
        """See :meth:`Adapter.trunk`."""
        *stages, last = self.model.stages
        x = self.model.patch_embed(images)
        for stage in stages:
            x = stage(x)
        x = x if last.downsample is None else last.downsample(x)
        grid = (x.shape[1], x.shape[2])
        x = x.flatten(1, 2)
        *blocks, _ = last.blocks
        for block in blocks:
            x = run_block(block, x, grid, checkpointed=last.grad_checkpointing)
        return x

    def finish(self, hidden: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`Adapter.finish`."""
        checkpointed = self.model.stages[-1].grad_checkpointing
        return self._head(run_block(self._last_block, hidden, grid, checkpointed=checkpointed), grid)

    def observe(self, hidden: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`Adapter.observe`."""
        x, received = self._observe(hidden, ALL_TOKENS, grid)
        return self._head(x, grid)[0], received

    def _head(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        normed = self.model.stages[-1].norm(tokens)
        image = normed.unflatten(1, grid).permute(0, 3, 1, 2).contiguous()
        return self.model.forward_head(image), normed


@serves(Twins)
class TwinsAdapter(_PyramidAdapter):
    """Twins, which has no class token.  Not in the paper."""

    examples: ClassVar[str] = "twins_*"

    def __init__(self, model: nn.Module) -> None:
        assert isinstance(model, Twins)  # by registration
        stages: Any = model.blocks
        block = stages[-1][-1]
        if not same_method(block.attn, GlobalSubSampleAttn):
            raise ConfigError("SMMix cannot serve this Twins: its last block attends within windows only")
        if not same_method(block, TwinsBlock):
            raise ConfigError(f"SMMix cannot serve this Twins, whose last block is a {type(block).__name__}")
        embeds: Any = model.patch_embeds
        self._set(model, prefix=0, reduction_px=math.prod(embed.patch_size[0] for embed in embeds))

    @property
    def _last_block(self) -> Any:
        return self.model.blocks[-1][-1]

    def trunk(self, images: Tensor) -> Tensor:
        """See :meth:`Adapter.trunk`."""
        model = self.model
        x, grid = images, None
        *stages, last = zip(model.patch_embeds, model.pos_drops, model.blocks, model.pos_block, strict=True)
        *early, _ = last[2]
        for embed, drop, blocks, position in [*stages, (last[0], last[1], early, last[3])]:
            if grid is not None:
                x = x.unflatten(1, grid).permute(0, 3, 1, 2).contiguous()
            x, grid = embed(x)
            x = drop(x)
            for index, block in enumerate(blocks):
                x = block(x, grid)
                if index == 0:
                    x = position(x, grid)
        return x

    def finish(self, hidden: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`Adapter.finish`."""
        return self._head(self._last_block(hidden, grid), grid)

    def observe(self, hidden: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`Adapter.observe`."""
        x, received = self._observe(hidden, ALL_TOKENS)
        return self._head(x, grid)[0], received

    def _head(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        if len(self.model.blocks[-1]) == 1:  # the position follows a stage's first block
            tokens = self.model.pos_block[-1](tokens, grid)
        normed = self.model.norm(tokens)
        return self.model.forward_head(normed), normed
