"""Where a method draws: the size of the images, random numbers, and who shares them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from nvidia.dali import fn

from dali_mix.fn import graph
from dali_mix.fn.graph import Node, OpArguments
from dali_mix.fn.mixing.boxes import own_share


@dataclass(frozen=True)
class Drawing:
    """One batch in which a method draws, as graph nodes.

    Fields:
        op: names and seeds of this method's random operators, by their role:
            ``fn.random.beta(alpha=a, beta=a, **batch.op("beta"))``.  Each role once.
        mode: who shares a draw, "batch", "pair" or "elem"; :meth:`share` sees to it.
        measure: makes the node of :attr:`size`.
    """

    op: OpArguments
    mode: str
    measure: Callable[[], Node]

    @cached_property
    def size(self) -> Node:
        """int32 (2,): height and width of the images, in pixels."""
        return self.measure()

    @cached_property
    def whole(self) -> Node:
        """int32 (4,): the box of a whole image."""
        return fn.slice(self.size, start=[-2], shape=[4], axes=[0], out_of_bounds_policy="pad")  # with zeros

    def share(self, draws: Node) -> Node:
        """Spread draws of each sample as the mode says: one for the batch, one per pair, or each its own."""
        if self.mode == "batch":
            return graph.share_first(draws)
        if self.mode == "pair":
            return graph.share_in_pairs(draws, graph.batch_size_of("mode='pair'"))
        return draws

    def uniform(self, role: str, shape: Sequence[int], low: float = 0.0, high: float = 1.0) -> Node:
        """float32 of this shape: uniform in [low, high), shared as the mode says."""
        return self.share(fn.random.uniform(range=[low, high], shape=list(shape), **self.op(role)))

    def own_share(self, box: Node) -> Node:
        """float32 (): the share of the image outside a box, ``1 - area / (H * W)``."""
        return own_share(self.size, box)
