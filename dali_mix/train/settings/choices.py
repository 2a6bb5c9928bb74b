"""From flags to what the pipelines take."""

from __future__ import annotations

import argparse
from dataclasses import fields

from dali_mix.fn.image.decoder_settings import DecoderSettings


def decoder_settings(args: argparse.Namespace) -> DecoderSettings:
    """The flags that bear the names of the settings."""
    return DecoderSettings(**{field.name: getattr(args, field.name) for field in fields(DecoderSettings)})


def mixing_choices(args: argparse.Namespace) -> dict[str, float]:
    """The probability per batch of each method, as ``random_mix`` takes them.

    timm's two probabilities keep their meaning, and share what SMMix leaves: ``--smmix --mixup 0.8``
    is the SMMix authors' recipe, half SMMix and half Mixup.
    """
    mixup, cutmix = args.mixup > 0, args.cutmix > 0 or args.cutmix_minmax is not None
    smmix = 0.0
    if args.smmix:
        smmix = (0.5 if mixup or cutmix else 1.0) if args.smmix_prob is None else args.smmix_prob
    mixed = (1 - smmix) * args.mixup_prob
    switch = args.mixup_switch_prob if mixup else 1.0
    choices = {
        "cutmix": mixed * switch if cutmix else 0.0,
        "mixup": mixed * (1 - switch if cutmix else 1.0) if mixup else 0.0,
        "smmix": smmix,
    }
    return {name: probability for name, probability in choices.items() if probability > 0}
