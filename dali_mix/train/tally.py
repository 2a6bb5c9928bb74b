"""What an epoch has come to so far."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dali_mix.train.distributed import World
from dali_mix.train.step import StepLosses

_COUNTS = ("batches", "images", "summed_batches", "smmix_batches", "skipped", "waited", "lr", "img_size", "closed")


@dataclass
class Tally:
    """Sums and counts of an epoch; on each rank its own, except where noted.

    Fields:
        batches: trained.
        images: of these batches, on all ranks.
        summed_batches: those whose losses are in ``sums``.
        smmix_batches: those of them that SMMix mixed.
        skipped: updates that were not made, as something was not finite.
        waited: seconds that the step waited for data.
        lr: of the newest batch.
        img_size: of the newest batch, in pixels.
        closed: the epoch is trained and what follows it is done; only the evaluation is missing.
        earlier: seconds that other processes have worked on the epoch.
        sums: float64, of each of :class:`StepLosses`, on the device; None before the first.
    """

    batches: int = 0
    images: int = 0
    summed_batches: int = 0
    smmix_batches: int = 0
    skipped: int = 0
    waited: float = 0.0
    lr: float = 0.0
    img_size: int = 0
    closed: bool = False
    earlier: float = 0.0
    sums: Tensor | None = None
    _start: float = field(default_factory=time.perf_counter)

    def start(self) -> None:
        """Let the time run from here; what was set up or saved before is not the epoch's."""
        self._start = time.perf_counter()

    def add_batch(self, images: int) -> None:
        """Count a batch of so many images on all ranks."""
        self.batches += 1
        self.images += images

    def add_losses(self, losses: Tensor, refused: Tensor | None = None) -> None:
        """Add the losses of an update; nothing waits for the device.

        Args:
            losses: float64 (batches, losses).
            refused: () on their device, not 0 if the update was not made and they do not count.
        """
        added = losses.sum(0)
        if refused is not None:
            added = torch.where(refused > 0, torch.zeros_like(added), added)
        self.sums = added if self.sums is None else self.sums.to(added.device) + added

    def count_update(self, batches: int, smmix_batches: int) -> None:
        """Count an update that was made.

        Args:
            batches: whose losses were added.
            smmix_batches: those of these batches that SMMix mixed.
        """
        self.summed_batches += batches
        self.smmix_batches += smmix_batches

    @property
    def seconds(self) -> float:
        """Since the start of the epoch, without the time in which no process ran."""
        return self.earlier + time.perf_counter() - self._start

    @property
    def img_per_s(self) -> float:
        """Over all ranks."""
        return self.images / self.seconds

    @property
    def data_wait(self) -> float:
        """Share of the time that the step waited for data."""
        return self.waited / self.seconds

    def row(self, world: World) -> dict[str, float]:
        """The "train_*", "lr", "img_size", "img_per_s" and "data_wait" columns of the summary.

        Losses are means over the epoch and all ranks; the parts that only SMMix has, over SMMix batches.  An
        epoch without an update has none.
        """
        row = {
            "lr": self.lr,
            "img_size": float(self.img_size),
            "img_per_s": self.img_per_s,
            "data_wait": self.data_wait,
        }
        counts = torch.tensor([self.summed_batches, self.smmix_batches], dtype=torch.float64, device=world.device)
        sums = world.reduce_sum(torch.cat([self._sums.to(world.device), counts]))
        loss, classification, fine_grained, consistency, batches, smmix_batches = sums.tolist()
        if batches:
            row |= {"train_loss": loss / batches, "train_classification": classification / batches}
        if smmix_batches:
            row |= {
                "train_fine_grained": fine_grained / smmix_batches,
                "train_consistency": consistency / smmix_batches,
            }
        return row

    @property
    def _sums(self) -> Tensor:
        return torch.zeros(len(StepLosses._fields), dtype=torch.float64) if self.sums is None else self.sums

    def state_dict(self) -> dict[str, Any]:
        """Plain types and a tensor."""
        counts = {name: getattr(self, name) for name in _COUNTS}
        return counts | {"earlier": self.seconds, "sums": self._sums.cpu()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Tally:
        """Go on from a state."""
        return cls(**{name: state[name] for name in (*_COUNTS, "earlier", "sums")})
