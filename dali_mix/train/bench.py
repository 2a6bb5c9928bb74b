"""``--bench-steps``: how fast a run goes once it is under way, and what it took to get there."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any, NamedTuple

import torch

from dali_mix.batch import Batch
from dali_mix.loading.recovery import TolerantLoader
from dali_mix.train.epoch_statistics import EpochStatistics
from dali_mix.train.loop import Trainer
from dali_mix.train.output import Progress, table
from dali_mix.train.settings.choices import shares
from dali_mix.train.settings.sections import Settings

WARM_UP = 6
"""Updates that do not count, at least: kernels are chosen and compiled, buffers grow, and what the pipeline had made
ready in the meantime is used up."""

_OF_EACH_BRANCH = 2
"""Batches of every branch in the warm-up: the second may compile anew, for what the first took for a constant."""

_LONGEST_WARM_UP = 60
"""Updates after which a rare branch is waited for no longer."""

_IMPORTED = time.perf_counter()


class Phase(NamedTuple):
    """Some updates on this rank.

    Fields:
        update_s: seconds of each, on a GPU as the device saw them.
        seconds: of all together, on the wall.
        images: on all ranks.
        data_wait_s: seconds that the step waited for data.
        host_wait_s: seconds that the host waited for the device.
        peak_bytes: most memory that torch held on a GPU; None on the CPU.
    """

    update_s: list[float]
    seconds: float
    images: int
    data_wait_s: float
    host_wait_s: float
    peak_bytes: int | None


class Benchmark:
    """Trains by the trainer's own loop, one epoch after the other, and writes nothing.

    Args:
        trainer: new; its ``watch`` and ``after_update`` are taken.
        loader: at the beginning of an epoch.

    Fields:
        start_up_s: seconds from the start of the process to the first batch; NaN before it.
        epochs: begun so far.
    """

    def __init__(self, trainer: Trainer, loader: TolerantLoader) -> None:
        self._trainer, self._loader = trainer, loader
        self._progress = Progress(1, 1, shown=False)
        self._statistics = EpochStatistics()
        self._updates = 0  # of the epoch
        self._branches: Counter[str] = Counter()
        self._clock = _Clock(trainer.world.device)
        self.start_up_s = math.nan
        self.epochs = 1
        trainer.watch = self._watch
        trainer.after_update = lambda *_: self._clock.mark()

    def warm_up(self, branches: Collection[str]) -> Phase:
        """Train at least :data:`WARM_UP` updates, and until each of these branches has come twice."""
        phases: list[Phase] = []
        # All ranks count alike: they draw the same branches.
        while len(phases) < WARM_UP or (self.missing(branches) and len(phases) < _LONGEST_WARM_UP):
            phases.append(self.phase(1))
        return _joined(phases)

    def missing(self, branches: Collection[str]) -> list[str]:
        """Return those of the branches that have not come twice so far."""
        return [branch for branch in branches if self._branches[branch] < _OF_EACH_BRANCH]

    def phase(self, updates: int) -> Phase:
        """Time so many updates, which all ranks begin together."""
        trainer, device = self._trainer, self._trainer.world.device
        trainer.world.wait()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        host_waited = trainer.waited_s
        self._clock.start()
        parts = []
        while updates:
            parts.append(self._within_epoch(updates))
            updates -= parts[-1][0]
        update_s, seconds = self._clock.stop()
        images, data_wait_s = (sum(part[index] for part in parts) for index in (1, 2))
        return Phase(
            update_s,
            seconds,
            int(images),
            data_wait_s,
            trainer.waited_s - host_waited,
            torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        )

    def _within_epoch(self, most: int) -> tuple[int, int, float]:
        """Train what the epoch has left, ``most`` updates at most; their number, images and seconds of data wait."""
        trainer = self._trainer
        in_epoch = trainer.updates_per_epoch(len(self._loader))
        if self._updates == in_epoch:
            self.epochs, self._updates, self._statistics = self.epochs + 1, 0, EpochStatistics()
        count = min(most, in_epoch - self._updates)
        self._updates += count
        statistics = self._statistics
        images, waited = statistics.images, statistics.waited
        batches = min(self._updates * trainer.accumulate, len(self._loader))
        trainer.train_epoch(self._loader, self.epochs - 1, self._progress, statistics, max_steps=batches)
        return count, statistics.images - images, statistics.waited - waited

    def _watch(self, batch: Batch, plan: Any) -> None:
        if math.isnan(self.start_up_s):
            self.start_up_s = _process_seconds()
        self._branches[batch.branch] += 1


def report(trainer: Trainer, loader: TolerantLoader, settings: Settings, updates: int) -> str | None:
    """Time some updates, after those that do not count.

    Args:
        trainer: new.
        loader: at the beginning of an epoch.
        settings: of the run.
        updates: that count.

    Returns:
        Lines for the main rank to print; None on the others.
    """
    bench = Benchmark(trainer, loader)
    choices = shares(settings)
    branches = [*choices, *(["none"] if sum(choices.values()) < 1 - 1e-9 else [])]
    warm_up = bench.warm_up(branches)
    steady = bench.phase(updates)
    gathered = trainer.world.gather((bench.start_up_s, warm_up, steady))
    if gathered is None:
        return None
    lines = _lines(trainer, gathered, settings.reading.batch_size, bench.epochs)
    if missing := bench.missing(branches):
        lines.append(("note", f"{' and '.join(missing)} came less than twice in the warm-up: what they compile counts"))
    return table(lines)


def _lines(
    trainer: Trainer, ranks: Sequence[tuple[float, Phase, Phase]], batch_size: int, epochs: int
) -> list[tuple[str, str]]:
    """What is said of the figures of all ranks."""
    start_ups, warm_ups, steady = zip(*ranks, strict=True)
    world, warm_up, first = trainer.world, warm_ups[0], steady[0]
    seconds = max(phase.seconds for phase in steady)
    updates = len(first.update_s)
    low, median, high = _quartiles(first.update_s)
    batches = "batches" if trainer.accumulate == 1 else f"times {trainer.accumulate} batches"
    lines = [
        ("start-up", f"{max(start_ups):.1f} s, from the start of the process to the first batch"),
        ("warm-up", f"{len(warm_up.update_s)} updates in {warm_up.seconds:.1f} s, the first {warm_up.update_s[0]:.1f} "
            "s: compilation, kernels, buffers; not counted below"),
        ("steady", f"{updates} {batches} of {batch_size} on each of {world.size} rank(s), to epoch {epochs}"),
        ("speed", f"{first.images / seconds:.1f} img/s"),
        ("update", f"{1000 * median:.1f} ms ({1000 * low:.1f}..{1000 * high:.1f}), median and quartiles"),
        ("data wait", f"{_over_ranks([phase.data_wait_s / phase.seconds for phase in steady], '.1%')} of the time"),
    ]  # fmt: skip
    waits = _over_ranks([1000 * phase.host_wait_s / updates for phase in steady], ".1f")
    on_cpu = "" if world.device.type == "cuda" else "; on the CPU they are one"
    lines.append(("host idle", f"{waits} ms per update in which the host waited for the device{on_cpu}"))
    peaks = [phase.peak_bytes for phase in steady if phase.peak_bytes is not None]
    if peaks:
        lines.append(("memory", f"{max(peaks) / 2**30:.2f} GiB at most, by torch; the pipeline's is not in it"))
    return lines


def _over_ranks(values: Sequence[float], form: str) -> str:
    """The mean, and of several ranks the largest too."""
    text = f"{fmean(values):{form}}"
    return text if len(values) == 1 else f"{text} (on one rank up to {max(values):{form}})"


def _quartiles(values: Sequence[float]) -> list[float]:
    return quantiles(values, n=4, method="inclusive") if len(values) > 1 else list(values) * 3


def _joined(phases: Sequence[Phase]) -> Phase:
    """Phases that followed each other, as one."""
    peaks = [phase.peak_bytes for phase in phases if phase.peak_bytes is not None]
    return Phase(
        [seconds for phase in phases for seconds in phase.update_s],
        sum(phase.seconds for phase in phases),
        sum(phase.images for phase in phases),
        sum(phase.data_wait_s for phase in phases),
        sum(phase.host_wait_s for phase in phases),
        max(peaks, default=None),
    )


class _Clock:
    """When each update was done, without waiting for the device in between."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = 0.0
        self._times: list[float] = []
        self._events: list[torch.cuda.Event] = []

    def start(self) -> None:
        """Begin, at a moment at which the device has done all its work."""
        self._synchronize()
        self._start = time.perf_counter()
        self._times, self._events = [self._start], []
        if self._device.type == "cuda":
            self.mark()

    def mark(self) -> None:
        """Mark that an update has been launched: the device notes when it gets there."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            self._events.append(event)
        else:
            self._times.append(time.perf_counter())

    def stop(self) -> tuple[list[float], float]:
        """Return the seconds between the marks, and of the whole until the device has done all its work."""
        self._synchronize()
        seconds = time.perf_counter() - self._start
        if self._events:
            pairs = zip(self._events, self._events[1:], strict=False)
            return [before.elapsed_time(after) / 1000 for before, after in pairs], seconds
        return [after - before for before, after in zip(self._times, self._times[1:], strict=False)], seconds

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _process_seconds() -> float:
    """Since this process was started; where the system does not tell, since this module was imported."""
    since_import = time.perf_counter() - _IMPORTED
    try:
        # proc(5): the name in parentheses may hold spaces; the start is the 20th field behind it.
        started = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return since_import
    return max(age, since_import)
