"""What is done to a batch, as both implementations take it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from dali_mix.fn.graph import Node
from dali_mix.fn.mixing.params import MixParams

if TYPE_CHECKING:
    from dali_mix.fn.mixing.base import GraphMethod


class Normalization(NamedTuple):
    """How images leave the graph: ``(images - mean) / std``, in HWC.

    Fields:
        mean, std: one value per channel, in the unit of the images: 255 times those for images in [0, 1].
        half: float16 instead of float32.
    """

    mean: Sequence[float]
    std: Sequence[float]
    half: bool = False


class _Outputs(NamedTuple):
    images: Node
    targets: Node
    labels: Node
    branch: Node


class MixedBatch(_Outputs):
    """What :func:`dali_mix.fn.mixing.random_mix` returns, in the order in which a pipeline should output it.

    Fields:
        images: like the input, mixed or not as ``branch`` says; normalized if that was asked for.
        targets: float32 (K,).
        labels: the input labels, untouched.
        branch: int32 () on the CPU, one value for the batch, a code of ``BRANCHES``: 0 none, 1 cutmix, 2 mixup,
            3 smmix (left unmixed for the training step), 4 resizemix, and others' own.
    """

    _make_params: Callable[[], MixParams] | None = None

    def mixed_by(self, make_params: Callable[[], MixParams] | None) -> MixedBatch:
        """The same, with what makes :attr:`params`."""
        batch = MixedBatch(*self)
        batch._make_params = make_params
        return batch

    @property
    def params(self) -> MixParams:
        """How the batch was mixed, as nodes that are made when they are first asked for, and cost nothing before.

        The box is all zero where nothing is pasted: in branches that do not mix, and where images are blended.
        """
        if self._make_params is None:
            raise ValueError("this batch was not made by random_mix, which alone knows how it was mixed")
        return self._make_params()

    def _replace(self, **changes: Node) -> MixedBatch:
        return MixedBatch(*super()._replace(**changes)).mixed_by(self._make_params)


@dataclass(frozen=True)
class Recipe:
    """Arguments of :func:`dali_mix.fn.mixing.random_mix`, checked.

    Fields:
        shares: probability of every branch that can happen, in the order of their codes; they sum to 1 but for
            rounding.
        methods: those among them that mix in the graph, in that order.
        mirror: int32 (), 1 for images that are flipped left to right before they are mixed; None for none.
        size_px: height and width of all images where they are known, else None.
        normalization: None leaves the type of the images.
        others: see there.
    """

    shares: Mapping[str, float]
    methods: Mapping[str, GraphMethod]
    num_classes: int
    smoothing: float
    mode: str
    pairing: str
    seed: int | None
    branch_seed: int | None
    mirror: Node | None
    size_px: tuple[int, int] | None
    normalization: Normalization | None
