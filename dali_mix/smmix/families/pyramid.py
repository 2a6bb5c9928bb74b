"""Pyramids with global attention in their last stage: PVT v1, PVT v2, Twins-PCPVT and Twins-SVT.

Their earlier stages shrink keys and values, so that only the last stage's attention is from every
token to every token.  A token of the last stage stands for 32 x 32 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from timm.models.pvt_v2 import PyramidVisionTransformerV2
from timm.models.twins import GlobalSubSampleAttn, Twins
from torch import Tensor, nn

from dali_mix.errors import ConfigError
from dali_mix.models.pvt import PyramidVisionTransformer
from dali_mix.smmix.families.base import Adapter, mean_received, serves, softmax_attention


class _PyramidAdapter(Adapter):
    """Attention of the last block, from separate projections of query and of key and value."""

    _attention: Any

    def _read(self, model: nn.Module, attention: Any, *, prefix: int, reduction_px: int) -> None:
        if getattr(attention, "sr", None) is not None or getattr(attention, "pool", None) is not None:
            raise ConfigError(
                f"SMMix cannot serve this {type(model).__name__}: the attention of its last stage sees a reduced "
                f"set of tokens; use one of {self.examples}"
            )
        self.model = model
        self.width = int(model.num_features)  # type: ignore[arg-type]
        self.prefix = prefix
        self.cell_px = (reduction_px, reduction_px)
        self._attention = attention

    def projections(self) -> Sequence[nn.Module]:
        """The last block's projections of query, and of key and value."""
        return [self._attention.q, self._attention.kv]

    def received(self, *outputs: Tensor) -> Tensor:
        """See :meth:`Adapter.received`."""
        q, kv = outputs
        layer = self._attention
        batch, tokens, width = q.shape
        head_dim = width // layer.num_heads
        q = q.reshape(batch, tokens, layer.num_heads, head_dim).transpose(1, 2)
        k, _ = kv.reshape(batch, tokens, 2, layer.num_heads, head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        return mean_received(softmax_attention(q, k, layer.scale), self.prefix)

    def logits_and_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Adapter.logits_and_tokens`."""
        model: Any = self.model
        tokens = model.forward_features(images)
        logits = model.forward_head(tokens)
        if tokens.ndim == 4:  # PVT v2 gives (B, D, h, w)
            tokens = tokens.flatten(2).transpose(1, 2)
        return logits, tokens[:, self.prefix :]


@serves(PyramidVisionTransformer)
class PvtAdapter(_PyramidAdapter):
    """PVT v1; the class token joins in the last stage.  Source: ChenMnZ/SMMix @14b1edc ``pvt.py``."""

    examples: ClassVar[str] = "pvt_tiny, pvt_small, pvt_medium, pvt_large"

    def __init__(self, model: nn.Module) -> None:
        assert isinstance(model, PyramidVisionTransformer)  # by registration
        self._read(model, model.get_submodule("block4")[-1].attn, prefix=1, reduction_px=32)  # type: ignore[index]


@serves(PyramidVisionTransformerV2)
class PvtV2Adapter(_PyramidAdapter):
    """PVT v2, which has no class token.  Not in the paper."""

    examples: ClassVar[str] = "pvt_v2_b0 to pvt_v2_b5"

    def __init__(self, model: nn.Module) -> None:
        assert isinstance(model, PyramidVisionTransformerV2)  # by registration
        attention = model.stages[-1].blocks[-1].attn
        self._read(model, attention, prefix=0, reduction_px=model.feature_info[-1]["reduction"])


@serves(Twins)
class TwinsAdapter(_PyramidAdapter):
    """Twins, which has no class token.  Not in the paper."""

    examples: ClassVar[str] = "twins_*"

    def __init__(self, model: nn.Module) -> None:
        assert isinstance(model, Twins)  # by registration
        attention = model.blocks[-1][-1].attn
        if not isinstance(attention, GlobalSubSampleAttn):
            raise ConfigError("SMMix cannot serve this Twins: its last block attends within windows only")
        patches = [embed.patch_size[0] for embed in model.patch_embeds]
        self._read(model, attention, prefix=0, reduction_px=math.prod(patches))
