"""CutMix (Yun et al., ICCV 2019, arXiv 1905.04899) as DALI graph operators."""

from __future__ import annotations

from nvidia.dali.pipeline import do_not_convert

from dali_mix.fn import checks
from dali_mix.fn.graph import Node
from dali_mix.fn.implementation import implementation_for
from dali_mix.fn.mixing.params import MixParams
from dali_mix.fn.mixing.targets import soft_targets


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
    limits = checks.check_minmax(minmax)
    checks.check_seed("seed", seed)
    draw = implementation_for(images).draw_cutmix
    params: MixParams = draw(images, alpha=alpha, prob=prob, mode=mode, pairing=pairing, minmax=limits, seed=seed)
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
    mixed: Node = implementation_for(images).apply_cutmix(images, params)
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
