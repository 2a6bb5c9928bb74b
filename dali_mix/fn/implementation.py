"""Which implementation a graph is made of: the native operators, or the portable graph.

Both are modules with the same functions: ``draw_cutmix``, ``apply_cutmix``, ``draw_mixup``, ``apply_mixup``,
``soft_targets`` and ``mix_batch``.  Arguments are checked before.
"""

from __future__ import annotations

from types import ModuleType
from weakref import WeakKeyDictionary

from nvidia.dali.pipeline import Pipeline

from dali_mix.fn import native, portable
from dali_mix.fn._graph import Node
from dali_mix.native import operators

_used_by: WeakKeyDictionary[Pipeline, set[str]] = WeakKeyDictionary()


def implementation_for(node: Node) -> ModuleType:
    """The implementation for data on the device of this node; compiles the native one when it is first asked for.

    Raises:
        ConfigError: if the native operators are insisted on and cannot be had.
    """
    module = portable if operators(node.device) is None else native
    pipeline = Pipeline.current()
    if pipeline is not None:
        _used_by.setdefault(pipeline, set()).add(module.NAME)
    return module


def implementation_of(pipeline: Pipeline) -> str | None:
    """What the mixing in a pipeline is made of: "native", "portable", or None for a pipeline without.

    A checkpoint of one cannot be continued by the other: their random numbers differ.
    """
    return "+".join(sorted(_used_by.get(pipeline, ()))) or None
