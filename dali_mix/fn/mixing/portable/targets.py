"""Soft targets as graph arithmetic."""

from __future__ import annotations

import numpy as np
from nvidia.dali import fn, types

from dali_mix.fn.graph import Node
from dali_mix.fn.mixing.params import MixParams
from dali_mix.fn.mixing.portable.checks import labels_must_be_integers, labels_must_be_one_number_each


def soft_targets(labels: Node, params: MixParams, *, num_classes: int, smoothing: float) -> Node:
    """See :func:`dali_mix.fn.soft_targets`; ``labels`` and the result are on the CPU."""
    off = smoothing / num_classes
    label = labels_must_be_one_number_each(fn.cast(labels, dtype=types.INT32))
    label += labels_must_be_integers(labels, params.lam)
    own = _one_hot(label, num_classes, on=1.0 - smoothing + off, off=off)
    other = fn.permute_batch(own, indices=params.partner)
    return other + (own - other) * params.lam


def _one_hot(label: Node, num_classes: int, on: float, off: float) -> Node:
    """float32 (K,), CPU: K neighbors of a row of 2K-1 whose middle is ``on``; an illegal label would leave the row."""
    row = np.full(2 * num_classes - 1, off, np.float32)
    row[num_classes - 1] = on
    start = num_classes - 1 - label
    return fn.slice(types.Constant(row), start=start, shape=[num_classes], axes=[0], out_of_bounds_policy="error")
