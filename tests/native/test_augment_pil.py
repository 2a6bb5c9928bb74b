"""The native operations against PIL, through timm's own functions, and against torchvision: equal to the level."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from timm.data import auto_augment as timm_aa
from torchvision.transforms import functional

from tests.fn.image.images import FILL, smooth_images
from tests.graphs import images_of
from tests.native.augmenting import FILTERS, GEOMETRIC, applied, plan, step

OPERATIONS = [name for name in timm_aa.LEVEL_TO_ARG if name not in ("TranslateX", "TranslateY")]  # in no policy
CASES = [(name, kind) for name in OPERATIONS for kind in (FILTERS if name in GEOMETRIC else ["bilinear"])]
MAGNITUDES = (0, 0.4, 1, 2, 2.6, 3, 4, 5, 6, 7, 7.7, 8, 9, 10, 14, 23, 30, 60)
"""Beyond 10, too, as ``mmax`` allows: rotations by 90 and 180 degrees, factors up to 10.9."""
RESAMPLE = dict(zip(FILTERS, (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC),
                    strict=True))  # fmt: skip


def made_up():
    """Smooth, noisy, flat and gray images, and images of all kinds of sizes."""
    sizes = [(1, 1), (1, 7), (9, 1), (2, 2), (3, 3), (2, 5), (4, 3), (37, 53), (5, 127), (64, 17), (24, 24), (25, 25)]
    noise = [images_of(1, *size, seed=i)[0] for i, size in enumerate(sizes)]
    flat = [np.full((8, 9, 3), level, np.uint8) for level in (0, 77, 255)]
    gray = [images_of(1, *size)[0][..., :1].repeat(3, axis=2) for size in ((31, 18), (6, 43))]
    narrow = [100 + noise[7] % 9, np.where(noise[9] < 128, 3, 250).astype(np.uint8)]  # few levels
    return [*smooth_images(2, 51, 67), *noise, *flat, *gray, *narrow]


@pytest.fixture(scope="module")
def photographs(real_images):
    """Of several shapes."""
    paths = sorted(real_images.glob("*/*"))[:200:50]
    images = [Image.open(path).convert("RGB") for path in paths]
    for image, side in zip(images, (224, 201, 180, 143), strict=True):
        image.thumbnail((side, side))
    return [np.asarray(image) for image in images]


def steps_at(name, magnitudes, kind):
    """Of each magnitude the steps that are drawn, without doubles: up to two signs, or a few random arguments."""
    count = len(magnitudes)
    rows = plan(
        12, operations=[name] * count, probs=[1.0] * count, magnitudes=list(map(float, magnitudes)), slots=count,
        draws=1, mmax=100.0, interpolation=kind,
    )  # fmt: skip
    return [np.unique(rows[:, i], axis=0)[:3] for i in range(count)]


def timms(name, magnitude, drawn, kind, monkeypatch):
    """timm's operation, which draws what was drawn here."""
    hparams = {"img_mean": FILL, "interpolation": RESAMPLE[kind], "magnitude_max": 100}
    magnitude = float(np.float32(magnitude))  # as DALI hands it over; those of timm's strings are whole numbers
    operation = timm_aa.AugmentOp(name, prob=1.0, magnitude=magnitude, hparams=hparams)
    argument = float(drawn[1])
    negative = argument < (1 if name.endswith("Increasing") else 0)
    monkeypatch.setattr(timm_aa, "_randomly_negate", lambda value: -value if negative else value)
    monkeypatch.setattr(timm_aa.random, "uniform", lambda low, high: argument)
    if name.startswith("Posterize"):  # Pillow 13 refuses to keep no bit
        (bits,) = operation.level_fn(magnitude, {})
        operation.level_fn = lambda *_: (max(1, bits),)
    if operation.level_fn and name != "GaussianBlurRand":
        (expected,) = operation.level_fn(magnitude, {})
        expected = {"Desaturate": 1 - expected}.get(name, expected)
        if name.startswith("Posterize"):
            assert max(1, argument) == expected
        else:
            assert argument == pytest.approx(expected, abs=1e-12)
    return operation


def compare(name, kind, images, magnitudes, monkeypatch):
    """Every image at every magnitude, with every sign: one batch of ours."""
    pairs = [(magnitude, drawn) for magnitude, steps in zip(magnitudes, steps_at(name, magnitudes, kind), strict=True)
             for drawn in steps]  # fmt: skip
    ours = applied(images * len(pairs), [drawn for _, drawn in pairs for _ in images], fill=list(FILL))
    for at, (magnitude, drawn) in enumerate(pairs):
        with monkeypatch.context() as patch:
            operation = timms(name, magnitude, drawn, kind, patch)
            theirs = [np.asarray(operation(Image.fromarray(image))) for image in images]
        for image, mine in zip(theirs, ours[at * len(images) :], strict=False):
            assert np.array_equal(mine, image), f"{name} at {magnitude}: {drawn}, {image.shape}"


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_operations_are_timms_on_made_up_images(name, kind, monkeypatch):
    compare(name, kind, made_up(), MAGNITUDES, monkeypatch)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_operations_are_timms_on_photographs(name, kind, photographs, monkeypatch):
    compare(name, kind, photographs, (1, 5, 9, 10, 17.5), monkeypatch)


@pytest.mark.parametrize(("name", "axis"), [("TranslateXRel", 0), ("TranslateYRel", 1)])
def test_translations_by_half_a_pixel(name, axis):
    """Where rounding decides which of two pixels is nearest, it is Pillow's rounding."""
    sizes = [(3, side) if axis == 0 else (side, 3) for side in range(2, 90)]
    images = [images_of(1, *size, seed=i)[0] for i, size in enumerate(sizes)]
    halves = [(side // 3 + 0.5) / side * sign for side in range(2, 90) for sign in (1, -1)]
    pairs = list(zip([image for image in images for _ in range(2)], halves, strict=True))
    ours = applied([image for image, _ in pairs], [step(name, half) for _, half in pairs], fill=list(FILL))
    for (image, half), mine in zip(pairs, ours, strict=True):
        theirs = timm_aa.NAME_TO_OP[name](Image.fromarray(image), half, resample=RESAMPLE["nearest"], fillcolor=FILL)
        np.testing.assert_array_equal(mine, np.asarray(theirs), err_msg=f"{half}, {image.shape}")


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name in GEOMETRIC or name.endswith("Increasing")])
def test_both_signs_are_among_what_is_compared(name):
    """Or half of the comparison above would be missing."""
    (steps,) = steps_at(name, [7.7], "bilinear")
    assert len(steps) == (1 if name.startswith(("Posterize", "Solarize")) else 2)


def test_hues_turn_as_torchvisions_do():
    """By every shift, on many colors: noise, grays, and the corners of the cube."""
    corners = np.stack(np.meshgrid(*[[0, 1, 127, 128, 254, 255]] * 3), -1).reshape(12, 18, 3).astype(np.uint8)
    grays = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    images = [images_of(1, 40, 50, seed=3)[0], corners, grays, *smooth_images(2)]
    # Between two shifts, so that no rounding of a product decides; turned by half a circle at most.
    factors = [(shift + 0.5) / 255 for shift in range(127)]
    factors += [-factor for factor in factors]
    shifts = [int(np.int32(factor * 255).astype(np.uint8)) for factor in factors]
    assert len(set(shifts)) == 253
    ours = applied(images * len(shifts), [step("Hue", shift) for shift in shifts for _ in images])
    theirs = [functional.adjust_hue(Image.fromarray(image), factor) for factor in factors for image in images]
    for mine, other in zip(ours, theirs, strict=True):
        assert np.array_equal(mine, np.asarray(other))


def test_many_colors_turn_as_torchvisions_do():
    """Two shifts, a million colors."""
    levels = np.arange(0, 256, 2.55).astype(np.uint8)
    colors = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    for shift in (0, 77):
        (ours,) = applied([colors], [step("Hue", shift)])
        theirs = functional.adjust_hue(Image.fromarray(colors), (shift + 0.5) / 255)
        np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_grayscale_is_torchvisions():
    images = made_up()
    (gray,) = np.unique(plan(2, grayscale=1.0)[:, 0], axis=0)
    for image, mine in zip(images, applied(images, [gray] * len(images)), strict=True):
        np.testing.assert_array_equal(mine, np.asarray(functional.to_grayscale(Image.fromarray(image), 3)))


@pytest.mark.parametrize("sigma", [0.1, 0.35, 0.7, 1.0, 1.6, 2.0])
def test_the_blur_of_transforms_is_torchvisions(sigma):
    """It adds up in another order: one level where a sum lies halfway, at fewer than one value in a thousand."""
    images = [image for image in made_up() if min(image.shape[:2]) >= 12]  # torch reflects once only
    assert len(images) > 5
    blurred = applied(images, [step("Gaussian", sigma)] * len(images))
    for image, mine in zip(images, blurred, strict=True):
        tensor = torch.from_numpy(image).permute(2, 0, 1)
        theirs = functional.gaussian_blur(tensor, [23, 23], [sigma, sigma]).permute(1, 2, 0).numpy()
        difference = np.abs(mine.astype(int) - theirs)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3


def test_images_smaller_than_the_blur_are_reflected_again_and_again():
    images = [image for image in made_up() if min(image.shape[:2]) < 12]
    assert len(images) > 5
    taps = np.exp(-0.5 * (np.arange(-11, 12) / 1.7) ** 2)
    for image, mine in zip(images, applied(images, [step("Gaussian", 1.7)] * len(images)), strict=True):
        padded = np.pad(image.astype(float), ((11, 11), (11, 11), (0, 0)), "reflect")
        for axis in (0, 1):
            windows = np.lib.stride_tricks.sliding_window_view(padded, 23, axis)
            padded = windows @ (taps / taps.sum())
        assert np.abs(mine - padded).max() < 0.501


@pytest.mark.parametrize("name", ["Color", "Contrast", "Brightness", "Sharpness"])
def test_factors_of_a_jitter_are_those_of_image_enhance(name):
    """Beyond [0, 1] results are clipped, which PIL does on a path of its own."""
    images = made_up()
    for factor in (0.0, 1e-7, 0.25, 0.5, 0.999, 1.0, 1.0001, 1.4, 2.0, 3.7, 20.0):
        enhanced = applied(images, [step(name, factor)] * len(images))
        for image, mine in zip(images, enhanced, strict=True):
            theirs = getattr(ImageEnhance, name)(Image.fromarray(image)).enhance(factor)
            assert np.array_equal(mine, np.asarray(theirs)), (factor, image.shape)


@pytest.mark.parametrize("radius", [0.0, 0.1, 1.0, 2.0, 7.3, 35.0, 90.0])
def test_blurs_of_any_radius_are_pillows(radius):
    images = made_up()
    for image, mine in zip(images, applied(images, [step("GaussianBlur", radius)] * len(images)), strict=True):
        theirs = timm_aa.gaussian_blur(Image.fromarray(image), radius)
        np.testing.assert_array_equal(mine, np.asarray(theirs), err_msg=str(image.shape))


@pytest.mark.parametrize(("across", "down"), [(1, 0), (0, 1), (1, 1)])
def test_flips_are_pillows(across, down):
    images = made_up()
    for image, mine in zip(images, applied(images, [step("Flip", across, down)] * len(images)), strict=True):
        np.testing.assert_array_equal(mine, image[:: -1 if down else 1, :: -1 if across else 1])
