"""CaiT, whose patches attend to each other without a class token until the last blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from timm.models.cait import Cait, TalkingHeadAttn
from torch import Tensor, nn

from dali_mix.errors import ConfigError
from dali_mix.smmix.families.base import Adapter, mean_received, serves


@serves(Cait)
class CaitAdapter(Adapter):
    """Attention of the last patch-to-patch block, before the projection that mixes heads after the softmax.

    The SMMix authors report CaiT but published no code for it.  This is the literal analogue of their
    code for DeiT: what each patch receives from the others, as probabilities that sum to 1.
    """

    examples: ClassVar[str] = "cait_*"

    def __init__(self, model: nn.Module) -> None:
        assert isinstance(model, Cait)  # by registration
        attention = model.blocks[-1].attn
        if not isinstance(attention, TalkingHeadAttn):
            raise ConfigError(f"SMMix cannot serve a CaiT with patch attention of type {type(attention).__name__}")
        self.model: Cait = model
        self.width = int(model.num_features)
        self.prefix = int(model.num_prefix_tokens)
        self.cell_px = tuple(model.patch_embed.patch_size)
        self._attention = attention

    def projections(self) -> Sequence[nn.Module]:
        """The joint projection of the last block before the class token comes in."""
        return [self._attention.qkv]

    def received(self, *outputs: Tensor) -> Tensor:
        """See :meth:`Adapter.received`."""
        (qkv,) = outputs
        layer = self._attention
        batch, tokens, width = qkv.shape
        q, k, _ = qkv.reshape(batch, tokens, 3, layer.num_heads, width // 3 // layer.num_heads).permute(2, 0, 3, 1, 4)
        scores = (q * layer.scale) @ k.transpose(-2, -1)
        scores = layer.proj_l(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return mean_received(torch.softmax(scores.float(), dim=-1), prefix=0)

    def logits_and_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Adapter.logits_and_tokens`."""
        tokens = self.model.forward_features(images)
        return self.model.forward_head(tokens), tokens[:, self.prefix :]
