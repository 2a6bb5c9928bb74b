"""Fair timing of alternatives on a machine whose speed drifts: in turn, round by round, by the median."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

Figure = TypeVar("Figure")


def interleave(
    alternatives: Mapping[str, Callable[[], Figure]], rounds: int, limit_s: float | None = None
) -> dict[str, list[Figure]]:
    """What each alternative returned in each round.

    Args:
        alternatives: each call does its work once and returns what it measured, seconds for example.
        rounds: how often each is called; every second round runs in reverse order, so that none always follows
            the same neighbor.
        limit_s: no round starts that would not end within this many seconds from the call, if it takes as long as
            the longest so far; the first one always does.
    """
    figures: dict[str, list[Figure]] = {name: [] for name in alternatives}
    names = list(alternatives)
    start, longest = time.perf_counter(), 0.0
    for index in tqdm(range(rounds), unit="round", disable=None, leave=False):
        begin = time.perf_counter()
        if index and limit_s is not None and begin - start + longest > limit_s:
            break
        for name in names if index % 2 == 0 else reversed(names):
            figures[name].append(alternatives[name]())
        longest = max(longest, time.perf_counter() - begin)
    return figures


def measure(
    alternatives: Mapping[str, Callable[[], Figure]], rounds: int, limit_s: float | None = None
) -> dict[str, list[Figure]]:
    """The same after a round that does not count: the first of a process also loads libraries and fills caches.

    Args:
        alternatives: see :func:`interleave`.
        rounds: that count.
        limit_s: see :func:`interleave`; where it leaves time for the first round only, that one counts.
    """
    figures = interleave(alternatives, rounds + 1, limit_s)
    return {name: values[1:] or values for name, values in figures.items()}


def summarize(seconds: Mapping[str, Sequence[float]], baseline: str, work: float) -> dict[str, Any]:
    """Per alternative: units of work per second, and seconds over the baseline's of the same round.

    Args:
        seconds: from :func:`interleave`.
        baseline: the alternative that the ratios refer to.
        work: units, images for example, done in one call.

    Returns:
        for each name "per_s" and "ratio", each as :func:`spread` gives it.
    """
    return {
        name: {"per_s": spread([work / value for value in values]), "ratio": ratio(values, seconds[baseline])}
        for name, values in seconds.items()
    }


def ratio(values: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """The spread of one series over another, each value over that of the same round."""
    return spread([value / other for value, other in zip(values, base, strict=True)])


def difference(values: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """The spread of one series less another, each value less that of the same round."""
    return spread([value - other for value, other in zip(values, base, strict=True)])


def spread(values: Sequence[float]) -> dict[str, float]:
    """{"median", "low", "high"} of some values, the last two being quartiles."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else list(values) * 3
    return {"median": median, "low": low, "high": high}
