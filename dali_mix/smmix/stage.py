"""SMMix as one stage of the training step (Chen, ICCV 2023, arXiv 2212.12977)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dali_mix.errors import ConfigError
from dali_mix.smmix.families import adapter_for
from dali_mix.smmix.losses import consistency_loss, fine_grained_loss, smoothed_one_hot, soft_cross_entropy
from dali_mix.smmix.regions import Windows, find_windows, move_windows, own_share


class SMMixOutput(NamedTuple):
    """One SMMix step.

    Fields:
        loss: weighted sum of the three losses, the one to call ``backward`` on.
        classification, fine_grained, consistency: the losses, unweighted, with their graph.
        logits: (B, K) of the mixed images.
        images: (B, 3, H, W), the mixed images the model saw.
        source_mask: bool (B, h, w), True where a token comes from the partner.
        lam: the own image's share.
    """

    loss: Tensor
    classification: Tensor
    fine_grained: Tensor
    consistency: Tensor
    logits: Tensor
    images: Tensor
    source_mask: Tensor
    lam: float


class Mixture(NamedTuple):
    """A mixed batch and how it came about.

    Fields:
        images: (B, 3, H, W), mixed.
        source_mask: bool (B, h, w), True where a token comes from the partner.
        lam: the own image's share.
        square: k, the window's side in tokens.
        unmixed_logits: (B, K), the probe's.
        attention: float32 (B, h, w), the probe's.
        windows: where each window lies.
    """

    images: Tensor
    source_mask: Tensor
    lam: float
    square: int
    unmixed_logits: Tensor
    attention: Tensor
    windows: Windows


class SMMix(nn.Module):
    """Probe the unmixed batch, mix by attention, train on the mixture.

    Args:
        model: the model under training, of a family in ``dali_mix.smmix.families``, with ``num_classes``
            classes.
        num_classes: K.
        min_side, max_side: the window's side k is drawn from ``int(side * min_side)`` to
            ``int(side * max_side)``, both included, of the token grid's shorter side.
        smoothing: label smoothing in [0, 1], in every target.
        token_head: "independent" gives the tokens a linear classifier of their own (the authors'
            choice), "shared" uses the model's.
        weights: of the classification, fine-grained and consistency loss.
        probe_precision: "autocast" runs the probe as the step runs, "float32" without autocast, as the
            authors do.

    Raises:
        ConfigError: for a model it cannot serve, or arguments outside these ranges.

    The token head belongs to the stage: ``model.state_dict()`` stays a plain timm state, and the
    head is ``stage.token_head`` (None when shared), to be given to the optimizer.

    ``torch.compile(stage)`` compiles the training forward and the losses, once for all k; the probe runs
    eagerly.  With gradient accumulation call the stage once per micro-batch: pairs lie within a call.

    Differs from ChenMnZ/SMMix @14b1edc: k can be given, so that all ranks use one; the probe runs
    under the caller's autocast unless told otherwise; a batch may be odd, its middle sample is then
    mixed with itself (its own most attended window on its own least attended one); every module's train
    or eval mode is restored to what it was instead of ``.train()``.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        *,
        min_side: float = 0.25,
        max_side: float = 0.75,
        smoothing: float = 0.1,
        token_head: str = "independent",
        weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
        probe_precision: str = "autocast",
    ) -> None:
        super().__init__()
        if not 0 < min_side <= max_side < 1:
            raise ConfigError(f"SMMix needs 0 < min_side <= max_side < 1, got {min_side} and {max_side}")
        if not 0 <= smoothing <= 1:
            raise ConfigError(f"smoothing must lie in [0, 1], got {smoothing}")
        if token_head not in ("independent", "shared"):
            raise ConfigError(f"token_head must be 'independent' or 'shared', got {token_head!r}")
        if len(weights) != 3 or min(weights) < 0:
            raise ConfigError(f"weights must be three numbers >= 0, got {weights!r}")
        if probe_precision not in ("autocast", "float32"):
            raise ConfigError(f"probe_precision must be 'autocast' or 'float32', got {probe_precision!r}")
        self._adapter = adapter_for(model)
        if getattr(model, "num_classes", num_classes) != num_classes:
            raise ConfigError(f"the model has {model.num_classes} classes, the stage was asked for {num_classes}")
        self.model = model
        self.num_classes = num_classes
        self.min_side, self.max_side = min_side, max_side
        self.smoothing = smoothing
        self.weights = tuple(weights)
        self.probe_precision = probe_precision
        self.token_head = self._make_token_head() if token_head == "independent" else None

    def _make_token_head(self) -> nn.Linear:
        weight = next(self.model.parameters())
        head = nn.Linear(self._adapter.width, self.num_classes, device=weight.device, dtype=weight.dtype)
        nn.init.trunc_normal_(head.weight, std=0.02)  # as timm initialises the classifier beside it
        nn.init.zeros_(head.bias)
        return head

    def grid(self, size_px: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of the attention grid for images of (H, W) pixels."""
        return self._adapter.grid(size_px)

    def sides(self, grid: tuple[int, int]) -> range:
        """The legal window sides k for a token grid (h, w)."""
        side = min(grid)
        low, high = int(side * self.min_side), int(side * self.max_side)
        if low < 1:
            raise ConfigError(
                f"SMMix: a token grid of {grid[0]} x {grid[1]} has no window of {self.min_side:g} of its side; use "
                f"a larger image, a smaller patch or a larger min_side"
            )
        return range(low, high + 1)

    def draw_square(self, grid: tuple[int, int], generator: torch.Generator | None = None) -> int:
        """A window side k for a token grid (h, w), from ``generator`` (default: torch's CPU stream)."""
        sides = self.sides(grid)
        return int(torch.randint(sides.start, sides.stop, (), generator=generator))

    # Not compiled: its hooks and the switch of modes would break the graph, and be guarded, at every module.
    @torch.compiler.disable
    @torch.no_grad()
    def probe(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Look at the unmixed batch with the current weights, in eval mode and without gradient.

        Args:
            images: (B, 3, H, W).

        Returns:
            logits (B, K), and attention float32 (B, h, w): what each patch receives in the last
            attention, averaged over heads and image-token queries, not renormalised.
        """
        h, w = self.grid(images.shape[-2:])
        with _eval_mode(self.model), self._probe_autocast(images.device.type):
            logits, received = self._adapter.logits_and_received(images)
        # Under autocast this forward has cached half-precision weights that carry no gradient; the
        # next one must not use them.
        torch.clear_autocast_cache()
        return logits, received.reshape(-1, h, w)

    def _probe_autocast(self, device_type: str) -> AbstractContextManager:
        return torch.autocast(device_type, enabled=False) if self.probe_precision == "float32" else nullcontext()

    @torch.compiler.disable
    def mix(self, images: Tensor, square: int | None = None) -> Mixture:
        """Probe a batch and mix it: what :meth:`forward` then trains on.

        Args:
            images: (B, 3, H, W), normalised, unmixed.
            square: k; None draws one.

        Raises:
            ValueError: if the window does not fit the grid.
        """
        grid = self.grid(images.shape[-2:])
        square = self.draw_square(grid) if square is None else square
        unmixed_logits, attention = self.probe(images)
        windows = find_windows(attention, square)
        mixed, source_mask = move_windows(images, windows, square, grid)
        return Mixture(mixed, source_mask, own_share(square, grid), square, unmixed_logits, attention, windows)

    # Only what it calls is compiled: a graph would be specialised for k, which is a number here.
    @torch.compiler.disable(recursive=False)
    def forward(self, images: Tensor, labels: Tensor, square: int | None = None) -> SMMixOutput:
        """One SMMix step on an unmixed batch.

        Args:
            images: (B, 3, H, W), normalised, unmixed.
            labels: int64 (B,).
            square: k, the window's side in tokens; None draws one.  Distributed training must pass
                the same k on every rank.
        """
        mixture = self.mix(images, square)
        # As a tensor, filled on the device: a number would be part of a compiled graph, a copy would wait.
        lam = torch.full((), mixture.lam, device=images.device)
        losses, logits = self._losses(mixture.images, labels, mixture.source_mask, mixture.unmixed_logits, lam)
        loss = torch.stack([weight * part for weight, part in zip(self.weights, losses, strict=True)]).sum()
        return SMMixOutput(loss, *losses, logits, mixture.images, mixture.source_mask, mixture.lam)

    def _losses(
        self, mixed: Tensor, labels: Tensor, source_mask: Tensor, unmixed_logits: Tensor, lam: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """Classification, fine-grained and consistency loss of the mixed images, and their logits."""
        own = smoothed_one_hot(labels, self.num_classes, self.smoothing)
        partner = own.flip(0)
        logits, tokens = self._adapter.logits_and_tokens(mixed)
        head: Callable[[Tensor], Tensor] = self._adapter.classify if self.token_head is None else self.token_head
        classification = soft_cross_entropy(logits, lam * own + (1.0 - lam) * partner)
        fine_grained = fine_grained_loss(tokens, source_mask, head, own, partner)
        return (classification, fine_grained, consistency_loss(logits, unmixed_logits, lam)), logits


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode within the block; afterwards every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
