"""timm's VisionTransformer: vit, deit, deit3, with any number of prefix tokens."""

from __future__ import annotations

from typing import Any, ClassVar

from timm.layers import Attention, GluMlp, Mlp, PatchEmbed, SwiGLU
from timm.models import VisionTransformer
from timm.models.vision_transformer import Block, ResPostBlock
from torch import Tensor, nn

from dali_mix.errors import ConfigError
from dali_mix.methods.attention.base import (
    ALL_TOKENS,
    CLASS_TOKEN,
    Adapter,
    attend,
    joint_query_key_value,
    mean_received,
    run_block,
    same_method,
    serves,
    softmax_attention,
)


@serves(VisionTransformer)
class VitAdapter(Adapter):
    """Attention of the last block; the authors' choice for DeiT."""

    model: VisionTransformer
    examples: ClassVar[str] = "deit_*, deit3_*, vit_* (timm's VisionTransformer)"

    def __init__(self, model: nn.Module) -> None:
        assert isinstance(model, VisionTransformer)  # by registration
        if not isinstance(model.patch_embed, PatchEmbed):
            raise ConfigError(
                f"SMMix cannot serve this hybrid model, whose tokens are not image patches "
                f"({type(model.patch_embed).__name__}); use one of {self.examples}"
            )
        if hasattr(model, "head_dist"):
            raise ConfigError(
                "SMMix cannot serve a distilled DeiT, whose two heads have no single logits; use the plain one"
            )
        if not isinstance(model.patch_drop, nn.Identity):
            raise ConfigError("SMMix needs every patch token, but this model drops some; set patch_drop_rate=0")
        block: Any = model.blocks[-1]
        attention = getattr(block, "attn", None)
        if attention is None or not same_method(attention, Attention):
            raise ConfigError(
                f"SMMix cannot serve this model: its last block has attention of type "
                f"{type(attention).__name__}; use one of {self.examples}"
            )
        self._norm_first = same_method(block, Block)
        if not self._norm_first and not same_method(block, ResPostBlock):
            raise ConfigError(
                f"SMMix cannot serve this model, whose last block is a {type(block).__name__}; use one of "
                f"{self.examples}"
            )
        self.model = model
        self.width = int(model.num_features)
        self.prefix = int(model.num_prefix_tokens)
        self.cell_px = tuple(model.patch_embed.patch_size)

    def trunk(self, images: Tensor) -> Tensor:
        """See :meth:`Adapter.trunk`."""
        model = self.model
        x = model.norm_pre(model._pos_embed(model.patch_embed(images)))
        *blocks, _ = model.blocks
        for block in blocks:
            x = run_block(block, x, checkpointed=model.grad_checkpointing)
        return x

    def finish(self, hidden: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`Adapter.finish`."""
        model = self.model
        tokens = model.norm(run_block(model.blocks[-1], hidden, checkpointed=model.grad_checkpointing))
        # Models that pool before the norm have it in fc_norm, which is an identity in the others.
        return model.forward_head(tokens), model.fc_norm(tokens[:, self.prefix :])

    def observe(self, hidden: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`Adapter.observe`."""
        model: Any = self.model
        block = model.blocks[-1]
        read = self._read_by_the_head(block)
        # Without stochastic depth: in eval mode it does nothing.
        x = hidden[:, read]
        if self._norm_first:
            change, weights = self._attention(block.attn, block.norm1(hidden), read)
            x = x + block.ls1(change)
            x = x + block.ls2(block.mlp(block.norm2(x)))
        else:
            change, weights = self._attention(block.attn, hidden, read)
            x = x + block.norm1(change)
            x = x + block.norm2(block.mlp(x))
        return model.forward_head(model.norm(x)), mean_received(weights, self.prefix)

    def _read_by_the_head(self, block: Any) -> slice:
        """The class token alone where nothing after the attention mixes tokens."""
        by_class_token = self.model.global_pool == "token" and self.model.attn_pool is None
        return CLASS_TOKEN if by_class_token and isinstance(block.mlp, (Mlp, GluMlp, SwiGLU)) else ALL_TOKENS

    @staticmethod
    def _attention(attention: Any, tokens: Tensor, read: slice) -> tuple[Tensor, Tensor]:
        """Output (B, n, D) for the tokens in ``read``, and the whole softmax, float32 (B, A, N, N)."""
        q, k, v = joint_query_key_value(attention, tokens)
        weights = softmax_attention(attention.q_norm(q), attention.k_norm(k), attention.scale)
        out = attention.norm(attend(weights, v, read))
        if attention.gate is not None:
            out = out * attention.gate(tokens[:, read]).sigmoid()
        return attention.proj(out), weights
