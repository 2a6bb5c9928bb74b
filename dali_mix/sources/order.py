"""The order that images are read in: a pure function of epoch and batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dali_mix.errors import ConfigError

_KEPT = 2
"""Permutations: that of the epoch in progress, and that of the one which is read ahead."""


@dataclass(frozen=True)
class Order:
    """Which images a rank's batches hold.

    With ``shuffle``, for training, each epoch is another permutation of all images, equal on all ranks.  The batches
    of all ranks with one index are its next ``ranks * batch_size`` images, or copies: they are dealt out one by one,
    so that copies of an image go to different ranks.  What does not fill another such row is left out of the epoch:
    every rank has full batches, and as many.  So another number of ranks whose batches together are as large reads the
    same images in each update.

    Without, for validation, each rank has a run of the images as they are listed, each once, and its last batch may be
    incomplete.

    Fields:
        size: images of the source.
        batch_size: of this rank.
        rank, ranks: this rank's place, and how many there are.
        seed: of the permutations; must be equal on all ranks.  Permutations do not change with the version of NumPy.
        shuffle: see above.
        repeats: copies of an image that follow one another before they are dealt out, as in DeiT's repeated
            augmentation.  An epoch keeps its length, and has so many times fewer images.  Differs from DeiT's
            ``RASampler``: an epoch ends with a whole row, and not with a multiple of 256 images.

    Raises:
        ConfigError: for values that make no order.
    """

    size: int
    batch_size: int
    rank: int = 0
    ranks: int = 1
    seed: int = 0
    shuffle: bool = True
    repeats: int = 1
    _permutations: dict[int, NDArray[np.int32]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if min(self.size, self.batch_size, self.repeats) < 1 or not 0 <= self.rank < self.ranks:
            raise ConfigError(
                f"an order needs images, batches and a rank of its ranks, got size {self.size}, batch_size "
                f"{self.batch_size}, repeats {self.repeats}, rank {self.rank} of {self.ranks}"
            )
        if self.repeats > 1 and not self.shuffle:
            raise ConfigError(f"repeats is for training, where shuffle=True, got {self.repeats}")

    @property
    def batches(self) -> int:
        """Batches in an epoch on this rank; an incomplete one counts."""
        if self.shuffle:
            return self.size // (self.ranks * self.batch_size)
        first, last = self._run
        return -(-(last - first) // self.batch_size)

    def batch(self, epoch: int, index: int) -> NDArray[np.int32]:
        """Compute the images of a batch.

        Args:
            epoch, index: of the batch, both counted from 0; the index is below ``batches``.

        Returns:
            int32 (B,), indices into the source.
        """
        if not self.shuffle:
            first, last = self._run
            first += index * self.batch_size
            return np.arange(first, min(first + self.batch_size, last), dtype=np.int32)
        row = index * self.ranks * self.batch_size
        places = row + self.rank + self.ranks * np.arange(self.batch_size)
        chosen: NDArray[np.int32] = self._permutation(epoch)[places // self.repeats]
        return chosen

    @property
    def _run(self) -> tuple[int, int]:
        """Find where this rank's images begin and end in a set that keeps its order."""
        return self.size * self.rank // self.ranks, self.size * (self.rank + 1) // self.ranks

    def _permutation(self, epoch: int) -> NDArray[np.int32]:
        if epoch not in self._permutations:
            while len(self._permutations) >= _KEPT:
                del self._permutations[min(self._permutations, key=lambda other: -abs(other - epoch))]
            self._permutations[epoch] = permutation(self.size, self.seed, epoch)
        return self._permutations[epoch]


def permutation(size: int, seed: int, epoch: int) -> NDArray[np.int32]:
    """Put the numbers from 0 to ``size`` in an order that seed and epoch decide.

    Sorted by random bits: what NumPy promises not to change are the bits of a generator, not what is made of them.
    """
    bits = np.random.PCG64(np.random.SeedSequence([seed & (1 << 64) - 1, epoch])).random_raw(size)
    places = np.uint64((1 << size.bit_length()) - 1)
    return (np.sort((bits & ~places) | np.arange(size, dtype=np.uint64)) & places).astype(np.int32)
