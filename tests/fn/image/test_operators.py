"""The operators for anyone's pipeline: what each does alone, its seed, and the arguments it refuses."""

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def, types

from dali_mix import fn as mix
from dali_mix import native
from tests.fn.image.images import FILL, MEAN, RECIPE, apply, smooth_images
from tests.graphs import images_of
from tests.implementations import need_native

both = pytest.mark.usefixtures("implementation")

OPERATORS = {
    "rand_augment": (mix.rand_augment, {"config": "rand-m9-p1"}),
    "three_augment": (mix.rand_augment, {"config": "rand-m9-p1-t3a-n1"}),
    "auto_augment": (mix.auto_augment, {"policy": "v0-mstd0.5"}),
    "color_jitter": (mix.color_jitter, {"hue": 0.1}),
    "random_erasing": (mix.random_erasing, {"prob": 1.0, "count": 2}),
}


@both
@pytest.mark.parametrize("name", OPERATORS)
def test_the_seed_decides(name):
    operator, options = OPERATORS[name]
    images = smooth_images(6)

    def run(seed, pipeline_seed):
        return apply(operator, images, iterations=2, pipeline={"seed": pipeline_seed}, seed=seed, **options)

    first = run(5, 1)
    assert (first.shape, first.dtype) == ((12, *images.shape[1:]), np.uint8)
    assert np.array_equal(first, run(5, 2))
    assert not np.array_equal(first, run(6, 1))
    assert not np.array_equal(first[:6], first[6:])
    assert np.array_equal(run(None, 1), run(None, 1))
    assert not np.array_equal(run(None, 1), run(None, 2))


@both
def test_two_operators_with_one_seed_draw_apart():
    images = np.full((600, 8, 8, 3), 100, np.uint8)
    erased = (apply(mix.random_erasing, images, 0.5, seed=3) != images).any(axis=(1, 2, 3))
    jittered = (apply(mix.color_jitter, images, 0.9, 0, 0, prob=0.5, seed=3) != images).any(axis=(1, 2, 3))
    assert abs(np.corrcoef(erased, jittered)[0, 1]) < 0.16  # four standard errors


@both
def test_nothing_to_do_adds_nothing_to_the_graph():
    @pipeline_def(batch_size=2, num_threads=1, device_id=None)
    def host():
        images = types.Constant(images_of(1, 4, 4)[0], layout="HWC", device="cpu")
        return mix.random_erasing(mix.color_jitter(mix.color_jitter(images, 0, 0, 0), prob=0), 0.0)

    assert mix.implementation_of(host(), "augmentation") is None


@both
def test_the_fill_is_what_warps_uncover():
    images = np.full((64, 20, 20, 3), 255, np.uint8)
    uncovered = apply(mix.rand_augment, images, "rand-m10-p1-n1", fill=FILL)
    assert (uncovered == FILL).all(axis=-1).any()
    gray = apply(mix.auto_augment, images, "v0")
    assert (gray == 128).all(axis=-1).any()


@both
@pytest.mark.parametrize(("mode", "colors"), [("const", 1), ("rand", 2), ("pixel", 3)])
def test_what_an_erased_box_is_filled_with(mode, colors):
    """None of the images has the color that fills in mode "const"."""
    images = np.full((50, 20, 20, 3), 255, np.uint8)
    erased = apply(mix.random_erasing, images, 1.0, mode=mode)
    boxes = [image[(image != 255).any(axis=-1)] for image in erased]
    assert all(len(box) for box in boxes)
    assert (len(np.unique(np.concatenate(boxes), axis=0)) == 1) == (colors == 1)
    if colors == 1:
        assert np.array_equal(boxes[0][0], FILL)
    assert all(len(np.unique(box, axis=0)) == 1 for box in boxes) == (colors < 3)
    flat = np.concatenate([box[:1] for box in boxes]) / 255
    assert np.abs(flat.mean(axis=0) - MEAN).max() < 0.15  # standard errors of 0.03; values are clipped


@both
def test_a_probability_of_the_jitter():
    images = np.full((600, 4, 4, 3), 100, np.uint8)
    unchanged = (apply(mix.color_jitter, images, 0.4, 0, 0, prob=0.3) == images).all(axis=(1, 2, 3))
    assert abs(unchanged.mean() - 0.7) < 0.09  # four standard errors, and factors that round to nothing


@both
def test_inside_of_an_if_each_side_augments_its_own():
    images = images_of(32, 8, 8)

    def host(nodes):
        erases = fn.random.coin_flip(dtype=types.BOOL, seed=3)
        if erases:
            out = mix.random_erasing(nodes, 1.0, mode="const", mean=(0.0, 0.0, 0.0))
        else:
            out = mix.rand_augment(nodes, "rand-m9-p1-n1")
        return out

    out = apply(host, images, iterations=3, pipeline={"enable_conditionals": True})
    black = (out == 0).all(axis=-1).any(axis=(1, 2)).reshape(3, 32)
    assert 0.2 < black.mean() < 0.8
    assert not np.array_equal(black[0], black[1])


@pytest.mark.parametrize("config", ["rand-m9-p1-tweights", "rand-m9-p1-t3aw-n14"])
def test_sets_with_weights_are_drawn_by_the_native_operators(config):
    need_native()
    images = smooth_images(64)
    with native.using("on"):
        changed = apply(mix.rand_augment, images, config) != images
    assert changed.any(axis=(1, 2, 3)).mean() > 0.8


@pytest.mark.parametrize("names", [("nearest", "bilinear"), ("bilinear", "bicubic"), ("lanczos", "random")])
def test_the_native_operators_warp_as_they_are_told(names):
    need_native()
    images = smooth_images(32)

    def warped(name):
        return apply(mix.rand_augment, images, "rand-m9-p1-n1-mstd0.5", interpolation=name, pipeline={"seed": 1})

    with native.using("on"):
        one, other = map(warped, names)
        assert not np.array_equal(one, other)
        assert np.array_equal(warped("lanczos"), warped("bicubic"))


BAD = [
    (mix.rand_augment, {"config": "v0"}, "config must be one of timm's strings for RandAugment"),
    (mix.rand_augment, {"config": None}, "config must be one of timm's strings"),
    (mix.rand_augment, {"config": "rand-m9-tfoo"}, "'tfoo' is none of"),
    (mix.rand_augment, {"interpolation": "box"}, "interpolation must be one of random, .*, got 'box'"),
    (mix.rand_augment, {"interpolation": ["bicubic"]}, r"interpolation must be one of random, .*, got \['bicubic'\]"),
    (mix.rand_augment, {"fill": (1.5, 0, 0)}, r"fill must be three whole numbers in 0 .. 255, got \(1.5, 0, 0\)"),
    (mix.rand_augment, {"fill": 128}, "fill must be three numbers in 0 .. 255, for red, green and blue, got 128"),
    (mix.rand_augment, {"seed": -1}, "seed must be >= 0"),
    (mix.auto_augment, {"policy": RECIPE}, "policy must be the name of one, .* see rand_augment"),
    (mix.auto_augment, {"policy": ""}, "policy must be the name of one"),
    (mix.auto_augment, {"policy": "augmix"}, "AugMix needs several chains"),
    (mix.color_jitter, {"brightness": -0.1}, "brightness must be a number from 0 on, got -0.1"),
    (mix.color_jitter, {"hue": 0.6}, "hue must be a number from 0 to 0.5, got 0.6"),
    (mix.color_jitter, {"prob": True}, "prob must be a number from 0 to 1, got True"),
    (mix.random_erasing, {"prob": 1.1}, "prob must be a number from 0 to 1"),
    (mix.random_erasing, {"mode": "white"}, "mode must be one of const, rand, pixel, got 'white'"),
    (mix.random_erasing, {"count": 0}, "count must be a whole number from 1 to 16, got 0"),
    (mix.random_erasing, {"mean": (123.7, 116.3, 103.5)}, r"mean must be for images in \[0, 1\]"),
    (mix.random_erasing, {"std": (0.2, 0.2, 0.0)}, "std must be > 0"),
    (mix.augment, {"augmentation": "rand-m9", "img_mean": MEAN, "img_std": MEAN}, "must be a mix.Augmentation"),
    (mix.augment, {"augmentation": mix.Augmentation(), "img_mean": (0.5,), "img_std": MEAN}, "img_mean must be three"),
]


@pytest.mark.parametrize(("operator", "options", "message"), BAD)
def test_illegal_arguments_are_refused_in_one_line(operator, options, message):
    with pytest.raises((TypeError, ValueError), match=message) as error:
        apply(operator, images_of(2), **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("operator", [mix.rand_augment, mix.auto_augment, mix.color_jitter, mix.random_erasing])
def test_arrays_are_no_nodes(operator):
    with pytest.raises(TypeError, match="images must be a DataNode"):
        operator(images_of(2))
