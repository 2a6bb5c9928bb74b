"""From flags to what the pipelines take."""

from __future__ import annotations

import argparse

from dali_mix.train.settings.sections import Methods


def mixing_choices(mixing: Methods | argparse.Namespace) -> dict[str, float]:
    """The probability per batch of each method, as ``random_mix`` takes them.

    timm's two probabilities keep their meaning, and share what SMMix leaves: ``--smmix --mixup 0.8``
    is the SMMix authors' recipe, half SMMix and half Mixup.
    """
    mixup, cutmix = mixing.mixup > 0, mixing.cutmix > 0 or mixing.cutmix_minmax is not None
    smmix = 0.0
    if mixing.smmix:
        smmix = (0.5 if mixup or cutmix else 1.0) if mixing.smmix_prob is None else mixing.smmix_prob
    mixed = (1 - smmix) * mixing.mixup_prob
    switch = mixing.mixup_switch_prob if mixup else 1.0
    choices = {
        "cutmix": mixed * switch if cutmix else 0.0,
        "mixup": mixed * (1 - switch if cutmix else 1.0) if mixup else 0.0,
        "smmix": smmix,
    }
    return {name: probability for name, probability in choices.items() if probability > 0}
