"""The table of docs/augmentation.md: how far each operation is from PIL's at magnitude 9, on photographs.

``python -m tests.native.test_augment_table FOLDER`` prints it.
"""

import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment as timm_aa

from dali_mix import native
from tests.fn.image.images import FILL
from tests.fn.image.test_portable import one_operation
from tests.native.augmenting import FILTERS, GEOMETRIC, applied, step

MAGNITUDE = 9.0
SETS = (timm_aa._RAND_TRANSFORMS, timm_aa._RAND_INCREASING_TRANSFORMS, timm_aa._RAND_3A, ["PosterizeOriginal"],
        ["GaussianBlurRand"])  # fmt: skip
NAMES = list(dict.fromkeys(name for names in SETS for name in names))
"""Of all policies."""

PILS = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def photographs_of(folder, count=24):
    """Of 224 px, from classes far apart."""
    paths = sorted(Path(folder).glob("*/*"))
    images = [Image.open(path).convert("RGB") for path in paths[:: max(1, len(paths) // count)][:count]]
    return np.stack([np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC)) for image in images])


def drawn(sign):
    """timm's two functions that draw, always drawing the same."""
    uniform = mock.patch.object(timm_aa.random, "uniform", lambda low, high: low + (high - low) * (sign * 0.5 + 1) / 2)
    return mock.patch.object(timm_aa, "_randomly_negate", lambda value: sign * value), uniform


def by_timm(images, name, sign, kind):
    """Images, and the argument of the step that does the same here."""
    hparams = {"img_mean": FILL, "interpolation": PILS[kind]}
    operation = timm_aa.AugmentOp(name, prob=1.0, magnitude=MAGNITUDE, hparams=hparams)
    negate, uniform = drawn(sign)
    with negate, uniform:
        argument = operation.level_fn(MAGNITUDE, {})[0] if operation.level_fn else 0.0
        if name == "GaussianBlurRand":
            argument = timm_aa.random.uniform(0.1, 2.0 * argument)
        result = np.stack([np.asarray(operation(Image.fromarray(image))) for image in images])
    return result, 1 - argument if name == "Desaturate" else argument


def differences(images, name, kind, mode):
    """From timm's results, of both signs: (2, N, H, W, 3)."""
    found = []
    for sign in (-1, 1):
        theirs, argument = by_timm(images, name, sign, kind)
        if mode == "native":
            one = step(name, argument, FILTERS.index(kind) if name in GEOMETRIC else 0)
            ours = np.stack(applied(images, [one] * len(images), fill=list(FILL)))
        else:
            ours = one_operation(images, name, MAGNITUDE, sign)
        found.append(np.abs(ours.astype(np.int16) - theirs))
    return np.stack(found)


def rows_of(images):
    """Of the table: an operation, and the mean and the largest difference of each implementation."""
    with native.using("off"):
        for name in NAMES:
            kinds = ("bilinear", "bicubic") if name in GEOMETRIC else ("bilinear",)
            for kind in kinds:
                found = {"native": differences(images, name, kind, "native")}
                if kind == "bilinear":  # the only one of the portable graph
                    found["portable"] = differences(images, name, kind, "portable")
                yield (f"{name}, {kind}" if name in GEOMETRIC else name), found


@pytest.mark.parametrize("name", NAMES)
def test_the_limits_of_the_table(name, real_images):
    images = photographs_of(real_images, 3)
    for kind in FILTERS if name in GEOMETRIC else ["bilinear"]:
        assert differences(images, name, kind, "native").max() == 0
    if name == "Equalize":  # by OpenCV's formula, which is another one where many pixels have one level
        return
    with native.using("off"):
        found = differences(images, name, "bilinear", "portable")
    if name.startswith("Sharpness"):
        found = found[:, :, 1:-1, 1:-1]  # PIL leaves the border alone
    assert found.mean() < 0.8
    assert np.quantile(found, 0.95) <= 2


def main(folder):
    """Print the table."""
    images = photographs_of(folder)
    print(f"{len(images)} photographs of 224 px, magnitude {MAGNITUDE:g}, both signs\n")
    print("| operation | native: mean | largest | portable: mean | largest |\n|---|---|---|---|---|")
    for name, found in rows_of(images):
        cells = [text for one in found.values() for text in (f"{one.mean():.2f}".replace("0.00", "0"), str(one.max()))]
        print(f"| {name} | {' | '.join(cells + ['-'] * (4 - len(cells)))} |")


if __name__ == "__main__":
    main(sys.argv[1])
