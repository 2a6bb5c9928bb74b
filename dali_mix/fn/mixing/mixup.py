"""Mixup (Zhang et al., ICLR 2018, arXiv 1710.09412) as DALI graph operators."""

from __future__ import annotations

from dataclasses import dataclass

from nvidia.dali import fn
from nvidia.dali.pipeline import do_not_convert

from dali_mix.fn import checks
from dali_mix.fn.graph import Node
from dali_mix.fn.implementation import implementation_for
from dali_mix.fn.mixing.base import GraphMethod, register
from dali_mix.fn.mixing.drawing import Drawing
from dali_mix.fn.mixing.params import Draw, MixParams, Planned
from dali_mix.fn.mixing.targets import soft_targets
from dali_mix.options import option, positive


@register
@dataclass(frozen=True)
class Mixup(GraphMethod):
    """Each image is blended with its partner, and so are the labels.

    Args:
        alpha: see :func:`draw_mixup`.
    """

    name = "mixup"
    code = 2

    alpha: float = option(0.8, positive, "Both parameters of the Beta distribution of lam.")

    def __post_init__(self) -> None:
        """Check the options; see GraphMethod."""
        super().__post_init__()
        checks.check_alpha("mixup: alpha", self.alpha)

    @property
    def planned(self) -> Planned:
        """See GraphMethod."""
        return Planned("mixup", self.alpha, boxed=False)

    def draw(self, batch: Drawing) -> Draw:
        """See GraphMethod."""
        lam = batch.share(fn.random.beta(alpha=self.alpha, beta=self.alpha, **batch.op("beta")))
        return Draw(None, lam, weight=lam)


@do_not_convert
def draw_mixup(
    images: Node,
    *,
    alpha: float = 0.8,
    prob: float = 1.0,
    mode: str = "batch",
    pairing: str = "permutation",
    seed: int | None = None,
) -> MixParams:
    """Draw partners and label weights for Mixup.

    Args:
        images: uint8 or float32 (H, W, C), CPU or GPU; not read, taken so that all ``draw_*`` agree.
        alpha: > 0, both parameters of the Beta distribution of lam (timm's and DeiT's recipes: 0.8).
        prob, mode, pairing, seed: see :func:`dali_mix.fn.draw_cutmix`.

    Returns:
        MixParams with an all-zero box.

    Raises:
        TypeError, ValueError: when the graph is built, for arguments outside these ranges.

    Source: paper, section 2 and its Figure 1a.
    """
    checks.check_node("images", images)
    checks.check_alpha("alpha", alpha)
    checks.check_probability("prob", prob)
    checks.check_mode(mode, pairing)
    checks.check_seed("seed", seed)
    draw = implementation_for(images).draw
    params: MixParams = draw(Mixup(alpha=alpha), images, prob=prob, mode=mode, pairing=pairing, seed=seed)
    return params


@do_not_convert
def apply_mixup(images: Node, params: MixParams) -> Node:
    """Blend each sample with its partner: ``lam * own + (1 - lam) * partner``.

    Args:
        images: uint8 or float32 (H, W, C), CPU or GPU, one size for the whole batch.
        params: from :func:`draw_mixup`.

    Returns:
        Node like ``images``; uint8 is rounded to the nearest level.  Partners are read from the
        unmixed batch.
    """
    checks.check_node("images", images)
    mixed: Node = implementation_for(images).pixels(images, params.partner, Draw(None, params.lam, weight=params.lam))
    return mixed


@do_not_convert
def mixup(
    images: Node,
    labels: Node,
    *,
    num_classes: int,
    smoothing: float = 0.0,
    alpha: float = 0.8,
    prob: float = 1.0,
    mode: str = "batch",
    pairing: str = "permutation",
    seed: int | None = None,
) -> tuple[Node, Node]:
    """Mixup in one line: ``images, targets = mix.mixup(images, labels, num_classes=1000)``.

    Args:
        images: uint8 or float32 (H, W, C), CPU or GPU, one size for the whole batch.
        labels: integer () or (1,), in [0, num_classes).
        num_classes: K.
        smoothing: label smoothing in [0, 1].
        alpha, prob, mode, pairing, seed: see :func:`draw_mixup`.

    Returns:
        images like the input; targets float32 (K,) on the device of ``labels``.
    """
    params = draw_mixup(images, alpha=alpha, prob=prob, mode=mode, pairing=pairing, seed=seed)
    targets = soft_targets(labels, params, num_classes=num_classes, smoothing=smoothing)
    return apply_mixup(images, params), targets
