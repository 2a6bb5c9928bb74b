"""The one module that a training step runs, and that DDP wraps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dali_mix.loading.loader import Batch
from dali_mix.methods.smmix.losses import soft_cross_entropy
from dali_mix.methods.smmix.stage import SMMix


class StepLosses(NamedTuple):
    """Scalars of one step; ``loss`` carries the graph.

    Fields:
        loss: what is minimised.
        classification, fine_grained, consistency: its parts, detached; the last two are zero
            outside SMMix.
    """

    loss: Tensor
    classification: Tensor
    fine_grained: Tensor
    consistency: Tensor


class TrainStep(nn.Module):
    """Forward and loss of a batch, whichever branch it took.

    Args:
        model: a classifier, images (B, 3, H, W) to logits (B, K).
        stage: serves the batches that were left for SMMix; holds the same model.
        loss: logits and soft targets, both (B, K), to a scalar; for the other batches.

    With a stage the step can be compiled, wrapped or in place: all batches share the parts that the stage compiles.
    """

    def __init__(
        self,
        model: nn.Module,
        stage: SMMix | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] = soft_cross_entropy,
    ) -> None:
        super().__init__()
        self.model = model
        self.stage = stage
        self.loss = loss

    # Only what it calls is compiled: the branch and the window's side would be part of a graph.
    @torch.compiler.disable(recursive=False)
    def forward(self, batch: Batch, square: int | None = None) -> StepLosses:
        """The losses of one batch, which lie in memory of their own: a CUDA graph's is overwritten by the next step.

        Args:
            batch: from ``MixLoader``.
            square: SMMix's window side; equal on all ranks.
        """
        if batch.branch == "smmix":
            if self.stage is None:
                raise ValueError("the batch was left for SMMix, but this step has no SMMix stage")
            output = self.stage(batch.images, batch.labels, square)
            parts = torch.stack((output.classification, output.fine_grained, output.consistency)).detach()
            return StepLosses(output.loss.clone(), *parts.unbind())
        if self.stage is None:
            loss = self.loss(self.model(batch.images), batch.targets)
        else:
            loss = self._mixed_loss(self.stage.classify(batch.images), batch.targets).clone()
        zero = torch.zeros_like(loss.detach())
        return StepLosses(loss, loss.detach(), zero, zero)

    def _mixed_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, with the token head in its graph at no weight: DDP waits for a gradient of every parameter."""
        loss = self.loss(logits, targets)
        idle = self.stage.token_head if self.stage is not None else None
        return loss if idle is None else loss + sum(0.0 * parameter.sum() for parameter in idle.parameters())
