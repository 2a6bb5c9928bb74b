"""CaiT, whose patches attend to each other without a class token until the last blocks."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from timm.models.cait import Cait, LayerScaleBlock, TalkingHeadAttn
from torch import Tensor, nn

from dali_mix.errors import ConfigError
from dali_mix.methods.attention.base import (
    ALL_TOKENS,
    Adapter,
    attend,
    joint_query_key_value,
    mean_received,
    run_block,
    same_method,
    serves,
)


@serves(Cait)
class CaitAdapter(Adapter):
    """Attention of the last patch-to-patch block, before the projection that mixes heads after the softmax.

    The SMMix authors report CaiT but published no code for it.  This is the literal analogue of their
    code for DeiT: what each patch receives from the others, as probabilities that sum to 1.
    """

    model: Cait
    examples: ClassVar[str] = "cait_*"

    def __init__(self, model: nn.Module) -> None:
        assert isinstance(model, Cait)  # by registration
        block: Any = model.blocks[-1]
        attention = getattr(block, "attn", block)
        if not same_method(block, LayerScaleBlock) or not same_method(attention, TalkingHeadAttn):
            raise ConfigError(f"SMMix cannot serve a CaiT with patch attention of type {type(attention).__name__}")
        self.model = model
        self.width = int(model.num_features)
        self.prefix = int(model.num_prefix_tokens)
        patch_embed: Any = model.patch_embed
        self.cell_px = tuple(patch_embed.patch_size)

    def trunk(self, images: Tensor) -> Tensor:
        """See :meth:`Adapter.trunk`; without the class token."""
        model = self.model
        x = model.pos_drop(model.patch_embed(images) + model.pos_embed)
        *blocks, _ = model.blocks
        for block in blocks:
            x = run_block(block, x, checkpointed=model.grad_checkpointing)
        return x

    def finish(self, hidden: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`Adapter.finish`."""
        patches = run_block(self.model.blocks[-1], hidden, checkpointed=self.model.grad_checkpointing)
        tokens = self._with_class_token(patches)
        return self.model.forward_head(tokens), tokens[:, self.prefix :]

    def observe(self, hidden: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`Adapter.observe`."""
        block: Any = self.model.blocks[-1]
        layer = block.attn
        q, k, v = joint_query_key_value(layer, block.norm1(hidden))
        scores = (q * layer.scale) @ k.transpose(-2, -1)
        scores = layer.proj_l(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32)
        mixed = layer.proj_w(weights.to(v.dtype).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        # Without stochastic depth: in eval mode it does nothing.
        x = hidden + block.gamma_1 * layer.proj(attend(mixed, v, ALL_TOKENS))
        x = x + block.gamma_2 * block.mlp(block.norm2(x))
        return self.model.forward_head(self._with_class_token(x)), mean_received(weights, prefix=0)

    def _with_class_token(self, patches: Tensor) -> Tensor:
        """Normed tokens (B, 1 + h*w, D): the class token has attended to the patches."""
        if self.model.blocks_token_only is not None:
            patches = self.model.forward_cls(patches)
        return self.model.norm(patches)
