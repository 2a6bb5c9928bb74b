"""The files of a source that are bad, and what is read in their place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import cached_property
from typing import Any, NamedTuple, overload

import numpy as np
from nvidia.dali.pipeline import Pipeline

from dali_mix.errors import DataError
from dali_mix.loading.probe import Probed, probe_images
from dali_mix.sources.base import Source
from dali_mix.sources.reading import read_one

_CANDIDATES = 4
"""Files probed at first for each replacement that is looked for; twice as many each time that all of them are bad."""

_DENSE = 16
"""Failures with fewer batches than this between them are worth looking ahead: to build a pipeline anew takes about as
long as to decode so many batches."""

_log = logging.getLogger(__name__)


class BadImage(NamedTuple):
    """A file that could not be used.

    Fields:
        path: absolute; of an image that is no file, what its source calls it.
        reason: one short line.
    """

    path: str
    reason: str


class LookAhead(NamedTuple):
    """How many batches after a failed one are judged with it, so that many bad files do not cost a rebuild each.

    Twice as many each time that the next failure comes soon, half as many otherwise: the number of rebuilds grows
    with the logarithm of the number of bad files.  It depends on nothing but which batches failed, as a run that is
    resumed must find the same files bad.

    Fields:
        batches: looked ahead last time, where the epoch was long enough.
        end: number in its epoch, from 0, of the first batch that was not judged then.
    """

    batches: int = 0
    end: int = 0

    def after(self, failed: int, size: int) -> LookAhead:
        """Decide how far to look ahead next.

        Args:
            failed: number of the batch that failed, from 0, in its epoch.
            size: batches in an epoch; nothing of the next one is judged.
        """
        gap = failed - self.end if failed >= self.end else failed  # in another epoch
        batches = 2 * self.batches + 1 if gap <= max(self.batches, _DENSE) else self.batches // 2
        return LookAhead(batches, min(failed + 1 + batches, max(size, failed + 1)))


class Replacements:
    """The files of a source that are bad, and what is read instead.

    Args:
        source: as it was listed.
        report: called once for each bad file; may raise.

    Fields:
        reasons: why a file is bad, by its index in the source.
        replaced: index of a bad file, and of the file to read instead.
    """

    def __init__(self, source: Source, report: Callable[[BadImage], None]) -> None:
        self._source = source
        self._report = report
        self._decoding: dict[str, Any] = {}
        self._good = np.zeros(len(source), bool)
        self._reported: set[str] = set()
        self.reasons: dict[int, str] = {}
        self.replaced: dict[int, int] = {}

    def state(self) -> list[list[Any]]:
        """Return rows of index, replacement's index and reason, by the index."""
        return [[index, self.replaced[index], reason] for index, reason in sorted(self.reasons.items())]

    def load_state(self, state: Iterable[list[Any]]) -> None:
        """Take over what ``state`` gave."""
        rows = list(state)
        self.reasons = {index: reason for index, _, reason in rows}
        self.replaced = {index: other for index, other, _ in rows}
        self._reported = {self._source.describe(index) for index in self.reasons}

    def decode_like(self, pipeline: Pipeline) -> None:
        """Probe with the backend that a pipeline decodes with."""
        device_id = pipeline.device_id
        self._decoding = {"device": "cpu"} if device_id is None else {"device": "gpu", "device_id": device_id}
        self._decoding["num_threads"] = pipeline.num_threads

    def judge(self, entries: Iterable[int]) -> bool:
        """Decode what is read for these entries; note and report what is bad.  Returns whether anything is."""
        found = False
        for file, error in self._probe([file for file in map(self._read_for, entries) if file not in self.reasons]):
            self._good[file] = error is None
            if error is not None:
                self._note(file, error)
                found = True
        return found

    def judge_ahead(self, batches: Iterable[Iterable[int]]) -> None:
        """Judge batches that have not failed yet; no file that was sound is decoded again."""
        self.judge([entry for batch in batches for entry in batch if not self._good[self._read_for(entry)]])

    def believe(self, message: str, entries: Iterable[int]) -> bool:
        """Note as bad what DALI names, whatever the probe says.  Returns whether it names anything."""
        named = [file for file in map(self._read_for, entries) if self._source.describe(file) in message]
        for file in named:
            self._note(file, "DALI fails with it, though not always")
        return bool(named)

    def assign(self) -> None:
        """Find a replacement for every bad file that has none, or one that is bad itself.

        Raises:
            DataError: if no file of the folder is good.

        A candidate that is bad is passed over, but not noted: a random crop may do without what it lacks, and when
        it is read must not depend on who looked for a replacement.  If a whole class is bad, that is told at once.
        """
        fit: dict[int, bool] = {}
        errors: dict[int, str] = {}
        wide = _CANDIDATES
        while waiting := [file for file in self.reasons if self.replaced.get(file, file) in self.reasons]:
            unfit = self._mask(self.reasons) | self._mask(errors)
            candidates = {file: self._candidates(file, unfit, wide) for file in waiting}
            strangers = {file for file in waiting if self._labels[candidates[file][0]] != self._labels[file]}
            labels = {self._labels[file] for file in strangers}
            for other in [other for other in errors if self._labels[other] in labels]:
                self._note(other, errors.pop(other))
            unknown = [other for others in candidates.values() for other in others if other not in fit]
            for other, error in self._probe(unknown):
                fit[other] = error is None
                if error is not None:
                    errors[other] = error
            for file, others in candidates.items():
                good = next((other for other in others if fit[other]), None)
                if good is not None:
                    self.replaced[file] = good
            wide *= 2

    def _candidates(self, file: int, unfit: np.ndarray, count: int) -> list[int]:
        """The next few files that may stand in for one: those of its class, or of any if they are all bad."""
        own = self._class_files(int(self._labels[file]))
        fit = own[~unfit[own]]
        if not len(fit):
            fit = np.flatnonzero(~unfit)
        if not len(fit):
            first = next(iter(self.reasons))
            raise DataError(
                f"none of the {len(self._source)} files in {self._source.name} can be used, the first is "
                f"{self._source.describe(first)}: {self.reasons[first]}"
            )
        start = int(np.searchsorted(fit, file))
        found: list[int] = np.take(fit, range(start, start + min(count, len(fit))), mode="wrap").tolist()
        return found

    @cached_property
    def _labels(self) -> np.ndarray:
        return np.asarray(self._source.labels)

    @cached_property
    def _by_class(self) -> np.ndarray:
        return np.argsort(self._labels, kind="stable")

    def _class_files(self, label: int) -> np.ndarray:
        ends = np.searchsorted(self._labels, [label, label + 1], sorter=self._by_class)
        return self._by_class[ends[0] : ends[1]]

    def _mask(self, files: Iterable[int]) -> np.ndarray:
        mask = np.zeros(len(self._source), bool)
        mask[list(files)] = True
        return mask

    def _read_for(self, entry: int) -> int:
        return self.replaced.get(entry, entry)

    def _note(self, file: int, reason: str) -> None:
        path = self._source.describe(file)
        known = path in self._reported  # a folder may list a file twice
        self.reasons[file] = reason
        self._reported.add(path)
        if not known:
            self._report(BadImage(path, reason))

    def _probe(self, files: Iterable[int]) -> Iterator[tuple[int, str | None]]:
        """Each file once, with what is wrong with it, as soon as that is known."""
        by_name: dict[str, list[int]] = {}
        for file in dict.fromkeys(files):
            by_name.setdefault(self._source.describe(file), []).append(file)
        alike = list(by_name.values())
        images = _Images(self._source, [first for first, *_ in alike])
        for place, probed in enumerate(self._probed(images)):
            yield from ((file, images.errors.get(place, probed.error)) for file in alike[place])

    def _probed(self, images: _Images) -> Iterator[Probed]:
        try:
            with closing(probe_images(images, **self._decoding)) as probing:
                first = next(probing, None)
                if first is not None:
                    yield first
                    yield from probing
                return
        except DataError as error:
            if self._decoding["device"] == "cpu":
                raise
            # The run may have left no memory on its GPU for another process.
            _log.warning("the GPU cannot be used to look for bad images (%s); the CPU decodes them", error)
        with closing(probe_images(images, num_threads=self._decoding["num_threads"])) as probing:
            yield from probing


class _Images(Sequence[str | np.ndarray]):
    """Images of a source for ``probe_images``, read when they are asked for.

    Fields:
        errors: place of an image that the source could not read, and why.
    """

    def __init__(self, source: Source, indices: list[int]) -> None:
        self._source, self._indices = source, indices
        self.errors: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, place: int) -> str | np.ndarray: ...
    @overload
    def __getitem__(self, place: slice) -> list[str | np.ndarray]: ...
    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [self[each] for each in range(len(self))[place]]
        index = self._indices[place]
        if self._source.gives_paths:
            return self._source.read([index])[0]
        try:
            return read_one(self._source, index)
        except DataError as error:
            self.errors[place] = str(error)
            return np.zeros(0, np.uint8)
