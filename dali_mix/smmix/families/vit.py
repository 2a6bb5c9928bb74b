"""timm's VisionTransformer: vit, deit, deit3, with any number of prefix tokens."""

from __future__ import annotations

from typing import ClassVar

from timm.layers import Attention, PatchEmbed
from timm.models import VisionTransformer
from torch import Tensor, nn

from dali_mix.errors import ConfigError
from dali_mix.smmix.families.base import JointProjectionAdapter, mean_received, serves, softmax_attention


@serves(VisionTransformer)
class VitAdapter(JointProjectionAdapter):
    """Attention of the last block; the authors' choice for DeiT."""

    model: VisionTransformer
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
        self._read(model, attention)

    def received(self, *outputs: Tensor) -> Tensor:
        """See :meth:`Adapter.received`."""
        layer = self._attention
        q, k = self._query_and_key(*outputs)
        return mean_received(softmax_attention(layer.q_norm(q), layer.k_norm(k), layer.scale), self.prefix)

    def logits_and_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Adapter.logits_and_tokens`."""
        tokens = self.model.forward_features(images)
        logits = self.model.forward_head(tokens)
        # Models that pool before the norm have it in fc_norm, which is an identity in the others.
        return logits, self.model.fc_norm(tokens[:, self.prefix :])
