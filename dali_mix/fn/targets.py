"""Soft targets: the label side of every mix."""

from __future__ import annotations

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.pipeline import do_not_convert

from dali_mix.fn import _check
from dali_mix.fn._graph import Node
from dali_mix.fn.params import MixParams


@do_not_convert
def soft_targets(labels: Node, params: MixParams, *, num_classes: int, smoothing: float = 0.0) -> Node:
    """Class probabilities ``lam * own + (1 - lam) * partner``, smoothed.

    Args:
        labels: integer () or (1,), in [0, num_classes), CPU or GPU.
        params: from ``draw_cutmix`` or ``draw_mixup``.
        num_classes: K >= 1.
        smoothing: s in [0, 1]; on = ``1 - s + s / K``, off = ``s / K``, as in timm's ``Mixup``.

    Returns:
        float32 (K,), summing to 1, on the device of ``labels``.

    Raises:
        RuntimeError: at run time, from DALI, naming ``slice``, for a label outside [0, num_classes).
            DALI's own ``one_hot`` would return a row without any class.
    """
    _check.check_node("labels", labels)
    _check.check_num_classes(num_classes)
    _check.check_probability("smoothing", smoothing)
    off = smoothing / num_classes
    own = _one_hot(labels, num_classes, on=1.0 - smoothing + off, off=off)
    other = fn.permute_batch(own, indices=params.partner)
    targets = other + (own - other) * params.lam
    return targets.gpu() if labels.device == "gpu" else targets


def _one_hot(labels: Node, num_classes: int, on: float, off: float) -> Node:
    """float32 (K,), CPU: K neighbours of a row of 2K-1 whose middle is ``on``; an illegal label would leave the row."""
    row = np.full(2 * num_classes - 1, off, np.float32)
    row[num_classes - 1] = on
    label = fn.cast(labels.cpu() if labels.device == "gpu" else labels, dtype=types.INT32)
    start = num_classes - 1 - fn.reshape(label, shape=[1])
    return fn.slice(types.Constant(row), start=start, shape=[num_classes], axes=[0], out_of_bounds_policy="error")
