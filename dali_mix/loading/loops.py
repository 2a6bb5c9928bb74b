"""Loops over a loader, as over a PyTorch DataLoader."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator

from dali_mix.errors import ConfigError
from dali_mix.loading.batch import Batch

AFTER_BREAK = ("next_epoch", "rest")


class EpochLoader(ABC):
    """Batches of a stream of epochs, in loops that begin and end as those over a DataLoader do.

    Args:
        after_break: what a new loop delivers where the one before was left within an epoch: the "next_epoch", or the
            "rest" of that one.

    ``iter(loader)`` stands for an epoch, which begins with its first batch.  As there is one stream, an older iterator
    raises once a newer one has begun.  ``next(loader)`` is the next batch of the stream, and raises StopIteration
    once at the end of an epoch.
    """

    def __init__(self, after_break: str) -> None:
        if after_break not in AFTER_BREAK:
            raise ConfigError(f"after_break must be one of {', '.join(AFTER_BREAK)}, got {after_break!r}")
        self._after_break = after_break
        # Weakly: it holds the loader, and a loader that is dropped must free its pipeline's memory at once.
        self._newest: weakref.ref[_Epoch] | None = None
        self._continues = False

    @abstractmethod
    def __len__(self) -> int:
        """Batches in an epoch on this rank; the same in every epoch."""

    @property
    @abstractmethod
    def delivered(self) -> int:
        """Batches delivered of the epoch in progress."""

    @abstractmethod
    def _advance(self) -> Batch | None:
        """The next batch, None once where an epoch ends."""

    @abstractmethod
    def _skip_rest(self) -> bool:
        """Go to the next epoch without the rest of this one; False if that cannot be done."""

    def __iter__(self) -> Iterator[Batch]:
        return _Epoch(self)

    def __next__(self) -> Batch:
        batch = self._advance()
        self._continues = False
        if batch is None:
            self._end_newest()
            raise StopIteration
        return batch

    def _end_newest(self) -> None:
        epoch = self._newest() if self._newest is not None else None
        if epoch is not None:
            epoch.is_over = True

    def _begin(self, epoch: _Epoch) -> None:
        """Stand at the beginning of an epoch, or in the middle where this is to go on."""
        goes_on = self._continues or self._after_break == "rest"
        at_end = self.delivered == len(self)
        if at_end:
            self._end_newest()
        self._newest = weakref.ref(epoch)
        if at_end:
            self._advance()
        elif self.delivered and not goes_on and not self._skip_rest():
            while self._advance() is not None:
                pass
        self._continues = False

    def _take(self, epoch: _Epoch) -> Batch | None:
        """The next batch of an epoch that has begun."""
        if self._newest is None or self._newest() is not epoch:
            raise ConfigError(
                "a newer loop over this loader has begun, and there is one stream of batches; make a loader, with a "
                "pipeline of its own, for each loop"
            )
        return self._advance()


class _Epoch(Iterator[Batch]):
    """What ``iter(loader)`` returns."""

    def __init__(self, loader: EpochLoader) -> None:
        self._loader = loader
        self._begun = False
        self.is_over = False

    def __next__(self) -> Batch:
        if self.is_over:
            raise StopIteration
        if not self._begun:
            self._loader._begin(self)
            self._begun = True
        batch = self._loader._take(self)
        if batch is None:
            self.is_over = True
            raise StopIteration
        return batch
