"""Augmentation of single images, whatever it is made of: statistics, order, pipelines of all kinds."""

import math

import numpy as np
import pytest

from dali_mix.data import Augmentation
from tests.fn.image.images import FILL, MEAN, RECIPE, STD, augmented, smooth_images
from tests.graphs import images_of

pytestmark = pytest.mark.usefixtures("implementation")


def test_nothing_asked_nothing_done():
    images = images_of(8)
    assert np.array_equal(augmented(images, Augmentation(hflip=0.0)), images)


def test_flips():
    images = images_of(500, 5, 4)
    assert np.array_equal(augmented(images, Augmentation(hflip=0.0, vflip=1.0)), images[:, ::-1])
    assert np.array_equal(augmented(images, Augmentation(hflip=1.0, vflip=1.0)), images[:, ::-1, ::-1])
    flipped = (augmented(images, Augmentation(hflip=0.0, vflip=0.25)) == images[:, ::-1]).all(axis=(1, 2, 3))
    assert abs(flipped.mean() - 0.25) < 0.08  # four standard errors


def test_gray():
    images = smooth_images(8)
    gray = augmented(images, Augmentation(hflip=0.0, grayscale_prob=1.0))
    assert np.abs(gray - (images @ [0.299, 0.587, 0.114])[..., None]).max() < 1.01
    share = (np.ptp(augmented(images_of(500), Augmentation(grayscale_prob=0.2)), axis=-1) == 0).all(axis=(1, 2)).mean()
    assert abs(share - 0.2) < 0.08


def test_blur_keeps_the_mean_and_loses_detail():
    images = images_of(64, 32, 32)
    blurred = augmented(images, Augmentation(hflip=0.0, gaussian_blur_prob=1.0)).astype(float)
    assert abs(blurred.mean() - images.mean()) < 1
    ratio = blurred.std(axis=(1, 2, 3)) / images.std(axis=(1, 2, 3))
    assert ratio.min() < 0.25
    assert ratio.max() > 0.9


def test_color_jitter_of_brightness_alone_is_a_factor():
    images = np.full((600, 4, 4, 3), 100, np.uint8)
    factors = augmented(images, Augmentation(hflip=0.0, color_jitter=(0.4, 0.0, 0.0)))[:, 0, 0, 0] / 100
    assert 0.59 < factors.min() < 0.63
    assert 1.37 < factors.max() < 1.41
    assert abs(factors.mean() - 1) < 0.04
    untouched = augmented(images, Augmentation(color_jitter=(0.4, 0.0, 0.0), color_jitter_prob=0.3))[:, 0, 0, 0] == 100
    assert abs(untouched.mean() - 0.7) < 0.09


def test_color_jitter_of_contrast_and_hue():
    images = smooth_images(32)
    contrast = augmented(images, Augmentation(hflip=0.0, color_jitter=(0.0, 0.3, 0.0))).astype(float)
    assert np.abs((contrast @ [0.299, 0.587, 0.114]).mean() - (images @ [0.299, 0.587, 0.114]).mean()) < 3
    assert (contrast.std(axis=(1, 2, 3)) / images.std(axis=(1, 2, 3))).min() < 0.8
    hue = augmented(images, Augmentation(hflip=0.0, color_jitter=(0.0, 0.0, 0.0, 0.5)))
    assert np.abs(hue.astype(int) - images).mean() > 10


def erased_mask(remode, n=400, **options):
    """Where white or black images were touched, and the results."""
    images = np.full((n, 40, 40, 3), 255, np.uint8)
    images[:, ::2] = 0
    result = augmented(images, Augmentation(hflip=0.0, remode=remode, **options))
    return (result != images).any(axis=-1), result


@pytest.mark.parametrize("remode", ["const", "pixel", "rand"])
def test_erasing_covers_what_timm_covers(remode):
    mask, result = erased_mask(remode, reprob=0.5)
    touched = mask.any(axis=(1, 2))
    assert abs(touched.mean() - 0.5) < 0.1
    rows, columns = mask.any(axis=2).sum(axis=1)[touched], mask.any(axis=1).sum(axis=1)[touched]
    areas, ratios = rows * columns / 1600, rows / columns
    assert areas.max() < 0.36
    assert abs(areas.mean() - (0.02 + 1 / 3) / 2) < 0.025
    assert abs(np.log(ratios).mean()) < 0.2
    assert abs(np.log(ratios).std() - 2 * math.log(1 / 0.3) / math.sqrt(12)) < 0.1
    colors = result[mask].astype(float)
    if remode == "const":
        assert np.array_equal(np.unique(colors, axis=0), [FILL])
    else:
        expected = 255 * np.array(MEAN)
        assert np.abs(colors.mean(axis=0) - expected).max() < (3 if remode == "pixel" else 20)
        assert np.abs(colors.std(axis=0) - 255 * np.array(STD)).max() < (4 if remode == "pixel" else 15)


def test_random_colors_are_one_per_box():
    mask, result = erased_mask("rand", reprob=1.0, n=50)
    assert {len(np.unique(image[where], axis=0)) for image, where in zip(result, mask, strict=True)} == {1}
    assert len(np.unique(result[mask], axis=0)) > 45


def test_more_boxes_share_the_area():
    mask, result = erased_mask("rand", reprob=1.0, recount=3)
    boxes = np.array([len(np.unique(image[where], axis=0)) for image, where in zip(result, mask, strict=True)])
    # A later box may cover an earlier one, rarely.
    assert np.abs(np.bincount(boxes, minlength=4)[1:] / len(boxes) - 1 / 3).max() < 0.12
    assert mask.mean() < 0.19


def test_timms_mean_color_is_uncovered_by_geometry():
    result = augmented(np.full((64, 20, 20, 3), 255, np.uint8), Augmentation(aa="rand-m10-p1-n1"))
    assert (result == FILL).all(axis=-1).any()


@pytest.mark.parametrize("conditionals", [False, True])
@pytest.mark.parametrize("aa", [RECIPE, "original", "v0r", "3a"])
def test_it_runs_in_any_pipeline_for_any_batch_size(aa, conditionals):
    options = Augmentation(aa=aa, color_jitter=0.4, gaussian_blur_prob=0.3, reprob=0.25, recount=2)
    images = smooth_images(5)
    result = augmented(images, options, 3, batch_size=7, enable_conditionals=conditionals)
    assert result.shape == (15, 56, 40, 3)
    assert result.dtype == np.uint8
    assert not np.array_equal(result[:5], result[5:10])
    assert np.array_equal(result, augmented(images, options, 3, batch_size=7, enable_conditionals=conditionals))
