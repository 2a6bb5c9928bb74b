"""Soft targets: the label side of every mix."""

from __future__ import annotations

from nvidia.dali.pipeline import do_not_convert

from dali_mix.fn import checks, graph
from dali_mix.fn.graph import Node
from dali_mix.fn.implementation import implementation_for
from dali_mix.fn.mixing.params import MixParams


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
        RuntimeError: at run time, for a label outside [0, num_classes), naming ``soft_targets`` and the label (in
            the portable graph it is DALI's, naming ``slice``).  DALI's own ``one_hot`` would return a row without
            any class.
    """
    checks.check_node("labels", labels)
    checks.check_num_classes(num_classes)
    checks.check_probability("smoothing", smoothing)
    implementation = implementation_for(labels)
    on_cpu = graph.on_cpu(labels)
    targets: Node = implementation.soft_targets(on_cpu, params, num_classes=num_classes, smoothing=smoothing)
    return graph.beside(targets, labels)
