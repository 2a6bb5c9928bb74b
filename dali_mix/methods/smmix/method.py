"""SMMix as a method of the training step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from dali_mix.batch import Batch
from dali_mix.errors import ConfigError
from dali_mix.methods.base import StepMethod, register
from dali_mix.methods.picture import COLUMNS, Frame, Row
from dali_mix.methods.smmix.stage import SMMix
from dali_mix.options import check_options, fraction, non_negative, option

_TARGET_COLOR = (40, 220, 255)
_SOURCE_COLOR = (255, 210, 0)


@dataclass(frozen=True)
class SMMixOptions:
    """The options of :class:`SMMixStep`; the defaults are the authors'."""

    min_side: float = option(0.25, fraction, "Smallest window side as a share of the token grid's.")
    max_side: float = option(0.75, fraction, "Largest window side as a share of the token grid's.")
    loss_weights: tuple[float, float, float] = option(
        (1.0, 1.0, 1.0), non_negative, "Weights of the classification, fine-grained and consistency loss."
    )

    def __post_init__(self) -> None:
        check_options(self, "smmix")
        if self.min_side > self.max_side:
            raise ConfigError(f"--smmix-min-side {self.min_side:g} is larger than --smmix-max-side {self.max_side:g}")


@register
class SMMixStep(StepMethod):
    """SMMix (Chen, ICCV 2023, arXiv 2212.12977): the batch is left unmixed for it; its plan is the window side k."""

    name, code = "smmix", 3
    parts: ClassVar[tuple[str, ...]] = ("classification", "fine_grained", "consistency")
    Options = SMMixOptions
    prefixes = ("token_head.",)
    # ChenMnZ/SMMix @14b1edc ``engine.py``.
    average_note = "if the SMMix authors' code wrote it, its moving average holds the initial weights"
    short_form = "Mix by the attention of the model under training."
    compiled_by_part = True

    def __init__(self, model: nn.Module, num_classes: int, *, smoothing: float = 0.0, options: Any = None) -> None:
        super().__init__(model, num_classes, smoothing=smoothing, options=options)
        stage = SMMix(
            model,
            num_classes,
            smoothing=smoothing,
            min_side=self.options.min_side,
            max_side=self.options.max_side,
            weights=tuple(self.options.loss_weights),
        )
        self.token_head = stage.token_head  # first, so that this is its name in states
        self.stage = stage

    def plan(self, size_px: Sequence[int], rng: np.random.Generator) -> int:
        """Draw the window side k."""
        sides = self.stage.sides(self.stage.grid(size_px))
        return int(rng.integers(sides.start, sides.stop))

    # Only what it calls is compiled: the window's side would be part of a graph.
    @torch.compiler.disable(recursive=False)
    def forward(self, batch: Batch, plan: int | None = None) -> dict[str, Tensor]:
        """Compute the three losses and their weighted sum."""
        output = self.stage(batch.images, batch.labels, plan)
        return {"loss": output.loss, "output": output.logits} | {part: getattr(output, part) for part in self.parts}

    def classify(self, images: Tensor) -> Tensor:
        """``model(images)`` through the stage's compiled parts."""
        return self.stage.classify(images)

    def picture(self, batch: Batch, plan: int | None) -> Sequence[Row]:
        """Show own image, partner and mixture; the probe is repeated with the weights and side of the step to come."""
        mixture = self.stage.mix(batch.images, plan)
        count = min(COLUMNS, len(batch.labels))
        # The partners of the first images are the last ones.
        own, partner = batch.labels[:count], batch.labels[-count:].flip(0)
        grid = (mixture.attention.shape[1], mixture.attention.shape[2])
        target, source = (
            torch.cat((corner[:count], corner[:count] + mixture.square), 1)
            for corner in (mixture.windows.target, mixture.windows.source)
        )
        return [
            Row(
                "SMMix 1/3: own image, dim where little attended, target window (least attended)",
                batch.images[:count],
                own,
                light=mixture.attention[:count],
                frame=Frame(target, grid, _TARGET_COLOR),
            ),
            Row(
                "SMMix 2/3: partner, dim where little attended, source window (most attended)",
                batch.images[-count:].flip(0),
                partner,
                light=mixture.attention[-count:].flip(0),
                frame=Frame(source, grid, _SOURCE_COLOR),
            ),
            Row(
                "SMMix 3/3: what the model saw, the source window moved onto the target window",
                mixture.images[:count],
                [(mixture.lam, own), (1 - mixture.lam, partner)],
                frame=Frame(target, grid, _SOURCE_COLOR),
            ),
        ]
