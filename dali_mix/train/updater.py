"""Turns the losses of an update into new weights."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from timm.utils import dispatch_clip_grad
from torch import Tensor, nn

from dali_mix.train.optimizer import Precision
from dali_mix.train.undo import RevocableOptimizer


@dataclass
class Updater:
    """Backward passes and, after the last batch of an update, the update; nothing here waits for the device.

    Fields:
        optimizer: of timm.
        precision: holds the loss scaler.
        clipped: parameters whose gradients are clipped.
        clip: value of ``--clip-grad``, None for no clipping.
        clip_mode: "norm", "value" or "agc".
    """

    optimizer: torch.optim.Optimizer
    precision: Precision
    clipped: list[nn.Parameter]
    clip: float | None = None
    clip_mode: str = "norm"
    _revocable: RevocableOptimizer = field(init=False)

    def __post_init__(self) -> None:
        self._revocable = RevocableOptimizer(self.optimizer)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss to the parameters'."""
        self.precision.scaler.scale(loss).backward()

    def clip_gradients(self, *, look: bool = True) -> Tensor | None:
        """Clip the summed gradient, if that is asked for.

        Args:
            look: whether the answer is wanted.

        Returns:
            Whether the gradient is finite, a bool () on its device; all ranks get the same answer.  None, as if it
            were, without a gradient and with a loss scaler: that makes gradients overflow on purpose, and skips such
            updates itself.
        """
        scaler = self.precision.scaler
        if scaler.is_enabled():
            scaler.unscale_(self._revocable)  # type: ignore[arg-type]  # it only needs param_groups
            look = False
        gradients = self._gradients() if look else []
        norm = None
        if self.clip is not None and self.clip_mode == "norm":
            norm = nn.utils.clip_grad_norm_(self.clipped, self.clip)
        else:
            # Before it is clipped: an infinite value would become a large one.
            norm = nn.utils.get_total_norm(gradients) if gradients else None
            if self.clip is not None:
                dispatch_clip_grad(self.clipped, value=self.clip, mode=self.clip_mode)
        return norm.isfinite() if gradients and norm is not None else None

    def _gradients(self) -> list[Tensor]:
        parameters = (parameter for group in self.optimizer.param_groups for parameter in group["params"])
        return [parameter.grad for parameter in parameters if parameter.grad is not None]

    def update(self, refused: Tensor | None = None) -> Tensor | None:
        """Make one step of the optimizer on the summed gradient, which is then gone.

        Args:
            refused: float32 () on the device of the weights, 1 if the step must leave no trace.

        Returns:
            The same, also 1 if the loss scaler refuses the step; None if nobody looks.  If it is 1,
            :meth:`forget` has to be called before the next update.
        """
        scaler, step = self.precision.scaler, self._revocable
        step.refused = refused
        scaler.step(step)  # type: ignore[arg-type]  # its protocol for optimizers that skip by themselves
        scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return step.revoked

    def forget(self) -> None:
        """Take back on the host the update that the device has taken back."""
        self._revocable.forget()
