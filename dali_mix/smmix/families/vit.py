"""timm's VisionTransformer: vit, deit, deit3, with any number of prefix tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from timm.layers import Attention, PatchEmbed
from timm.models import VisionTransformer
from torch import Tensor, nn

from dali_mix.errors import ConfigError
from dali_mix.smmix.families.base import Adapter, mean_received, serves, softmax_attention


@serves(VisionTransformer)
class VitAdapter(Adapter):
    """Attention of the last block; the authors' choice for DeiT."""

    examples: ClassVar[str] = "deit_*, deit3_*, vit_* (timm's VisionTransformer)"

    def __init__(self, model: nn.Module) -> None:
        assert isinstance(model, VisionTransformer)  # by registration
        if hasattr(model, "head_dist"):
            raise ConfigError(
                "SMMix cannot serve a distilled DeiT, whose two heads have no single logits; use the plain one"
            )
        attention = getattr(model.blocks[-1], "attn", None)
        if not isinstance(attention, Attention):
            raise ConfigError(
                f"SMMix cannot serve this model: its last block has attention of type "
                f"{type(attention).__name__}; use one of {self.examples}"
            )
        if not isinstance(model.patch_embed, PatchEmbed):
            raise ConfigError(
                f"SMMix cannot serve this hybrid model, whose tokens are not image patches "
                f"({type(model.patch_embed).__name__}); use one of {self.examples}"
            )
        if not isinstance(model.patch_drop, nn.Identity):
            raise ConfigError("SMMix needs every patch token, but this model drops some; set patch_drop_rate=0")
        self.model: VisionTransformer = model
        self.width = int(model.num_features)
        self.prefix = int(model.num_prefix_tokens)
        self.cell_px = tuple(model.patch_embed.patch_size)
        self._attention = attention

    def projections(self) -> Sequence[nn.Module]:
        """The last block's joint projection."""
        return [self._attention.qkv]

    def received(self, *outputs: Tensor) -> Tensor:
        """See :meth:`Adapter.received`."""
        (qkv,) = outputs
        layer = self._attention
        batch, tokens, _ = qkv.shape
        q, k, _ = qkv.reshape(batch, tokens, 3, layer.num_heads, layer.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        return mean_received(softmax_attention(layer.q_norm(q), layer.k_norm(k), layer.scale), self.prefix)

    def logits_and_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Adapter.logits_and_tokens`."""
        tokens = self.model.forward_features(images)
        logits = self.model.forward_head(tokens)
        # Models that pool before the norm have it in fc_norm, which is an identity in the others.
        return logits, self.model.fc_norm(tokens[:, self.prefix :])
