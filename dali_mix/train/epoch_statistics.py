"""What an epoch has come to so far."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dali_mix.train.distributed import World

_FIELDS = ("batches", "images", "skipped", "waited", "lr", "img_size", "closed")


@dataclass
class EpochStatistics:
    """Sums and counts of an epoch; on each rank its own, except where noted.

    Fields:
        batches: trained.
        images: of these batches, on all ranks.
        skipped: updates that were not made, as something was not finite.
        waited: seconds that the step waited for data.
        lr: of the newest batch.
        img_size: of the newest batch, in pixels.
        closed: the epoch is trained and what follows it is done; only the evaluation is missing.
        earlier: seconds that other processes have worked on the epoch.
        counts: for each loss the batches that are in its sum.
        losses: names of the losses that are summed, in their order in ``sums``.
        sums: float64 (losses,), on the device; None before the first.
    """

    batches: int = 0
    images: int = 0
    skipped: int = 0
    waited: float = 0.0
    lr: float = 0.0
    img_size: int = 0
    closed: bool = False
    earlier: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    losses: tuple[str, ...] = ()
    sums: Tensor | None = None
    _start: float = field(default_factory=time.perf_counter)

    def start(self) -> None:
        """Let the time run from here; what was set up or saved before is not the epoch's."""
        self._start = time.perf_counter()

    def add_batch(self, images: int) -> None:
        """Count a batch of so many images on all ranks."""
        self.batches += 1
        self.images += images

    def add_losses(self, names: tuple[str, ...], losses: Tensor, refused: Tensor | None = None) -> None:
        """Add the losses of an update; nothing waits for the device.

        Args:
            names: of the losses, the same throughout the epoch.
            losses: float64 (batches, losses), 0 where a batch has no such loss.
            refused: () on their device, not 0 if the update was not made and they do not count.
        """
        added = losses.sum(0)
        if refused is not None:
            added = torch.where(refused > 0, torch.zeros_like(added), added)
        self.sums = added if self.sums is None else self._sums_of(names).to(added.device) + added
        self.losses = names

    def count_update(self, counts: Counter[str]) -> None:
        """Count an update that was made.

        Args:
            counts: for each loss the batches of the update that have it.
        """
        self.counts += counts

    @property
    def seconds(self) -> float:
        """The time since the start of the epoch, without that in which no process ran."""
        return self.earlier + time.perf_counter() - self._start

    @property
    def img_per_s(self) -> float:
        """The images per second, over all ranks."""
        return self.images / self.seconds

    @property
    def data_wait(self) -> float:
        """The share of the time that the step waited for data."""
        return self.waited / self.seconds

    def row(self, world: World) -> dict[str, float]:
        """Compute the "train_*", "lr", "img_size", "img_per_s" and "data_wait" columns of the summary.

        Losses are means over the epoch and all ranks, each over the batches that have it.  An epoch without an update
        has none.
        """
        row = {
            "lr": self.lr,
            "img_size": float(self.img_size),
            "img_per_s": self.img_per_s,
            "data_wait": self.data_wait,
        }
        counts = torch.tensor([self.counts[name] for name in self.losses], dtype=torch.float64, device=world.device)
        totals = world.reduce_sum(torch.stack([self._sums_of(self.losses).to(world.device), counts])).tolist()
        for name, total, count in zip(self.losses, *totals, strict=True):
            if count:
                row[f"train_{name}"] = total / count
        return row

    def _sums_of(self, names: tuple[str, ...]) -> Tensor:
        """The sums in another order; a loss that was not summed so far has 0."""
        if self.sums is None:
            return torch.zeros(len(names), dtype=torch.float64)
        if names == self.losses:
            return self.sums
        known = dict(zip(self.losses, self.sums, strict=True))
        return torch.stack([known.get(name, self.sums.new_zeros(())) for name in names])

    def state_dict(self) -> dict[str, Any]:
        """Return plain types; "losses" has for each loss its sum, and the number of batches in it."""
        sums = zip(self.losses, self._sums_of(self.losses).tolist(), strict=True)
        losses = {name: [total, self.counts[name]] for name, total in sums}
        return {name: getattr(self, name) for name in _FIELDS} | {"earlier": self.seconds, "losses": losses}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> EpochStatistics:
        """Go on from a state."""
        losses: dict[str, tuple[float, int]] = state["losses"]
        return cls(
            **{name: state[name] for name in (*_FIELDS, "earlier")},
            counts=Counter({name: count for name, (_, count) in losses.items()}),
            losses=tuple(losses),
            sums=torch.tensor([total for total, _ in losses.values()], dtype=torch.float64),
        )
