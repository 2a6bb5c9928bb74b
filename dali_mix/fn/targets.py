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
    on = 1.0 - smoothing + off
    label = _checked(labels, num_classes)
    own = fn.one_hot(label, num_classes=num_classes, on_value=on, off_value=off)
    other = fn.permute_batch(own, indices=params.partner)
    lam = params.lam.gpu() if labels.device == "gpu" else params.lam
    return other + (own - other) * lam


def _checked(labels: Node, num_classes: int) -> Node:
    """The label, int32 (1,); looked up in a list of all labels, so that an illegal one raises."""
    legal = types.Constant(np.arange(num_classes, dtype=np.int32))
    if labels.device == "gpu":
        legal = legal.gpu()
        labels = labels.cpu()
    start = fn.reshape(fn.cast(labels, dtype=types.INT32), shape=[1])
    return fn.slice(legal, start=start, shape=[1], axes=[0], out_of_bounds_policy="error")
