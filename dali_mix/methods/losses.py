"""What losses of several methods are made of; B batch, K classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def smoothed_one_hot(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """float32 (B, K): on = ``1 - s + s / K``, off = ``s / K``."""
    off = smoothing / num_classes
    targets = torch.full((len(labels), num_classes), off, device=labels.device)
    # Not one_hot: it looks at the labels, which on some devices is waited for.
    return targets.scatter_(1, labels[:, None], 1.0 - smoothing + off)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the cross entropy with class probabilities, in float32 also under autocast."""
    return F.cross_entropy(logits.float(), targets)
