"""What happens to each training image, in timm's terms, and the same as both implementations take it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dali_mix.errors import ConfigError
from dali_mix.fn.image.policies import AutoAugment, parse_auto_augment
from dali_mix.options import fraction, integer, non_negative, option, positive, probability

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

REMODES = ("const", "rand", "pixel")
_MOST_BOXES = 16
_PROBABILITIES = ("hflip", "vflip", "grayscale_prob", "gaussian_blur_prob", "reprob")


@dataclass(frozen=True)
class Crop:
    """What a training image is cut out of its file.

    Fields:
        no_aug: resize the shorter side and crop the center, instead of a random crop.
        scale, ratio: smallest and largest area, as shares of the image, and width over height of the random crop.
        interpolation: "bicubic", "bilinear", "lanczos" or "nearest"; also "random", which draws bilinear or bicubic for
            each image.  Rotations, shears and translations take the same, but bicubic for "lanczos".

    Raises:
        ConfigError: for limits that are none.
    """

    no_aug: bool = option(False, None,
        "Resize and center-crop the training images too, and do nothing else to them.", negatable=False)  # fmt: skip
    scale: tuple[float, float] = option((0.08, 1.0), fraction,
        "Smallest and largest area of the random crop, as shares of the image.", nargs="+", metavar="A")  # fmt: skip
    ratio: tuple[float, float] = option((3 / 4, 4 / 3), positive,
        "Smallest and largest width over height of the random crop.", nargs="+", metavar="R")  # fmt: skip
    interpolation: str = option("bicubic", None, "Interpolation of the random crop and of warps.",
        flag="train_interpolation", flag_default="random", choices=("random", "bilinear", "bicubic"))  # fmt: skip

    def __post_init__(self) -> None:
        for name, pair, upper in (("scale", self.scale, 1.0), ("ratio", self.ratio, math.inf)):
            if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= upper:
                limit = " <= 1" if upper == 1 else ""
                shown = " ".join(f"{value:g}" for value in pair)
                raise ConfigError(f"{name} must satisfy 0 < MIN <= MAX{limit}, got {shown}")


@dataclass(frozen=True)
class Augmentation:
    """What happens to each training image after its random crop, in this order; timm's names and meaning.

    Fields:
        hflip, vflip: probabilities of a horizontal and a vertical flip.
        aa: AutoAugment, RandAugment or 3-Augment: "" for none, "rand-m9-mstd0.5-inc1" and its like, "original",
            "originalr", "v0", "v0r" or "3a"; see :func:`dali_mix.fn.image.policies.parse_auto_augment`.
        color_jitter: brightness, contrast and saturation are each multiplied by a number drawn from
            [1 - x, 1 + x]; three numbers set them apart, a fourth, up to 0.5, turns the hue by up to this
            part of a circle.  As in timm, off where ``aa`` is set, but for strings with "3a".
        color_jitter_prob: probability of the color jitter; None for always.
        grayscale_prob: probability of turning gray.
        gaussian_blur_prob: probability of a Gaussian blur with a sigma from 0.1 to 2 pixels.
        reprob: probability of erasing.
        remode: what an erased box is filled with: "const" the mean color, "rand" one normal color,
            "pixel" normal noise.
        recount: at most this many boxes, from 1 on with equal chances; they share the area.

    Raises:
        ConfigError: for illegal values.
    """

    hflip: float = option(0.5, probability, "Probability of a horizontal flip.", metavar="PROB")
    vflip: float = option(0.0, probability, "Probability of a vertical flip.", metavar="PROB")
    color_jitter: float | tuple[float, ...] = option(0.0, non_negative,
        "Strength of color jitter, which is off beside most policies of --aa.", flag_default=0.4,
        metavar="F")  # fmt: skip
    color_jitter_prob: float | None = option(None, probability,
        "Probability of color jitter; without it every image has it.", metavar="PROB")  # fmt: skip
    grayscale_prob: float = option(0.0, probability,
        "Probability of a gray image; without it there is none.", flag_default=None, metavar="PROB")  # fmt: skip
    gaussian_blur_prob: float = option(0.0, probability,
        "Probability of a Gaussian blur; without it there is none.", flag_default=None, metavar="PROB")  # fmt: skip
    aa: str = option("", None,
        "Policy of augmentation, such as rand-m9-mstd0.5-inc1 or 3a.", flag_default=None, metavar="POLICY")  # fmt: skip
    reprob: float = option(0.0, probability,
        "Probability of random erasing, which comes before mixing.", metavar="PROB")  # fmt: skip
    remode: str = option("pixel", None,
        "What erased pixels become: black, one color per box, or noise.", choices=REMODES)  # fmt: skip
    recount: int = option(1, integer(1, 1000), "Most erased boxes per image.", metavar="N")

    def __post_init__(self) -> None:
        for name in _PROBABILITIES:
            check_range(name, getattr(self, name), 1)
        if self.color_jitter_prob is not None:
            check_range("color_jitter_prob", self.color_jitter_prob, 1)
        parts = self.color_jitter if isinstance(self.color_jitter, (tuple, list)) else (self.color_jitter,)
        if len(parts) not in (1, 3, 4):
            raise ConfigError(f"color_jitter must be one number, or three or four, got {self.color_jitter!r}")
        for part in parts[:3]:
            check_range("color_jitter", part, math.inf)
        for hue in parts[3:]:
            check_range("the fourth number of color_jitter, the hue,", hue, 0.5)
        check_boxes("remode", self.remode, "recount", self.recount)
        if self.aa != "":
            parse_auto_augment(self.aa)

    @property
    def only_flips(self) -> bool:
        """Whether images are flipped left to right at most."""
        others = (self.vflip, self.aa, self.jitter, self.grayscale_prob, self.gaussian_blur_prob, self.reprob)
        return not any(others)

    @property
    def jitter(self) -> tuple[float, ...]:
        """Brightness, contrast, saturation and hue of the color jitter as it is applied; empty for none."""
        # Anywhere in the string, as in timm: in the policy 3a, and in RandAugment's sets t3a and t3aw.
        if self.aa and "3a" not in self.aa:
            return ()
        parts = self.color_jitter if isinstance(self.color_jitter, (tuple, list)) else (self.color_jitter,) * 3
        return (*parts, 0.0)[:4] if any(parts) and self.color_jitter_prob != 0 else ()


@dataclass(frozen=True)
class Chain:
    """What is done to each image, in this order, checked: what both implementations take.

    Fields:
        kind: for the names and the random streams of the operators.
        seed: None for the pipeline's own.
        hflip, vflip: probabilities.
        policy: None for none.
        fill: red, green and blue, whole numbers in [0, 255], of what a rotation, shear or translation uncovers,
            and of what is erased with ``remode`` "const".
        interpolation: "nearest", "bilinear", "bicubic", or "random" for one of the last two, drawn for each of those.
        jitter: brightness, contrast, saturation and hue; empty for none.
        jitter_prob: None for always.
        grayscale, blur, erasing: probabilities.
        remode, recount: see :class:`Augmentation`.
        mean, std: of the noise that erases, three values each, for images in [0, 1].
    """

    kind: str
    seed: int | None = None
    hflip: float = 0.0
    vflip: float = 0.0
    policy: AutoAugment | None = None
    fill: tuple[int, ...] = (128, 128, 128)
    interpolation: str = "random"
    jitter: tuple[float, ...] = ()
    jitter_prob: float | None = None
    grayscale: float = 0.0
    blur: float = 0.0
    erasing: float = 0.0
    remode: str = "pixel"
    recount: int = 1
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def check_range(name: str, value: object, highest: float) -> None:
    """Refuse anything but a number from 0 to ``highest``."""
    legal = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not legal or not 0 <= float(value) <= highest:  # type: ignore[arg-type]
        limits = "a number from 0 on" if math.isinf(highest) else f"a number from 0 to {highest:g}"
        raise ConfigError(f"{name} must be {limits}, got {value!r}")


def check_boxes(mode_name: str, mode: object, count_name: str, count: object) -> None:
    """Refuse an unknown filling of erased boxes, and a number of boxes that is none."""
    if mode not in REMODES:
        raise ConfigError(f"{mode_name} must be one of {', '.join(REMODES)}, got {mode!r}")
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MOST_BOXES:
        raise ConfigError(f"{count_name} must be a whole number from 1 to {_MOST_BOXES}, got {count!r}")
