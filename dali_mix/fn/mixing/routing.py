"""The batches of a branch go through its method, the others past it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dali_mix.fn import graph
from dali_mix.fn.graph import Node
from dali_mix.fn.mixing.params import Draw

if TYPE_CHECKING:
    from dali_mix.fn.mixing.base import GraphMethod


def in_branch(method: GraphMethod, branch: Node | None, images: Node, partner: Node, draw: Draw) -> Node:
    """Apply a method to the batches of its branch; the others pass untouched.

    Args:
        method: what is applied.
        branch: int32 (), equal in the whole batch; None where every batch is of the method's branch.
        images, partner, draw: what it takes.
    """
    if branch is None:
        return method.apply(images, partner, draw)
    names = [name for name, node in draw._asdict().items() if node is not None]

    def mix(images: Node, partner: Node, *nodes: Node) -> Node:
        return method.apply(images, partner, draw._replace(**dict(zip(names, nodes, strict=True))))

    drawn = [getattr(draw, name) for name in names]
    return graph.route(branch == method.code, mix, graph.same, images, partner, *drawn)
