"""The three losses of SMMix, each a mean over the batch.

Shapes: B batch, N image tokens, D width, K classes.
Source: ChenMnZ/SMMix @14b1edc, ``engine.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dali_mix.methods.losses import soft_cross_entropy


def fine_grained_loss(
    tokens: Tensor, source_mask: Tensor, head: Callable[[Tensor], Tensor], own: Tensor, partner: Tensor
) -> Tensor:
    """Compute half the sum of two cross entropies: tokens outside the window, and tokens inside it.

    Args:
        tokens: (B, N, D) after the final norm.
        source_mask: bool (B, h, w) with h*w = N, True inside the window.
        head: maps (B, D) to (B, K).
        own, partner: targets (B, K).
    """
    inside = source_mask.flatten(1)
    outside_logits = head(_masked_mean(tokens, ~inside))
    inside_logits = head(_masked_mean(tokens, inside))
    return 0.5 * (soft_cross_entropy(outside_logits, own) + soft_cross_entropy(inside_logits, partner))


def consistency_loss(logits: Tensor, unmixed_logits: Tensor, lam: float | Tensor) -> Tensor:
    """Compute the KL divergence of the mixed images' prediction from the mixture of the unmixed logits.

    Logits are mixed before the softmax, without temperature; the unmixed ones get no gradient.

    Args:
        logits: (B, K) of the mixed images.
        unmixed_logits: (B, K), z, of the probe; sample i's partner is B-1-i.
        lam: the own image's share.
    """
    z = unmixed_logits.detach().float()
    mixture = lam * z + (1.0 - lam) * z.flip(0)
    return F.kl_div(
        torch.log_softmax(logits.float(), dim=-1),
        torch.log_softmax(mixture, dim=-1),
        reduction="batchmean",
        log_target=True,
    )


def _masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    # The count is kept out of half precision, which is not exact above 256 tokens.
    return torch.einsum("bn,bnd->bd", mask.to(tokens.dtype), tokens).float() / mask.sum(1, keepdim=True)
