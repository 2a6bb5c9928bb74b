"""SMMix as one stage of the training step (Chen, ICCV 2023, arXiv 2212.12977)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dali_mix.errors import ConfigError
from dali_mix.methods.attention import adapter_for
from dali_mix.methods.losses import smoothed_one_hot, soft_cross_entropy
from dali_mix.methods.smmix.losses import consistency_loss, fine_grained_loss
from dali_mix.methods.smmix.regions import Windows, check_square, find_windows, move_windows, own_share


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
        model: the model under training, of a family in ``dali_mix.methods.attention``, with ``num_classes``
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

    ``torch.compile(stage)`` and ``stage.compile()`` compile its parts, each once for all k: the model up to the last
    attention (in eval mode for the probe and in train mode), the probe's end, the regions, the forward's end and the
    losses.  With CUDA graphs (``mode="reduce-overhead"``) an output is overwritten by the next call; clone what is to
    outlive it.  With gradient accumulation call the stage once per micro-batch: pairs lie within a call.

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
        nn.init.trunc_normal_(head.weight, std=0.02)  # as timm initializes the classifier beside it
        nn.init.zeros_(head.bias)
        return head

    @torch.compiler.disable
    def grid(self, size_px: Sequence[int]) -> tuple[int, int]:
        """Return rows and columns of the attention grid for images of (H, W) pixels."""
        return self._adapter.grid(size_px)

    def sides(self, grid: tuple[int, int]) -> range:
        """List the legal window sides k for a token grid (h, w)."""
        side = min(grid)
        low, high = int(side * self.min_side), int(side * self.max_side)
        if low < 1:
            raise ConfigError(
                f"SMMix: a token grid of {grid[0]} x {grid[1]} has no window of {self.min_side:g} of its side; use "
                f"a larger image, a smaller patch or a larger min_side"
            )
        return range(low, high + 1)

    def draw_square(self, grid: tuple[int, int], generator: torch.Generator | None = None) -> int:
        """Draw a window side k for a token grid (h, w), from ``generator`` (default: torch's CPU stream)."""
        sides = self.sides(grid)
        return int(torch.randint(sides.start, sides.stop, (), generator=generator))

    # Of this and the other functions with this mark only what they call is compiled, part by part: parts are shared,
    # and a graph would be specialized for k, which is a number here.
    @torch.compiler.disable(recursive=False)
    def probe(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Look at the unmixed batch with the current weights, in eval mode and without gradient.

        Args:
            images: (B, 3, H, W).

        Returns:
            logits (B, K), and attention float32 (B, h, w): what each patch receives in the last
            attention, averaged over heads and image-token queries, not renormalized.
        """
        grid = self.grid(images.shape[-2:])
        if self.probe_precision == "float32":
            images = images.float()  # under mixed precision a pipeline delivers half-precision images
        training = _to_eval(self.model)
        try:
            with torch.no_grad(), self._probe_autocast(images.device.type):
                logits, attention = self._observe(self._trunk(images), grid)
        finally:
            _to_train(training)
        # Under autocast this forward has cached half-precision weights that carry no gradient; the
        # next one must not use them.
        torch.clear_autocast_cache()
        return logits, attention

    @torch.compiler.disable
    def _probe_autocast(self, device_type: str) -> AbstractContextManager:
        return torch.autocast(device_type, enabled=False) if self.probe_precision == "float32" else nullcontext()

    @torch.compiler.disable(recursive=False)
    def mix(self, images: Tensor, square: int | None = None) -> Mixture:
        """Probe a batch and mix it: what :meth:`forward` then trains on.

        Args:
            images: (B, 3, H, W), normalized, unmixed.
            square: k; None draws one.

        Raises:
            ValueError: if the window does not fit the grid.
        """
        grid = self.grid(images.shape[-2:])
        square = self._checked_square(grid, square)
        unmixed_logits, attention = self.probe(images)
        mixed, source_mask, windows = _mix_regions(images, attention, _on_device(square, images))
        return Mixture(mixed, source_mask, own_share(square, grid), square, unmixed_logits, attention, windows)

    @torch.compiler.disable
    def _checked_square(self, grid: tuple[int, int], square: int | None) -> int:
        if square is None:
            return self.draw_square(grid)
        check_square(square, grid)
        return square

    @torch.compiler.disable(recursive=False)
    def forward(self, images: Tensor, labels: Tensor, square: int | None = None) -> SMMixOutput:
        """Make one SMMix step on an unmixed batch.

        Args:
            images: (B, 3, H, W), normalized, unmixed.
            labels: int64 (B,).
            square: k, the window's side in tokens; None draws one.  Distributed training must pass
                the same k on every rank.
        """
        mixture = self.mix(images, square)
        logits, tokens = self._finish(self._trunk(mixture.images), self.grid(images.shape[-2:]))
        lam = _on_device(mixture.lam, images)
        losses = self._losses(logits, tokens, labels, mixture.source_mask, mixture.unmixed_logits, lam)
        return SMMixOutput(*losses, logits, mixture.images, mixture.source_mask, mixture.lam)

    @torch.compiler.disable(recursive=False)
    def classify(self, images: Tensor) -> Tensor:
        """``model(images)``, logits (B, K), through the parts that the SMMix step has compiled.

        Args:
            images: (B, 3, H, W).
        """
        return self._finish(self._trunk(images), self.grid(images.shape[-2:]))[0]

    def _trunk(self, images: Tensor) -> Tensor:
        return self._adapter.trunk(images)

    def _finish(self, hidden: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return self._adapter.finish(hidden, grid)

    def _observe(self, hidden: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        logits, received = self._adapter.observe(hidden, grid)
        return logits, received.unflatten(1, grid)

    def _losses(
        self,
        logits: Tensor,
        tokens: Tensor,
        labels: Tensor,
        source_mask: Tensor,
        unmixed_logits: Tensor,
        lam: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Their weighted sum; classification, fine-grained and consistency loss of the mixed images."""
        own = smoothed_one_hot(labels, self.num_classes, self.smoothing)
        partner = own.flip(0)
        head: Callable[[Tensor], Tensor] = self._adapter.classify if self.token_head is None else self.token_head
        losses = (
            soft_cross_entropy(logits, lam * own + (1.0 - lam) * partner),
            fine_grained_loss(tokens, source_mask, head, own, partner),
            consistency_loss(logits, unmixed_logits, lam),
        )
        weighted = [weight * part for weight, part in zip(self.weights, losses, strict=True)]
        return torch.stack(weighted).sum(), *losses


def _mix_regions(images: Tensor, attention: Tensor, square: Tensor) -> tuple[Tensor, Tensor, Windows]:
    """Mixed images, source mask and windows."""
    windows = find_windows(attention, square)
    mixed, source_mask = move_windows(images, windows, square, (attention.shape[1], attention.shape[2]))
    return mixed, source_mask, windows


@torch.compiler.disable
def _on_device(number: float, images: Tensor) -> Tensor:
    """() beside the images.  A number would be part of a compiled graph, a copy from the host would wait."""
    return torch.full((), number, device=images.device)


@torch.compiler.disable
def _to_eval(model: nn.Module) -> list[nn.Module]:
    """Put a model into eval mode; returns the modules that were not."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    return training


@torch.compiler.disable
def _to_train(modules: Sequence[nn.Module]) -> None:
    for module in modules:
        module.training = True
