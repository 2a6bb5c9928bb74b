"""The per-batch choice between CutMix, Mixup, leaving the batch for SMMix, and no mixing."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from nvidia.dali.pipeline import do_not_convert

from dali_mix.fn import checks, graph
from dali_mix.fn.graph import Node
from dali_mix.fn.implementation import implementation_for
from dali_mix.fn.mixing.recipe import CHOICES, MixedBatch, Normalization, Recipe


@do_not_convert
def random_mix(
    images: Node,
    labels: Node,
    *,
    num_classes: int,
    choices: Mapping[str, float] = MappingProxyType({"cutmix": 0.5, "mixup": 0.5}),
    smoothing: float = 0.0,
    cutmix_alpha: float = 1.0,
    mixup_alpha: float = 0.8,
    mode: str = "batch",
    pairing: str = "permutation",
    minmax: tuple[float, float] | None = None,
    seed: int | None = None,
    branch_seed: int | None = None,
    mirror: Node | None = None,
    image_size: int | tuple[int, int] | None = None,
    normalization: Normalization | None = None,
) -> MixedBatch:
    """Choose one method for the batch and apply it.

    Args:
        images: uint8 or float32 (H, W, C), CPU or GPU, one size for the whole batch.
        labels: integer () or (1,), in [0, num_classes).
        num_classes: K.
        choices: probability per batch of "cutmix", "mixup" and "smmix"; what is missing to 1 is "none".
        smoothing: label smoothing in [0, 1], applied in every branch.
        cutmix_alpha, mixup_alpha: > 0, the Beta parameters.
        mode, pairing, minmax: see :func:`dali_mix.fn.draw_cutmix`.
        seed: for partners, boxes and weights; must differ between ranks.  None: the pipeline's seed.
        branch_seed: for the choice alone; must be equal on all ranks, so that all take the same branch.
        mirror: int32 (), CPU, 1 for each image that is to be flipped left to right before it is mixed: in the same
            pass over the batch it costs less than ``flip`` before it.
        image_size: height and width of all images in pixels, or the side of squares, where they are known: what is
            decided then waits for no decoder.  The native operators stop at images of another size.  None reads it from
            them.
        normalization: how the images leave; None leaves their type.  In the same pass over the batch it costs
            less than ``crop_mirror_normalize`` behind it.

    Returns:
        MixedBatch.  The images of a batch go through the chosen method only: the other costs nothing.  Inside an
        ``if`` of the pipeline each side is a batch of its own: it mixes among its samples and has its own branch.

    Differs from timm's ``Mixup``: the choice has a seed of its own, shared by ranks.
    """
    checks.check_node("images", images)
    checks.check_node("labels", labels)
    checks.check_choices(choices, CHOICES)
    recipe = Recipe(
        shares=_shares_of_branches(choices),
        num_classes=num_classes,
        smoothing=smoothing,
        cutmix_alpha=cutmix_alpha,
        mixup_alpha=mixup_alpha,
        mode=mode,
        pairing=pairing,
        minmax=checks.check_minmax(minmax),
        seed=seed,
        branch_seed=branch_seed,
        mirror=mirror,
        size_px=checks.check_image_size(image_size),
        normalization=normalization,
    )
    _check_recipe(recipe)
    mixed: MixedBatch = implementation_for(images).mix_batch(images, graph.on_cpu(labels), recipe)
    return mixed._replace(labels=labels, targets=graph.beside(mixed.targets, labels))


def _check_recipe(recipe: Recipe) -> None:
    if recipe.mirror is not None:
        checks.check_node("mirror", recipe.mirror)
    checks.check_alpha("cutmix_alpha", recipe.cutmix_alpha)
    checks.check_alpha("mixup_alpha", recipe.mixup_alpha)
    checks.check_seed("seed", recipe.seed)
    checks.check_seed("branch_seed", recipe.branch_seed)
    checks.check_mode(recipe.mode, recipe.pairing)
    checks.check_num_classes(recipe.num_classes)
    checks.check_normalization(recipe.normalization)
    checks.check_probability("smoothing", recipe.smoothing)


def _shares_of_branches(choices: Mapping[str, float]) -> dict[str, float]:
    """Probability of every branch that can happen, in the order of ``BRANCHES``; sums to 1 but for rounding."""
    rest = 1.0 - sum(choices.values())
    every = {"none": rest if rest > 1e-6 else 0.0, **{name: choices.get(name, 0.0) for name in CHOICES}}
    return {name: share for name, share in every.items() if share > 0}
