"""Augmentation of single images against timm on PIL, NumPy, and its own statistics."""

import math

import numpy as np
import pytest
import torch
from nvidia.dali import types
from nvidia.dali.pipeline import Pipeline
from PIL import Image
from timm.data import auto_augment as timm_aa

from dali_mix import MixLoader
from dali_mix.data import Augmentation, augment
from dali_mix.data import auto_augment as ours
from dali_mix.errors import ConfigError
from dali_mix.fn import _graph
from pipelines.imagenet import imagenet_train
from tests.graphs import images_of, run_graph

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILL = (124, 116, 104)
RECIPE = "rand-m9-mstd0.5-inc1"
EVERYTHING = Augmentation(
    vflip=0.3, color_jitter=(0.4, 0.4, 0.4, 0.1), color_jitter_prob=0.8, grayscale_prob=0.2, gaussian_blur_prob=0.5,
    aa="3a-mstd0.5", reprob=0.5, remode="pixel", recount=3,
)  # fmt: skip
RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def smooth_images(batch=4, height=56, width=40):
    """Images with some structure, for filters and warps."""
    coarse = images_of(batch, 7, 5, seed=3)
    return np.stack([np.asarray(Image.fromarray(i).resize((width, height), Image.Resampling.BICUBIC)) for i in coarse])


def augmented(images, augmentation, iterations=1, **options):
    def graph(images, labels):
        return (augment(images, augmentation, img_mean=MEAN, img_std=STD),)

    return np.concatenate([outputs[0] for outputs in run_graph(graph, images, iterations=iterations, **options)])


# Configuration


@pytest.mark.parametrize(
    "options",
    [
        {"hflip": 1.5}, {"vflip": -0.1}, {"reprob": float("nan")}, {"grayscale_prob": "much"}, {"hflip": True},
        {"color_jitter": -1}, {"color_jitter": (0.1, 0.2)}, {"color_jitter": (0.4, 0.4, 0.4, 0.6)},
        {"color_jitter_prob": 2}, {"gaussian_blur_prob": None}, {"remode": "white"}, {"recount": 0}, {"recount": 1.5},
        {"aa": "randaug"}, {"aa": "augmix-m5"}, {"aa": "ta_wide"}, {"aa": "rand-m9-w0"}, {"aa": "rand-m9-tweights"},
        {"aa": "rand-m9.5"}, {"aa": "rand-x3"}, {"aa": "rand-m9-mmax12"}, {"aa": "rand-n0"}, {"aa": "v0-m9"},
        {"aa": "rand-m9-m8"}, {"aa": "rand-p2"}, {"aa": "rand-"}, {"aa": None},
    ],
)  # fmt: skip
def test_illegal_values_are_refused_in_one_line(options):
    with pytest.raises(ConfigError) as error:
        Augmentation(**options)
    message = str(error.value)
    assert "\n" not in message
    assert next(iter(options)) in message
    assert "got" in message or "use one of" in message


def test_the_unavailable_part_is_named():
    with pytest.raises(ConfigError, match="'w0' chooses another set of operations"):
        Augmentation(aa="rand-m9-mstd0.5-w0")


@pytest.mark.parametrize(
    "aa", [RECIPE, "rand-m7-n3-p0.7", "rand", "rand-mstd101-m5", "rand-m6-mmax8", "rand-inc1-mstd1"]
)
def test_rand_strings_mean_what_they_mean_to_timm(aa):
    theirs, parsed = timm_aa.rand_augment_transform(aa, {}), ours.parse_auto_augment(aa)
    assert parsed.draws == theirs.num_layers
    assert parsed.sub_policies == tuple(((op.name, op.prob, op.magnitude),) for op in theirs.ops)
    assert {(op.magnitude_std, op.magnitude_max or 10) for op in theirs.ops} == {(parsed.mstd, parsed.mmax)}


@pytest.mark.parametrize("aa", ["original", "originalr", "v0", "v0r-mstd0.5", "3a"])
def test_policies_are_timms(aa):
    theirs, parsed = timm_aa.auto_augment_transform(aa, {}), ours.parse_auto_augment(aa)
    assert parsed.sub_policies == tuple(tuple((o.name, o.prob, o.magnitude) for o in sub) for sub in theirs.policy)
    assert parsed.mstd == theirs.policy[0][0].magnitude_std


def test_colour_jitter_is_off_beside_auto_augment_but_not_beside_3a():
    assert Augmentation(color_jitter=0.4).jitter == (0.4, 0.4, 0.4, 0.0)
    assert Augmentation(color_jitter=0.4, aa=RECIPE).jitter == ()
    assert Augmentation(color_jitter=(0.1, 0.2, 0.3, 0.4), aa="3a").jitter == (0.1, 0.2, 0.3, 0.4)
    assert Augmentation().jitter == Augmentation(color_jitter=0.4, color_jitter_prob=0).jitter == ()


# Single operations


def one_operation(images, name, level, sign):
    """``name`` at ``level`` in [0, 10], with a given sign instead of a random one."""

    def graph(images, labels):
        values = [_graph.constant(value, types.FLOAT) for value in (level / 10, level / 10 * sign, sign * 0.5)]
        leaf = ours._leaves([name], FILL)[-1]
        return (leaf[1](_graph.constant(1, types.INT32), images, *values),)

    return run_graph(graph, images)[0][0]


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("level", [2.6, 9.0])
@pytest.mark.parametrize("name", sorted(set(ours.OPERATIONS) | set(ours.ops.MATRICES)))
def test_an_operation_does_what_timms_does(name, level, sign, monkeypatch):
    monkeypatch.setattr(timm_aa, "_randomly_negate", lambda value: sign * value)
    monkeypatch.setattr(timm_aa.random, "uniform", lambda low, high: low + (high - low) * (sign * 0.5 + 1) / 2)
    hparams = {"img_mean": FILL, "interpolation": Image.Resampling.BILINEAR}
    operation = timm_aa.AugmentOp(name, prob=1.0, magnitude=level, hparams=hparams)
    images = smooth_images(height=112, width=96)
    theirs = np.stack([np.asarray(operation(Image.fromarray(image))) for image in images]).astype(int)
    difference = np.abs(one_operation(images, name, level, sign) - theirs)
    if name.startswith("Sharpness"):
        difference = difference[:, 1:-1, 1:-1]
    # PIL truncates where DALI rounds; for the others, see the docstring of auto_augment.
    # A few pixels of a warp differ more: at the border PIL does not blend with the fill colour.
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
    policy = ours.parse_auto_augment(aa)
    names = sorted({name for sub in policy.sub_policies for name, _, _ in sub}, key=ours._place)

    def graph(images, labels):
        layers = ours.draw_operations(policy, names, _graph.random_op("test", None))
        return [node for layer in layers for node in layer]

    outputs = run_graph(graph, np.zeros((batch, 1, 1, 3), np.uint8), iterations=iterations)
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
    legal = {tuple(name for name, _, _ in sub) for sub in ours.parse_auto_augment("original").sub_policies}
    assert pairs <= legal
    assert len(pairs) > 15
    assert set(np.unique(magnitudes.round(3))) <= set(range(10))


# The whole


def test_nothing_asked_nothing_done():
    images = images_of(8)
    assert np.array_equal(augmented(images, Augmentation(hflip=0.0)), images)


def test_flips():
    images = images_of(500, 5, 4)
    assert np.array_equal(augmented(images, Augmentation(hflip=0.0, vflip=1.0)), images[:, ::-1])
    assert np.array_equal(augmented(images, Augmentation(hflip=1.0, vflip=1.0)), images[:, ::-1, ::-1])
    flipped = (augmented(images, Augmentation(hflip=0.0, vflip=0.25)) == images[:, ::-1]).all(axis=(1, 2, 3))
    assert abs(flipped.mean() - 0.25) < 0.08  # four standard errors


@pytest.mark.parametrize(("hflip", "vflip", "coins"), [(0.5, 0.0, 1), (0.0, 0.5, 1), (0.5, 0.5, 2), (0.0, 0.0, 0)])
def test_a_coin_that_never_falls_is_not_drawn(hflip, vflip, coins):
    pipeline = Pipeline(batch_size=2, num_threads=1, device_id=None)
    with pipeline:
        images = types.Constant(images_of(1, 4, 4)[0], layout="HWC", device="cpu")
        pipeline.set_outputs(augment(images, Augmentation(hflip=hflip, vflip=vflip), img_mean=MEAN, img_std=STD))
    pipeline.build()
    assert pipeline.serialize().count(b"random__CoinFlip") == coins


def test_grey():
    images = smooth_images(8)
    grey = augmented(images, Augmentation(hflip=0.0, grayscale_prob=1.0))
    assert np.abs(grey - (images @ [0.299, 0.587, 0.114])[..., None]).max() < 1.01
    share = (np.ptp(augmented(images_of(500), Augmentation(grayscale_prob=0.2)), axis=-1) == 0).all(axis=(1, 2)).mean()
    assert abs(share - 0.2) < 0.08


def test_blur_keeps_the_mean_and_loses_detail():
    images = images_of(64, 32, 32)
    blurred = augmented(images, Augmentation(hflip=0.0, gaussian_blur_prob=1.0)).astype(float)
    assert abs(blurred.mean() - images.mean()) < 1
    ratio = blurred.std(axis=(1, 2, 3)) / images.std(axis=(1, 2, 3))
    assert ratio.min() < 0.25
    assert ratio.max() > 0.9


def test_colour_jitter_of_brightness_alone_is_a_factor():
    images = np.full((600, 4, 4, 3), 100, np.uint8)
    factors = augmented(images, Augmentation(hflip=0.0, color_jitter=(0.4, 0.0, 0.0)))[:, 0, 0, 0] / 100
    assert 0.59 < factors.min() < 0.63
    assert 1.37 < factors.max() < 1.41
    assert abs(factors.mean() - 1) < 0.04
    untouched = augmented(images, Augmentation(color_jitter=(0.4, 0.0, 0.0), color_jitter_prob=0.3))[:, 0, 0, 0] == 100
    assert abs(untouched.mean() - 0.7) < 0.09


def test_colour_jitter_of_contrast_and_hue():
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
    colours = result[mask].astype(float)
    if remode == "const":
        assert np.array_equal(np.unique(colours, axis=0), [FILL])
    else:
        expected = 255 * np.array(MEAN)
        assert np.abs(colours.mean(axis=0) - expected).max() < (3 if remode == "pixel" else 20)
        assert np.abs(colours.std(axis=0) - 255 * np.array(STD)).max() < (4 if remode == "pixel" else 15)


def test_random_colours_are_one_per_box():
    mask, result = erased_mask("rand", reprob=1.0, n=50)
    assert {len(np.unique(image[where], axis=0)) for image, where in zip(result, mask, strict=True)} == {1}
    assert len(np.unique(result[mask], axis=0)) > 45


def test_more_boxes_share_the_area():
    mask, result = erased_mask("rand", reprob=1.0, recount=3)
    boxes = np.array([len(np.unique(image[where], axis=0)) for image, where in zip(result, mask, strict=True)])
    # A later box may cover an earlier one, rarely.
    assert np.abs(np.bincount(boxes, minlength=4)[1:] / len(boxes) - 1 / 3).max() < 0.12
    assert mask.mean() < 0.19


def test_timms_mean_colour_is_uncovered_by_geometry():
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


@pytest.mark.parametrize("options", [EVERYTHING, Augmentation(aa=RECIPE, reprob=0.25)])
def test_a_restored_pipeline_goes_on_bit_for_bit(image_folder, options):
    def loader(**restored):
        pipeline = imagenet_train(
            image_folder / "train", batch_size=8, img_size=32, augmentation=options, interpolation="random",
            device="cpu", num_threads=2,
        )  # fmt: skip
        return MixLoader(pipeline, **restored)

    with loader() as first:
        batches = iter(first)
        for _ in range(3):
            next(batches)
        state = first.state_dict()
        expected = [batch.images.clone() for batch in batches]
    with loader() as second:
        second.load_state_dict(state)
        resumed = [batch.images.clone() for batch in second]
    assert len(expected) > 2
    assert all(torch.equal(a, b) for a, b in zip(expected, resumed, strict=True))


@pytest.mark.parametrize("augmentation", [EVERYTHING, Augmentation(aa="v0", reprob=0.5, remode="rand", recount=2)])
def test_a_deserialised_graph_draws_the_same(image_folder, augmentation):
    folder = image_folder / "train"
    pipeline = imagenet_train(folder, batch_size=8, img_size=32, augmentation=augmentation, device="cpu")
    copy = Pipeline.deserialize(pipeline.serialize())
    for _ in range(3):
        ours, theirs = (np.stack([np.asarray(sample) for sample in p.run()[0]]) for p in (pipeline, copy))
        assert np.array_equal(ours, theirs)


def test_both_filters_are_drawn(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(images_of(1, 16, 16)[0]).save(tmp_path / "a" / "0.png")

    def seen(interpolation, batches):
        pipeline = imagenet_train(
            tmp_path, batch_size=1, img_size=24, choices={}, scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0,
            interpolation=interpolation, device="cpu", **RAW,
        )  # fmt: skip
        with MixLoader(pipeline) as loader:
            return [batch.images.numpy().tobytes() for _ in range(batches) for batch in loader]

    drawn = seen("random", 60)
    assert set(drawn) == {*seen("bilinear", 1), *seen("bicubic", 1)}
    assert 15 < drawn.count(drawn[0]) < 45


def test_the_training_pipeline_refuses_what_it_cannot_do(image_folder):
    options = {"batch_size": 4, "device": "cpu"}
    with pytest.raises(ConfigError, match="train_crop_mode must be 'rrc'"):
        imagenet_train(image_folder / "train", train_crop_mode="rkrc", **options)
    with pytest.raises(ConfigError, match="give the one in augmentation"):
        imagenet_train(image_folder / "train", hflip=0.0, augmentation=Augmentation(), **options)
    with pytest.raises(ConfigError, match="random, got 'box'"):
        imagenet_train(image_folder / "train", interpolation="box", **options)
