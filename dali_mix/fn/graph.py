"""What every mixing operator needs of a DALI graph: names, seeds, broadcasting, an index.

Nothing here is public.  A *node* is a DALI ``DataNode``, one value per sample.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

from dali_mix.dali_private import conditional, is_deserialized

Node: TypeAlias = DataNode
OpArguments: TypeAlias = Callable[[str], dict[str, Any]]

_calls_by_pipeline: WeakKeyDictionary[Pipeline, Counter[str]] = WeakKeyDictionary()


def random_op(kind: str, seed: int | None) -> OpArguments:
    """Arguments for the random operators of one call: ``op("beta") -> {"name": ..., "seed": ...}``.

    Names are explicit because a checkpoint finds an operator's state by its name, and DALI's own
    names change with the order of the graph.  They are counted, so a host pipeline may call the
    same operator twice.

    One ``seed`` shared by several DALI operators makes their draws correlate, so each operator
    gets its own stream, derived from the seed and the operator's role.
    """
    prefix = _next_name(kind)

    def arguments(role: str) -> dict[str, Any]:
        result: dict[str, Any] = {}
        if prefix is not None:
            result["name"] = f"{prefix}_{role}"
        if seed is not None:
            entropy = [seed, zlib.crc32(f"{kind}_{role}".encode())]
            result["seed"] = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        return result

    return arguments


def named_op(kind: str) -> dict[str, Any]:
    """The name of an operator that draws nothing: a checkpoint lists those, too."""
    name = _next_name(kind)
    return {} if name is None else {"name": name}


def methods_of(pipeline: Pipeline) -> set[str] | None:
    """Find those of "cutmix", "mixup" and "mix", which stands for ``random_mix``, that a pipeline holds.

    Returns:
        None for a pipeline that was not defined in this process, of which nothing is known.
    """
    if is_deserialized(pipeline):
        return None
    return {"cutmix", "mixup", "mix"} & set(_calls_by_pipeline.get(pipeline, ()))


def _next_name(kind: str) -> str | None:
    """A name that no other operator of the pipeline has; None outside of a pipeline."""
    pipeline = Pipeline.current()
    if pipeline is None:
        return None
    calls = _calls_by_pipeline.setdefault(pipeline, Counter())
    name = f"dali_mix_{kind}_{calls[kind]}"
    calls[kind] += 1
    return name


def batch_size_of(what: str) -> int:
    """The pipeline's batch size, for operators that address samples by their place in the batch."""
    pipeline = Pipeline.current()
    if pipeline is None:
        raise ValueError(
            f"{what} needs to know the batch size, but no pipeline is being defined; call it inside "
            "a @pipeline_def function or a `with pipeline:` block"
        )
    return int(pipeline.max_batch_size)


def constant(value: float, dtype: types.DALIDataType) -> Node:
    """The same () value for every sample, as a node: many operators take no bare number."""
    return types.Constant(value, dtype=dtype, shape=[], device="cpu")


def on_cpu(node: Node) -> Node:
    """The same data on the CPU."""
    return node.cpu() if node.device == "gpu" else node


def beside(node: Node, other: Node) -> Node:
    """The same data on the device of another node."""
    return node.gpu() if other.device == "gpu" and node.device != "gpu" else node


def share_first(node: Node) -> Node:
    """Give every sample the first sample's value.  Any batch size, full or partial.

    The index must be a node: ``permute_batch`` does not take ``0``, and a Python list would have to
    match the size of a partial batch.
    """
    return fn.permute_batch(node, indices=constant(0, types.INT32))


def share_in_pairs(node: Node, batch_size: int) -> Node:
    """Give samples i and B-1-i the value of the one that comes first.  Full batches only."""
    return fn.permute_batch(node, indices=[min(i, batch_size - 1 - i) for i in range(batch_size)])


def sample_index(permutation: Node, batch_size: int) -> Node:
    """int32 (): the sample's place i in the batch, made without Python at run time.

    DALI has no operator for it.  The entries of a permutation differ, so comparing with entry 0
    marks sample 0; ``permute_batch`` spreads that mark into the lowest bit of every index, and
    each further round doubles the number of known bits.

    Args:
        permutation: int32 (), any permutation of the batch.
        batch_size: size of the batch; a smaller batch at run time is refused by DALI.
    """
    is_first = fn.cast(permutation == fn.permute_batch(permutation, indices=[0] * batch_size), dtype=types.INT32)
    if batch_size == 1:
        return is_first - 1
    index = fn.permute_batch(is_first, indices=[1 - (i & 1) for i in range(batch_size)])
    bits = 1
    while batch_size > 1 << bits:
        known = (1 << bits) - 1
        higher = fn.permute_batch(index, indices=[(i >> bits) & known for i in range(batch_size)])
        index = index + higher * (1 << bits)
        bits *= 2
    return index


def route(condition: Node, then: Callable[..., Node], otherwise: Callable[..., Node], *nodes: Node) -> Node:
    """``then(*nodes)`` for samples where ``condition`` holds, ``otherwise(*nodes)`` for the rest.

    Each function sees only its own samples, and costs nothing where there are none.  ``if`` would say
    the same, but works only in pipelines defined with ``enable_conditionals=True``, which a host
    pipeline may not have set; these are the operators behind it.

    Args:
        condition: bool (), CPU; must be equal in the whole batch where the functions look at other samples.
        then, otherwise: must not use constant nodes, which would have the size of the whole batch.
        nodes: what the functions take.
    """
    chosen, rest = zip(*(conditional.split(node, predicate=condition) for node in nodes), strict=True)
    return conditional.merge(then(*chosen), otherwise(*rest), predicate=condition)


def same(node: Node, *_draws: Node) -> Node:
    """The first node as it is: one side of :func:`route`."""
    return node
