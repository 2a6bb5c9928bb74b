"""CutMix (Yun et al., ICCV 2019, arXiv 1905.04899) as DALI graph operators."""

from __future__ import annotations

from dataclasses import dataclass

from nvidia.dali import fn
from nvidia.dali import math as dali_math
from nvidia.dali.pipeline import do_not_convert

from dali_mix.fn import checks
from dali_mix.fn.graph import Node
from dali_mix.fn.implementation import implementation_for
from dali_mix.fn.mixing.base import GraphMethod, register
from dali_mix.fn.mixing.boxes import box_between, box_of_edges, edges_around
from dali_mix.fn.mixing.drawing import Drawing
from dali_mix.fn.mixing.params import Draw, MixParams, Planned
from dali_mix.fn.mixing.targets import soft_targets
from dali_mix.options import option, positive, probability


@register
@dataclass(frozen=True)
class CutMix(GraphMethod):
    """A box of the partner replaces the same box of the image; the labels are mixed by area.

    Args:
        alpha, minmax: see :func:`draw_cutmix`.
    """

    name = "cutmix"
    code = 1

    alpha: float = option(1.0, positive, "Both parameters of the Beta distribution of lam.")
    minmax: tuple[float, float] | None = option(
        None, probability, "Smallest and largest side as shares of the image's, instead of by alpha.", nargs=2
    )

    def __post_init__(self) -> None:
        """Check the options; see GraphMethod."""
        super().__post_init__()
        checks.check_alpha("cutmix: alpha", self.alpha)
        object.__setattr__(self, "minmax", checks.check_minmax(self.minmax))

    @property
    def planned(self) -> Planned:
        """See GraphMethod."""
        return Planned("cutmix", self.alpha, self.minmax or ())

    def draw(self, batch: Drawing) -> Draw:
        """See GraphMethod."""
        size_px = batch.size
        if self.minmax is None:
            center = fn.random.uniform(range=[0.0, 1.0], shape=[1, 2], **batch.op("uniform"))
            # The distribution is symmetric, so the pasted share is drawn as well as the own one.
            area = fn.random.beta(alpha=self.alpha, beta=self.alpha, shape=[1, 1], **batch.op("beta"))
            box = box_of_edges(size_px, batch.share(edges_around(center, dali_math.sqrt(area))))
        else:
            draws = batch.uniform("uniform", [4])
            box = box_between(size_px, self.minmax, draws[2:4], draws[0:2])
        return Draw(box, batch.own_share(box))


@do_not_convert
def draw_cutmix(
    images: Node,
    *,
    alpha: float = 1.0,
    prob: float = 1.0,
    mode: str = "batch",
    pairing: str = "permutation",
    minmax: tuple[float, float] | None = None,
    seed: int | None = None,
) -> MixParams:
    """Draw partners, boxes and label weights for CutMix.

    Args:
        images: uint8 or float32 (H, W, C), CPU or GPU; only the size is read.
        alpha: > 0, both parameters of the Beta distribution of lam.  The paper uses 1 (uniform).
        prob: in [0, 1], the chance that a draw is used; otherwise the box is empty and lam is 1.
        mode: "batch" one draw for all, "pair" i and its partner share one (needs pairing="flip"),
            "elem" each sample its own.
        pairing: "permutation" (no sample pairs with itself unless the batch is 1) or "flip" (i with
            B-1-i, full batches only).
        minmax: ``(min, max)`` in [0, 1]: box sides drawn uniformly between these shares of the image
            side, independently, instead of from lam (timm's ``--cutmix-minmax``); alpha is then unused.
        seed: >= 0, or None for the pipeline's own seed.

    Returns:
        MixParams; ``lam`` is recomputed from the integer box, ``1 - area / (H * W)``.

    Raises:
        TypeError, ValueError: when the graph is built, for arguments outside these ranges.

    Source: paper, section 3.1 and Algorithm A1.
    Differs from the authors' code (clovaai/CutMix-PyTorch train.py): edges are rounded instead of
    floored, and no sample pairs with itself.
    """
    checks.check_node("images", images)
    checks.check_alpha("alpha", alpha)
    checks.check_probability("prob", prob)
    checks.check_mode(mode, pairing)
    method = CutMix(alpha=alpha, minmax=checks.check_minmax(minmax))
    checks.check_seed("seed", seed)
    draw = implementation_for(images).draw
    params: MixParams = draw(method, images, prob=prob, mode=mode, pairing=pairing, seed=seed)
    return params


@do_not_convert
def apply_cutmix(images: Node, params: MixParams) -> Node:
    """Paste each partner's box into the sample, at the same place.

    Args:
        images: uint8 or float32 (H, W, C), CPU or GPU, one size for the whole batch.
        params: from :func:`draw_cutmix`.

    Returns:
        Node like ``images``.  Partners are read from the unmixed batch; pixels are copied exactly.
    """
    checks.check_node("images", images)
    mixed: Node = implementation_for(images).pixels(images, params.partner, Draw(params.box, params.lam))
    return mixed


@do_not_convert
def cutmix(
    images: Node,
    labels: Node,
    *,
    num_classes: int,
    smoothing: float = 0.0,
    alpha: float = 1.0,
    prob: float = 1.0,
    mode: str = "batch",
    pairing: str = "permutation",
    minmax: tuple[float, float] | None = None,
    seed: int | None = None,
) -> tuple[Node, Node]:
    """CutMix in one line: ``images, targets = mix.cutmix(images, labels, num_classes=1000)``.

    Args:
        images: uint8 or float32 (H, W, C), CPU or GPU, one size for the whole batch.
        labels: integer () or (1,), in [0, num_classes).
        num_classes: K.
        smoothing: label smoothing in [0, 1].
        alpha, prob, mode, pairing, minmax, seed: see :func:`draw_cutmix`.

    Returns:
        images like the input; targets float32 (K,) on the device of ``labels``.
    """
    params = draw_cutmix(images, alpha=alpha, prob=prob, mode=mode, pairing=pairing, minmax=minmax, seed=seed)
    targets = soft_targets(labels, params, num_classes=num_classes, smoothing=smoothing)
    return apply_cutmix(images, params), targets
