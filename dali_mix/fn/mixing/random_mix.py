"""The per-batch choice between methods of the graph, leaving the batch for the training step, and no mixing."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from nvidia.dali.pipeline import do_not_convert

from dali_mix import branches
from dali_mix.fn import checks, graph
from dali_mix.fn.graph import Node
from dali_mix.fn.implementation import implementation_for
from dali_mix.fn.mixing.base import GraphMethod, methods
from dali_mix.fn.mixing.cutmix import CutMix
from dali_mix.fn.mixing.mixup import Mixup
from dali_mix.fn.mixing.recipe import MixedBatch, Normalization, Recipe

_OPTIONS_OF = {CutMix.name: "cutmix_alpha and minmax have", Mixup.name: "mixup_alpha has"}


@do_not_convert
def random_mix(
    images: Node,
    labels: Node,
    *,
    num_classes: int,
    choices: Mapping[str, float] | Mapping[GraphMethod, float] = MappingProxyType({"cutmix": 0.5, "mixup": 0.5}),
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
        choices: probability per batch of each method: a value, as ``CutMix(alpha=0.5)``, or a name, which means the
            method with its defaults.  Names of methods of the training step, as "smmix", leave the batch unmixed for
            it.  What is missing to 1 is "none".
        smoothing: label smoothing in [0, 1], applied in every branch.
        cutmix_alpha, mixup_alpha, minmax: options of the names "cutmix" and "mixup"; values have their own.
        mode, pairing: see :func:`dali_mix.fn.draw_cutmix`.
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
    checks.check_alpha("cutmix_alpha", cutmix_alpha)
    checks.check_alpha("mixup_alpha", mixup_alpha)
    named = {
        CutMix.name: CutMix(alpha=cutmix_alpha, minmax=checks.check_minmax(minmax)),
        Mixup.name: Mixup(alpha=mixup_alpha),
    }
    shares, chosen = _read_choices(choices, named)
    for name, words in _OPTIONS_OF.items():
        if name in chosen and chosen[name] is not named[name] and named[name] != methods()[name]():
            value = type(named[name]).__name__
            raise ValueError(f"{words} no effect on a value: give them to {value}(...)")
    recipe = Recipe(
        shares=shares,
        methods=chosen,
        num_classes=num_classes,
        smoothing=smoothing,
        mode=mode,
        pairing=pairing,
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
    checks.check_seed("seed", recipe.seed)
    checks.check_seed("branch_seed", recipe.branch_seed)
    checks.check_mode(recipe.mode, recipe.pairing)
    checks.check_num_classes(recipe.num_classes)
    checks.check_normalization(recipe.normalization)
    checks.check_probability("smoothing", recipe.smoothing)


def _read_choices(
    choices: Mapping[str, float] | Mapping[GraphMethod, float], named: Mapping[str, GraphMethod]
) -> tuple[dict[str, float], dict[str, GraphMethod]]:
    """Shares and methods of a :class:`Recipe`.

    Args:
        choices: see :func:`random_mix`.
        named: what names mean, where that is not the method with its defaults.
    """
    if not isinstance(choices, Mapping):
        raise TypeError(f"choices must map methods to probabilities, got {type(choices).__name__}")
    shares: dict[str, float] = {}
    chosen: dict[str, GraphMethod] = {}
    for choice, share in choices.items():
        name, method = _method_of(choice, named)
        if name in shares:
            raise ValueError(f"choices: {name!r} is given twice; a method may be chosen once")
        shares[name] = share
        if method is not None:
            chosen[name] = method
    checks.check_shares(shares)
    rest = 1.0 - sum(shares.values())
    every = {branches.NONE: rest if rest > 1e-6 else 0.0} | shares
    possible = [name for name in sorted(every, key=branches.code_of) if every[name] > 0]
    return {name: every[name] for name in possible}, {name: chosen[name] for name in possible if name in chosen}


def _method_of(choice: str | GraphMethod, named: Mapping[str, GraphMethod]) -> tuple[str, GraphMethod | None]:
    """Name and method of a choice; None for a branch that is left unmixed for the training step."""
    every = methods()
    if isinstance(choice, GraphMethod):
        if every.get(choice.name) is not type(choice):
            raise TypeError(f"choices: {type(choice).__name__} is not registered; put @mix.register above the class")
        return choice.name, choice
    if not isinstance(choice, str):
        raise TypeError(f"choices: a method is a name or a value, as CutMix(), got {choice!r}")
    legal = [name for name in branches.names() if name != branches.NONE]
    if choice not in legal:
        raise ValueError(f"choices: unknown method {choice!r}; legal are {', '.join(legal)}")
    return choice, named.get(choice) or (every[choice]() if choice in every else None)
