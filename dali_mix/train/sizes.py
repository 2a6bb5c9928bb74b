"""``--train-img-sizes``: which image size a batch gets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from timm.data.scheduled_sampler import ScheduledBatchSampler
from torch.utils.data import SequentialSampler

from dali_mix.train.settings.sections import Sizes

_STREAM = 7  # keeps these draws apart from the others that the same seed makes


class SizeSchedule:
    """A size for every batch, the same on all ranks and after a restart: drawn from seed, epoch and batch.

    Args:
        sizes: sides in pixels.
        weights: of the sizes; None weighs them alike.
        progressive: move from the first size to the last over the run.
        epochs: of the run.
        spread, random_mix: timm's ``schedule_spread`` and ``schedule_random_mix``.
        seed: equal on all ranks.

    The probabilities are timm's (``timm/data/scheduled_sampler.py``).
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float] | None = None,
        *,
        progressive: bool = False,
        epochs: int = 1,
        spread: float = 0.65,
        random_mix: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.sizes = tuple(sizes)
        self._seed = seed
        self._epochs = epochs
        self._weights = ScheduledBatchSampler(
            SequentialSampler(range(1)),  # only its probabilities are used
            [1] * len(self.sizes),
            choice_weights=list(weights) if weights is not None else None,
            num_batches=1,
            choice_schedule="progressive" if progressive else "constant",
            schedule_epochs=epochs,
            schedule_spread=spread,
            schedule_random_mix=random_mix,
        )
        self.progressive = progressive

    @classmethod
    def of(cls, section: Sizes, epochs: int, seed: int) -> SizeSchedule | None:
        """Make the schedule of a run's settings; None without ``--train-img-sizes``."""
        if section.train_img_sizes is None:
            return None
        return cls(
            section.train_img_sizes,
            section.train_size_probs,
            progressive=section.train_size_schedule == "progressive",
            epochs=epochs,
            spread=section.train_size_schedule_spread,
            random_mix=section.train_size_random_mix,
            seed=seed,
        )

    def probabilities(self, epoch: int) -> list[float]:
        """Return the probability of each size in an epoch, which is counted from 0."""
        weights = self._weights.choice_weights_for_epoch(min(epoch, self._epochs - 1)).double()
        return (weights / weights.sum()).tolist()

    def __call__(self, epoch: int, batch: int) -> int:
        """The size in pixels of a batch, both counted from 0."""
        rng = np.random.default_rng([self._seed, _STREAM, epoch, batch])
        return int(rng.choice(self.sizes, p=self.probabilities(epoch)))
