"""One batch: what a loader delivers, and what a training step takes."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class BatchParams(NamedTuple):
    """How each image of a batch was mixed.

    Fields:
        partner: int32 (B,), whom it was mixed with.
        box: int32 (B, 4), ``y1, x1, y2, x2`` in pixels, half-open: what comes from the partner; all zero where
            nothing was pasted.
        lam: float32 (B,), the weight of its own label.
    """

    partner: torch.Tensor
    box: torch.Tensor
    lam: torch.Tensor


class _Batch(NamedTuple):
    images: torch.Tensor
    targets: torch.Tensor
    labels: torch.Tensor
    branch: str


class Batch(_Batch):
    """One batch on the pipeline's device.

    Fields:
        images: float32 or float16 (B, C, H, W), channels_last.
        targets: float32 (B, K), soft targets that sum to 1.
        labels: int64 (B,), each image's own class; -1 where the pipeline does not output it.
        branch: what the batch went through: "none", "cutmix", "mixup", any other method's name, or "smmix" (left
            unmixed for the step).
        params: how it was mixed, where the pipeline outputs that, else None; it is no part of the tuple.
    """

    params: BatchParams | None = None

    def mixed_by(self, params: BatchParams | None) -> Batch:
        """Return the same, with these params."""
        batch = Batch(*self)
        batch.params = params
        return batch

    def _replace(self, **changes: Any) -> Batch:
        return Batch(*super()._replace(**changes)).mixed_by(self.params)

    def to(self, device: torch.device | str) -> Batch:
        """Return this batch on another device; itself where it is there already."""
        if self.images.device == torch.device(device):
            return self
        images, targets, labels = (
            part.to(device, non_blocking=True) for part in (self.images, self.targets, self.labels)
        )
        params = self.params and BatchParams(*(part.to(device, non_blocking=True) for part in self.params))
        return Batch(images, targets, labels, self.branch).mixed_by(params)
