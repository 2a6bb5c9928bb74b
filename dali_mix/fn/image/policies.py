"""RandAugment, AutoAugment and 3-Augment as timm's strings name them: what is drawn, and how strongly it is applied."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn, TypeAlias

from dali_mix.errors import ConfigError

SubPolicy: TypeAlias = tuple[tuple[str, float, float], ...]
"""Operations applied one after the other: name, probability, magnitude, of which 10 is the whole."""

RAND_SETS = ("tweights", "t3a", "t3aw")
"""timm's transform sets for RandAugment, as parts of its strings."""

_RAND = "AutoContrast Equalize Invert Rotate Posterize Solarize SolarizeAdd Color Contrast Brightness Sharpness ShearX \
ShearY TranslateXRel TranslateYRel".split()
_GROW_WITH_MAGNITUDE = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")

_RAND_3A = ("SolarizeIncreasing", "Desaturate", "GaussianBlur")
_RAND_WEIGHTED = {
    "tweights": """
        Rotate 3 ShearX 2 ShearY 2 TranslateXRel 1 TranslateYRel 1 ColorIncreasing .25 SharpnessIncreasing .25
        AutoContrast .25 SolarizeIncreasing .05 SolarizeAdd .05 ContrastIncreasing .05 BrightnessIncreasing .05
        Equalize .05 PosterizeIncreasing .05 Invert .05""",
    "t3aw": """
        SolarizeIncreasing 6 Desaturate 6 GaussianBlur 6 Rotate 3 ShearX 2 ShearY 2 PosterizeIncreasing 1
        AutoContrast 1 ColorIncreasing 1 SharpnessIncreasing 1 ContrastIncreasing 1 BrightnessIncreasing 1
        Equalize 1 Invert 1""",
}
"""Operations and weights of the sets that have them."""

# Policies as timm has them, one sub-policy per semicolon: operation, probability, magnitude.
_ORIGINAL = """
PosterizeOriginal .4 8 Rotate .6 9; Solarize .6 5 AutoContrast .6 5; Equalize .8 8 Equalize .6 3;
PosterizeOriginal .6 7 PosterizeOriginal .6 6; Equalize .4 7 Solarize .2 4; Equalize .4 4 Rotate .8 8;
Solarize .6 3 Equalize .6 7; PosterizeOriginal .8 5 Equalize 1 2; Rotate .2 3 Solarize .6 8;
Equalize .6 8 PosterizeOriginal .4 6; Rotate .8 8 Color .4 0; Rotate .4 9 Equalize .6 2; Equalize 0 7 Equalize .8 8;
Invert .6 4 Equalize 1 8; Color .6 4 Contrast 1 8; Rotate .8 8 Color 1 2; Color .8 8 Solarize .8 7;
Sharpness .4 7 Invert .6 8; ShearX .6 5 Equalize 1 9; Color .4 0 Equalize .6 3; Equalize .4 7 Solarize .2 4;
Solarize .6 5 AutoContrast .6 5; Invert .6 4 Equalize 1 8; Color .6 4 Contrast 1 8; Equalize .8 8 Equalize .6 3
"""
_V0 = """
Equalize .8 1 ShearY .8 4; Color .4 9 Equalize .6 3; Color .4 1 Rotate .6 8; Solarize .8 3 Equalize .4 7;
Solarize .4 2 Solarize .6 2; Color .2 0 Equalize .8 8; Equalize .4 8 SolarizeAdd .8 3; ShearX .2 9 Rotate .6 8;
Color .6 1 Equalize 1 2; Invert .4 9 Rotate .6 0; Equalize 1 9 ShearY .6 3; Color .4 7 Equalize .6 0;
Posterize .4 6 AutoContrast .4 7; Solarize .6 8 Color .6 9; Solarize .2 4 Rotate .8 9; Rotate 1 7 TranslateYRel .8 9;
ShearX 0 0 Solarize .8 4; ShearY .8 0 Color .6 4; Color 1 0 Rotate .6 2; Equalize .8 4 Equalize 0 8;
Equalize 1 4 AutoContrast .6 2; ShearY .4 7 SolarizeAdd .6 7; Posterize .8 2 Solarize .6 10;
Solarize .6 8 Equalize .6 1; Color .8 6 Rotate .4 5
"""
_POLICIES = {
    "original": _ORIGINAL,
    "originalr": _ORIGINAL.replace("PosterizeOriginal", "PosterizeIncreasing"),
    "v0": _V0,
    "v0r": _V0.replace("Posterize", "PosterizeIncreasing"),
    "3a": "Solarize 1 5; Desaturate 1 10; GaussianBlurRand 1 10",
}

LEGAL = (
    "'' (none), 'rand-m9-mstd0.5-inc1' and its like (parts mX, nX, pX, mstdX, mmaxX, incX and one of "
    + ", ".join(RAND_SETS)
    + "), "
    + ", ".join(f"'{name}'" for name in _POLICIES)
    + ", each with or without -mstdX"
)

_HIGHEST: Mapping[str, float] = {"m": 100, "n": 16, "p": 1, "mstd": math.inf, "mmax": 100, "inc": 1}


class AutoAugment(NamedTuple):
    """What an ``aa`` string stands for.

    Fields:
        sub_policies: ``draws`` of them are drawn for each image, with equal chances and with replacement.
        draws: number of sub-policies applied to an image.
        mstd: standard deviation of the magnitude; infinite for uniform from 0 to the magnitude.
        mmax: magnitudes are clipped to [0, mmax].
        weights: chance of each sub-policy where they differ; they sum to 1.  No sub-policy is then drawn twice for one
            image: what is left keeps its proportions.  Empty for equal chances.
    """

    sub_policies: tuple[SubPolicy, ...]
    draws: int = 1
    mstd: float = 0.0
    mmax: float = 10.0
    weights: tuple[float, ...] = ()


def parse_auto_augment(aa: str) -> AutoAugment:
    """Read one of timm's strings (``rand_augment_transform`` and ``auto_augment_transform``, timm 1.0.31).

    Raises:
        ConfigError: for what timm does not know, for a transform set that it would take for its default set, for
            more different operations than a weighted set has, and for ``augmix``, which is not available.
    """
    kind, *parts = aa.split("-") if isinstance(aa, str) else [str(aa)]
    if kind != "rand" and kind not in _POLICIES:
        reason = "AugMix needs several chains per image" if kind == "augmix" else "no such policy"
        _refuse(aa, reason)
    if kind != "rand":
        return AutoAugment(_read_policy(_POLICIES[kind]), mstd=_read_parts(aa, parts, ("mstd",)).get("mstd", 0.0))
    sets = [part for part in parts if part.startswith("t")]
    values = _read_parts(aa, [part for part in parts if part not in sets], tuple(_HIGHEST))
    names, weights = _read_set(aa, sets, increasing=bool(values.get("inc")))
    draws, mstd = int(values.get("n", 2)), values.get("mstd", 0.0)
    if weights and draws > len(names):
        _refuse(aa, f"n{draws} different operations cannot be drawn from the {len(names)} of {sets[0]}")
    return AutoAugment(
        tuple(((name, values.get("p", 0.5), values.get("m", 10.0)),) for name in names),
        draws=draws,
        mstd=math.inf if mstd > 100 else mstd,
        mmax=values.get("mmax", 10.0),
        weights=weights,
    )


def _read_set(aa: str, sets: Sequence[str], *, increasing: bool) -> tuple[Sequence[str], tuple[float, ...]]:
    """Operations that RandAugment draws from, and their weights: timm's ``rand_augment_choices``."""
    if not sets:
        return [f"{name}Increasing" if increasing and name in _GROW_WITH_MAGNITUDE else name for name in _RAND], ()
    if len(sets) > 1:
        _refuse(aa, f"its parts {' and '.join(map(repr, sets))} each choose a set of operations")
    name = sets[0]
    if name not in RAND_SETS:
        _refuse(aa, f"its part {name!r} is none of timm's sets of operations, {', '.join(RAND_SETS)}")
    if name == "t3a":
        return _RAND_3A, ()
    words = _RAND_WEIGHTED[name].split()
    weights = [float(word) for word in words[1::2]]
    return words[::2], tuple(weight / math.fsum(weights) for weight in weights)


def _read_parts(aa: str, parts: Sequence[str], legal: Sequence[str]) -> dict[str, float]:
    values: dict[str, float] = {}
    for part in parts:
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d*)?|\.\d+)", part)
        if match and match[1] == "w":
            _refuse(aa, f"its part {part!r} chose a set of operations in older versions of timm")
        if match is None or match[1] not in legal:
            _refuse(aa, f"its part {part!r} is not one of {', '.join(f'{name}X' for name in legal)}")
        key, number = match[1], float(match[2])
        if key in values:
            _refuse(aa, f"its part {key!r} occurs twice")
        whole = key in ("m", "n", "inc", "mmax")
        if number > _HIGHEST[key] or (whole and number % 1) or (key in ("n", "mmax") and number < 1):
            kind = "a whole number" if whole else "a number"
            _refuse(aa, f"its part {part!r} must be {kind} up to {_HIGHEST[key]}")
        values[key] = number
    return values


def _refuse(aa: object, reason: str) -> NoReturn:
    raise ConfigError(f"aa={aa!r}: {reason}; use one of {LEGAL}")


def _read_policy(text: str) -> tuple[SubPolicy, ...]:
    def read(line: str) -> SubPolicy:
        words = line.split()
        return tuple((words[i], float(words[i + 1]), float(words[i + 2])) for i in range(0, len(words), 3))

    return tuple(read(line) for line in text.split(";"))
