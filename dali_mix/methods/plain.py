"""Plain classification: batches that the pipeline has mixed, or left alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dali_mix.batch import Batch
from dali_mix.branches import NONE
from dali_mix.methods.base import StepMethod, register
from dali_mix.methods.losses import soft_cross_entropy
from dali_mix.methods.picture import COLUMNS, Row


@register
class Plain(StepMethod):
    """The loss of the model's logits on the soft targets of the batch; serves every branch without its own method.

    Args:
        model: as :class:`StepMethod` takes it.
        num_classes: K.
        loss: logits and soft targets, both (B, K), to a scalar.
        classify: what to call instead of the model; see ``StepMethod.classify``.
    """

    parts: ClassVar[tuple[str, ...]] = ("classification",)

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        *,
        loss: Callable[[Tensor, Tensor], Tensor] = soft_cross_entropy,
        classify: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(model, num_classes)
        self.loss = loss
        self._classify = classify

    # Only what it calls is compiled: the name of the branch would be part of a graph.
    @torch.compiler.disable(recursive=False)
    def forward(self, batch: Batch, plan: Any = None) -> dict[str, Tensor]:
        """Compute the loss, which is its own only part."""
        logits = self.model(batch.images) if self._classify is None else self._classify(batch.images)
        loss = self.loss(logits, batch.targets)
        return {"loss": loss, "output": logits, "classification": loss}

    def picture(self, batch: Batch, plan: Any) -> Sequence[Row]:
        """Show what the model sees, if the pipeline has mixed it."""
        if batch.branch == NONE:
            return ()
        return [Row(f"{batch.branch}: what the model saw", batch.images[:COLUMNS], batch.targets[:COLUMNS])]
