"""Checkpoints that were written when the trainer knew one method, and kept what is its under names of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

_NAME, _HEAD, _COUNT = "smmix", "token_head", "smmix_batches"
_LOSSES = ("loss", "classification", "fine_grained", "consistency")


def with_methods(shared: Mapping[str, Any]) -> dict[str, Any]:
    """``state.pt`` with an entry "methods": for each method that has a state that state."""
    head = shared.get(_HEAD)
    if "methods" in shared or _HEAD not in shared or not isinstance(head, (Mapping, type(None))):
        return dict(shared)
    state = {} if head is None else {_NAME: {f"{_HEAD}.{name}": tensor for name, tensor in head.items()}}
    return {name: value for name, value in shared.items() if name != _HEAD} | {"methods": state}


def with_losses(statistics: Any) -> Any:
    """The statistics of an epoch with an entry "losses": for each loss the sum, and the number of batches in it."""
    if not isinstance(statistics, Mapping) or "losses" in statistics:
        return statistics
    sums, count, own = (statistics.get(name) for name in ("sums", "summed_batches", _COUNT))
    if not isinstance(sums, torch.Tensor) or sums.shape != (len(_LOSSES),):
        return statistics
    counts = (count, count, own, own)
    known = zip(_LOSSES, sums.tolist(), counts, strict=True)
    losses = {name: [total, number] for name, total, number in known if number != 0}
    kept = {name: value for name, value in statistics.items() if name not in ("sums", "summed_batches", _COUNT)}
    return kept | {"losses": losses}
