"""Fair timing of alternatives on a machine whose speed drifts: in turn, round by round, by the median."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm import tqdm


def interleave(alternatives: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each alternative in each round.

    Args:
        alternatives: each call does its work once and returns the seconds that count.
        rounds: how often each is called; every second round runs in reverse order, so that none always follows
            the same neighbour.
    """
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    names = list(alternatives)
    for index in tqdm(range(rounds), unit="round", disable=None, leave=False):
        for name in names if index % 2 == 0 else reversed(names):
            seconds[name].append(alternatives[name]())
    return seconds


def summarise(seconds: Mapping[str, Sequence[float]], baseline: str, work: int) -> dict[str, Any]:
    """Per alternative: units of work per second, and seconds over the baseline's of the same round.

    Args:
        seconds: from :func:`interleave`.
        baseline: the alternative that the ratios refer to.
        work: units, images for example, done in one call.

    Returns:
        for each name "per_s" and "ratio", each as {"median", "low", "high"}, the last two being quartiles.
    """
    return {
        name: {
            "per_s": _spread([work / value for value in values]),
            "ratio": _spread([value / base for value, base in zip(values, seconds[baseline], strict=True)]),
        }
        for name, values in seconds.items()
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else list(values) * 3
    return {"median": median, "low": low, "high": high}
