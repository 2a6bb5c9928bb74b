"""One batch: what a loader delivers, and what a training step takes."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Batch(NamedTuple):
    """One batch on the pipeline's device.

    Fields:
        images: float32 or float16 (B, C, H, W), channels_last.
        targets: float32 (B, K), soft targets that sum to 1.
        labels: int64 (B,), each image's own class; -1 where the pipeline does not output it.
        branch: what the batch went through: "none", "cutmix", "mixup", any other method's name, or "smmix" (left
            unmixed for the step).
    """

    images: torch.Tensor
    targets: torch.Tensor
    labels: torch.Tensor
    branch: str

    def to(self, device: torch.device | str) -> Batch:
        """This batch on another device; itself where it is there already."""
        if self.images.device == torch.device(device):
            return self
        images, targets, labels = (
            part.to(device, non_blocking=True) for part in (self.images, self.targets, self.labels)
        )
        return Batch(images, targets, labels, self.branch)
