"""Augmentation composed of DALI's operators: against timm on PIL, and by its own statistics."""

import math

import numpy as np
import pytest
from nvidia.dali import types
from nvidia.dali.pipeline import Pipeline
from PIL import Image
from timm.data import auto_augment as timm_aa

from dali_mix import ConfigError, native
from dali_mix import fn as mix
from dali_mix.fn import graph
from dali_mix.fn.image.policies import parse_auto_augment
from dali_mix.fn.image.portable import policy as portable_policy
from dali_mix.fn.image.portable.image_ops import MATRICES
from dali_mix.fn.image.portable.operations import operations
from tests.fn.image.images import FILL, MEAN, RECIPE, STD, augmented, smooth_images
from tests.graphs import images_of, run_graph


@pytest.fixture(autouse=True, scope="module")
def portable():
    with native.using("off"):
        yield


# Single operations


def one_operation(images, name, level, sign):
    """``name`` at a magnitude, with a given sign instead of a random one."""

    def define(images, labels):
        values = [graph.constant(value, types.FLOAT) for value in (level / 10, level / 10 * sign, sign * 0.5)]
        leaf = portable_policy._leaves([name], FILL, beyond_ten=level > 10)[-1]
        return (leaf[1](graph.constant(1, types.INT32), images, *values),)

    return run_graph(define, images)[0][0]


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(
    ("name", "level"),
    # Posterizing to less than a bit is an error in Pillow.
    [(name, level) for name in sorted({*operations(), *MATRICES}) for level in (2.6, 9.0, 23.0)
     if (name, level) != ("PosterizeIncreasing", 23.0)],
)  # fmt: skip
def test_an_operation_does_what_timms_does(name, level, sign, monkeypatch):
    monkeypatch.setattr(timm_aa, "_randomly_negate", lambda value: sign * value)
    monkeypatch.setattr(timm_aa.random, "uniform", lambda low, high: low + (high - low) * (sign * 0.5 + 1) / 2)
    hparams = {"img_mean": FILL, "interpolation": Image.Resampling.BILINEAR, "magnitude_max": 100}
    operation = timm_aa.AugmentOp(name, prob=1.0, magnitude=level, hparams=hparams)
    images = smooth_images(height=112, width=96)
    theirs = np.stack([np.asarray(operation(Image.fromarray(image))) for image in images]).astype(int)
    difference = np.abs(one_operation(images, name, level, sign) - theirs)
    if name.startswith("Sharpness"):
        difference = difference[:, 1:-1, 1:-1]
    # PIL truncates where DALI rounds; for the others, see the docstring of auto_augment.
    # A few pixels of a warp differ more: at the border PIL does not blend with the fill color.
    mean, most = (4, 9) if name == "Equalize" else (0.8, 2)
    assert difference.mean() < mean
    assert np.quantile(difference, 0.95) <= most


def test_auto_contrast_and_contrast_leave_a_flat_image_alone():
    flat = np.full((2, 8, 8, 3), 77, np.uint8)
    for name in ("AutoContrast", "ContrastIncreasing"):
        np.testing.assert_allclose(one_operation(flat, name, 9.0, 1), flat, atol=1)


# Draws


def drawn(aa, batch=1000, iterations=4):
    """Codes and magnitudes, (layers, n) each, and the names of the codes."""
    policy = parse_auto_augment(aa)
    names = sorted({name for sub in policy.sub_policies for name, _, _ in sub}, key=portable_policy._place)

    def define(images, labels):
        layers = portable_policy.draw_operations(policy, names, graph.random_op("test", None))
        return [node for layer in layers for node in layer]

    outputs = run_graph(define, np.zeros((batch, 1, 1, 3), np.uint8), iterations=iterations)
    columns = [np.concatenate(column) for column in zip(*outputs, strict=True)]
    return np.stack(columns[::2]), np.stack(columns[1::2]) * 10, names


def test_the_recipe_draws_two_operations_with_noisy_magnitudes():
    codes, magnitudes, names = drawn(RECIPE)
    assert codes.shape == (2, 4000)
    # Standard errors: 0.008 for a share of 0.5, 0.002 for one of 1/30.
    assert np.abs((codes > 0).mean(axis=1) - 0.5).max() < 0.04
    shares = np.bincount(codes.ravel(), minlength=len(names) + 1)[1:] / codes.size
    assert len(names) == 15
    assert np.abs(shares - 1 / 30).max() < 0.01
    # The clip at 10, two deviations up, takes 0.004 off the mean and 0.02 off the deviation.
    assert abs(magnitudes.mean() - 8.996) < 0.03
    assert abs(magnitudes.std() - 0.485) < 0.03
    assert 9.99 < magnitudes.max() < 10.001
    assert abs(np.corrcoef(magnitudes)[0, 1]) < 0.06
    assert abs(np.corrcoef(codes)[0, 1]) < 0.06


def test_an_infinite_deviation_is_a_uniform_magnitude():
    _, magnitudes, _ = drawn("rand-m8-mstd101-n1")
    assert abs(magnitudes.mean() - 4) < 0.15
    assert magnitudes.max() < 8
    assert abs(magnitudes.std() - 8 / math.sqrt(12)) < 0.1


def test_a_sub_policy_is_drawn_as_a_whole():
    codes, magnitudes, names = drawn("original")
    pairs = {(names[a - 1], names[b - 1]) for a, b in codes.T if a and b}
    legal = {tuple(name for name, _, _ in sub) for sub in parse_auto_augment("original").sub_policies}
    assert pairs <= legal
    assert len(pairs) > 15
    assert set(np.unique(magnitudes.round(3))) <= set(range(10))


@pytest.mark.parametrize(("hflip", "vflip", "coins"), [(0.5, 0.0, 1), (0.0, 0.5, 1), (0.5, 0.5, 2), (0.0, 0.0, 0)])
def test_a_coin_that_never_falls_is_not_drawn(hflip, vflip, coins):
    pipeline = Pipeline(batch_size=2, num_threads=1, device_id=None)
    options = mix.Augmentation(hflip=hflip, vflip=vflip)
    with pipeline:
        images = types.Constant(images_of(1, 4, 4)[0], layout="HWC", device="cpu")
        pipeline.set_outputs(mix.augment(images, options, img_mean=MEAN, img_std=STD))
    pipeline.build()
    assert pipeline.serialize().count(b"random__CoinFlip") == coins


@pytest.mark.parametrize("aa", ["rand-m9-tweights", "rand-m9-t3aw"])
def test_sets_with_weights_are_refused_in_one_line(aa):
    with pytest.raises(ConfigError, match=r"need the native operators.* set DALI_MIX_NATIVE=on, .* or leave") as error:
        augmented(smooth_images(), mix.Augmentation(aa=aa))
    assert "\n" not in str(error.value)


def test_whatever_the_interpolation_is_warps_are_bilinear():
    images = smooth_images()
    first, *others = (
        augmented(images, mix.Augmentation(aa="rand-m10-p1-n1"), interpolation=name)
        for name in ("random", "nearest", "lanczos")
    )
    assert all(np.array_equal(first, other) for other in others)
