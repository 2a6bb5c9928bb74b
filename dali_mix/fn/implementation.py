"""Which implementation a graph is made of: the native operators, or the portable graph.

Each part of a graph has two modules with the same functions.  Mixing: ``draw``, ``pixels``, ``soft_targets`` and
``mix_batch``; augmentation: ``augment_images``.  Arguments are checked before.
"""

from __future__ import annotations

from types import ModuleType
from weakref import WeakKeyDictionary

from nvidia.dali.pipeline import Pipeline

from dali_mix.fn.graph import Node
from dali_mix.fn.image import native as native_image
from dali_mix.fn.image import portable as portable_image
from dali_mix.fn.mixing import native, portable
from dali_mix.native import operators

MIXING, AUGMENTATION = "mixing", "augmentation"
"""The parts of a graph that have two implementations."""

_MODULES = {MIXING: (native, portable), AUGMENTATION: (native_image, portable_image)}

_used_by: WeakKeyDictionary[Pipeline, dict[str, set[str]]] = WeakKeyDictionary()


def implementation_for(node: Node, part: str = MIXING) -> ModuleType:
    """The implementation of a part for data on the device of this node.

    Compiles the native one when it is first asked for.

    Raises:
        ConfigError: if the native operators are insisted on and cannot be had.
    """
    with_operators, without = _MODULES[part]
    module = without if operators(node.device) is None else with_operators
    pipeline = Pipeline.current()
    if pipeline is not None:
        _used_by.setdefault(pipeline, {}).setdefault(part, set()).add(module.NAME)
    return module


def implementation_of(pipeline: Pipeline, part: str = MIXING) -> str | None:
    """What a part of a pipeline is made of: "native", "portable", or None for a pipeline without the part.

    A checkpoint of one cannot be continued by the other: their random numbers differ.

    Args:
        pipeline: defined in this process; of one that was deserialized nothing is known.
        part: "mixing" or "augmentation"; flips left to right alone are no augmentation, both draw them alike.
    """
    return "+".join(sorted(_used_by.get(pipeline, {}).get(part, ()))) or None
