"""CaiT, whose patches attend to each other without a class token until the last blocks."""

from __future__ import annotations

from typing import ClassVar

import torch
from timm.models.cait import Cait, TalkingHeadAttn
from torch import Tensor, nn

from dali_mix.errors import ConfigError
from dali_mix.smmix.families.base import JointProjectionAdapter, mean_received, serves


@serves(Cait)
class CaitAdapter(JointProjectionAdapter):
    """Attention of the last patch-to-patch block, before the projection that mixes heads after the softmax.

    The SMMix authors report CaiT but published no code for it.  This is the literal analogue of their
    code for DeiT: what each patch receives from the others, as probabilities that sum to 1.
    """

    model: Cait
    examples: ClassVar[str] = "cait_*"

    def __init__(self, model: nn.Module) -> None:
        assert isinstance(model, Cait)  # by registration
        attention = model.blocks[-1].attn
        if not isinstance(attention, TalkingHeadAttn):
            raise ConfigError(f"SMMix cannot serve a CaiT with patch attention of type {type(attention).__name__}")
        self._read(model, attention)

    def received(self, *outputs: Tensor) -> Tensor:
        """See :meth:`Adapter.received`."""
        layer = self._attention
        q, k = self._query_and_key(*outputs)
        scores = (q * layer.scale) @ k.transpose(-2, -1)
        scores = layer.proj_l(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return mean_received(torch.softmax(scores.float(), dim=-1), prefix=0)

    def logits_and_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Adapter.logits_and_tokens`."""
        tokens = self.model.forward_features(images)
        return self.model.forward_head(tokens), tokens[:, self.prefix :]
