"""What each image token receives from the others in a model's last attention.

Shapes: B batch, N tokens with prefix, D width, h/w token grid, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from timm.layers import Attention, PatchEmbed
from timm.models import VisionTransformer
from torch import Tensor, nn

from dali_mix.errors import ConfigError

SUPPORTED = "timm's VisionTransformer models (deit_*, deit3_*, vit_*)"


class VitAdapter:
    """Reads attention and tokens from a timm ``VisionTransformer``.

    Raises:
        ConfigError: for another model, or one whose last attention cannot be recomputed.
    """

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, VisionTransformer):
            raise ConfigError(
                f"SMMix cannot serve {type(model).__name__}: it needs patch tokens and their attention; use one "
                f"of {SUPPORTED}, or train this model with --cutmix / --mixup"
            )
        if hasattr(model, "head_dist"):
            raise ConfigError(
                "SMMix cannot serve a distilled DeiT, whose two heads have no single logits; use the plain one"
            )
        attention = getattr(model.blocks[-1], "attn", None)
        if not isinstance(attention, Attention):
            raise ConfigError(
                f"SMMix cannot serve this model: its last block has attention of type "
                f"{type(attention).__name__}; use one of {SUPPORTED}"
            )
        if not isinstance(model.patch_embed, PatchEmbed):
            raise ConfigError(
                f"SMMix cannot serve this hybrid model, whose tokens are not image patches "
                f"({type(model.patch_embed).__name__}); use one of {SUPPORTED}"
            )
        if not isinstance(model.patch_drop, nn.Identity):
            raise ConfigError("SMMix needs every patch token, but this model drops some; set patch_drop_rate=0")
        self.model: VisionTransformer = model
        self.width = int(model.num_features)
        self._attention = attention
        self._prefix = int(model.num_prefix_tokens)

    def grid(self, size_px: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of patch tokens for images of (H, W) pixels.

        Raises:
            ConfigError: if the patch size does not divide the image, whose border would be lost.
        """
        patch_h, patch_w = self.model.patch_embed.patch_size
        height, width = size_px
        if height % patch_h or width % patch_w:
            raise ConfigError(
                f"the patch size {patch_h} x {patch_w} must divide the image size, got {height} x {width} pixels"
            )
        return height // patch_h, width // patch_w

    def logits_and_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and the image tokens after the final norm (B, h*w, D), from one forward."""
        tokens = self.model.forward_features(images)
        logits = self.model.forward_head(tokens)
        # Models that pool before the norm have it in fc_norm, which is an identity in the others.
        return logits, self.model.fc_norm(tokens[:, self._prefix :])

    def classify(self, features: Tensor) -> Tensor:
        """The model's own classifier on normed features (B, D)."""
        return self.model.head(features)

    @contextmanager
    def recorded(self) -> Iterator[list[Tensor]]:
        """Within the block, a forward appends what each image token receives, float32 (B, h*w).

        The fused kernel of the model keeps its attention to itself, so that of this one layer is
        computed a second time, from the query and key it has just projected.
        """
        received: list[Tensor] = []

        def record(_: nn.Module, __: tuple[Tensor, ...], qkv: Tensor) -> None:
            received.append(self._received(qkv))

        handle = self._attention.qkv.register_forward_hook(record)
        try:
            yield received
        finally:
            handle.remove()

    def _received(self, qkv: Tensor) -> Tensor:
        """Softmax attention averaged over heads and image-token queries, prefix columns dropped.

        Source: ChenMnZ/SMMix @14b1edc ``deit.py``: ``attn[:, :, 1:, 1:].mean(dim=(1, 2))``; not
        renormalised after the prefix is dropped.
        """
        layer = self._attention
        batch, tokens, _ = qkv.shape
        q, k, _ = qkv.reshape(batch, tokens, 3, layer.num_heads, layer.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = layer.q_norm(q), layer.k_norm(k)
        weights = (q[:, :, self._prefix :] * layer.scale) @ k.transpose(-2, -1)
        weights = torch.softmax(weights.float(), dim=-1)
        return weights[..., self._prefix :].mean(dim=(1, 2))
