"""The native operators in all kinds of pipelines, and what they refuse."""

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def, types

from tests.graphs import images_of
from tests.native.augmenting import applied, plan, step

EVERY = {
    "operations": ["Equalize", "Rotate", "Contrast", "SharpnessIncreasing", "GaussianBlur", "Invert"],
    "probs": [0.8] * 6, "magnitudes": [9.0] * 6, "draws": 3, "mstd": 0.5, "hflip": 0.5,
    "jitter": [0.4, 0.4, 0.4, 0.1], "grayscale": 0.2, "blur": 0.3, "erasing": 0.5, "recount": 2,
}  # fmt: skip


def ran(graph, batch, iterations=1, **options):
    """Outputs of the first iteration that count, as lists of arrays."""

    @pipeline_def(**({"batch_size": batch, "num_threads": 2, "device_id": None} | options))
    def host():
        return graph()

    pipeline = host()
    pipeline.build()
    return [[np.asarray(sample) for sample in output] for _ in range(iterations) for output in pipeline.run()]


def fed(images, **options):
    return fn.external_source(source=lambda: list(images), **({"layout": "HWC"} | options))


def augmented(images, seed=5):
    return fn.dali_mix.augment(images, fn.dali_mix.augment_plan(images, seed=seed, **EVERY))


def test_images_of_several_sizes_are_what_they_are_alone():
    """One much larger than the others, and any number of threads."""
    images = [images_of(1, *size, seed=i)[0] for i, size in enumerate([(5, 6), (700, 900), (1, 1), (33, 20), (6, 90)])]
    steps = plan(5, **EVERY)
    alone = [applied([image], [rows])[0] for image, rows in zip(images, steps, strict=True)]
    for threads in (1, 2, 4):
        together = applied(images, steps, threads=threads)
        for one, other, image in zip(alone, together, images, strict=True):
            assert one.shape == image.shape
            assert one.dtype == np.uint8
            np.testing.assert_array_equal(one, other)
    assert sum(not np.array_equal(one, image) for one, image in zip(alone, images, strict=True)) >= 4


def test_one_image_and_more_threads_than_that():
    images = images_of(1, 40, 30)
    np.testing.assert_array_equal(*(applied(images, plan(1, **EVERY), threads=threads)[0] for threads in (4, 1)))


def test_more_images_than_jobs():
    images, steps = images_of(100, 9, 8), plan(100, **EVERY)
    for one, other in zip(applied(images, steps, threads=3), applied(images, steps, threads=1), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("layout", ["HWC", ""])
def test_layouts_are_kept(layout):
    def graph():
        return augmented(fed(images_of(3), layout=layout or None, ndim=None if layout else 3))

    pipeline = pipeline_def(batch_size=3, num_threads=1, device_id=None)(graph)()
    pipeline.build()
    (output,) = pipeline.run()
    assert output.layout() == layout
    assert output.dtype == types.UINT8


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_no_pixels_at_all(size):
    images = [np.zeros((*size, 3), np.uint8), images_of(1, 8, 8)[0]]
    empty, other = applied(images, [plan(1, **(EVERY | {"erasing": 1.0}))[0]] * 2)
    assert empty.shape == (*size, 3)
    assert not np.array_equal(other, images[1])


def test_no_steps_are_a_copy():
    images = images_of(3)
    for rows in (0, 1, 5):
        np.testing.assert_array_equal(applied(images, [np.zeros((rows, 4))] * 3), images)


def test_images_may_have_other_numbers_of_steps():
    images = images_of(3)
    steps = [np.zeros((0, 4)), step("Invert"), np.stack([step("Flip", 1), step("Invert"), np.zeros(4)])]
    none, inverted, both = applied(images, steps)
    np.testing.assert_array_equal(none, images[0])
    np.testing.assert_array_equal(inverted, 255 - images[1])
    np.testing.assert_array_equal(both, 255 - images[2][:, ::-1])


def test_views_of_other_batches():
    """Samples in another order, and parts of images, which DALI passes on without a copy where it can."""
    images, order = images_of(6, 20, 24), [3, 0, 5, 5, 1, 2]
    steps = plan(6, **EVERY)

    def permuted():
        return fn.dali_mix.augment(fn.permute_batch(fed(images), indices=fed(np.int32(order), layout=None)),
                                   fed(steps, layout=None))  # fmt: skip

    def sliced():
        part = fn.slice(fed(images), 3, 11, axes=[0])
        return fn.dali_mix.augment(part, fed(steps, layout=None))

    def reshaped():
        return fn.dali_mix.augment(fn.reshape(fed(images), shape=[24, 20, 3], layout="HWC"), fed(steps, layout=None))

    for graph, right in (
        (permuted, images[order]), (sliced, images[:, 3:14]), (reshaped, images.reshape(6, 24, 20, 3)),
    ):  # fmt: skip
        for one, other in zip(ran(graph, 6)[0], applied(right, steps), strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_input_stays_as_it_is():
    """An output is memory of its own, also where an image goes through nothing, or is erased only."""
    images = images_of(8, 16, 16)
    for options in (EVERY, {}, {"erasing": 1.0}):

        def graph(options=options):
            nodes = fed(images)
            changed = fn.dali_mix.augment(nodes, fn.dali_mix.augment_plan(nodes, seed=2, **options))
            erased = fn.dali_mix.augment(changed, fn.dali_mix.augment_plan(changed, seed=3, erasing=1.0))
            return nodes, changed, erased

        kept, changed, erased = ran(graph, 8)
        np.testing.assert_array_equal(kept, images)
        assert np.array_equal(changed, images) == (not options)
        assert not np.array_equal(erased, changed)


def test_partial_batches():
    """Of 5 in a pipeline of 9: each image as in a full one."""
    images = images_of(9, 12, 12)
    (full,), (part,) = (ran(lambda count=count: augmented(fed(images[:count])), 9) for count in (9, 5))
    np.testing.assert_array_equal(part, full[:5])


def test_inside_of_an_if_each_side_has_its_own():
    images = images_of(12, 8, 8)
    sides = [np.array(i % 3 == 0) for i in range(12)]

    def graph():
        nodes = fed(images)
        invert = {"operations": ["Invert"], "probs": [1.0], "magnitudes": [0.0], "draws": 1}
        if fn.external_source(source=lambda: sides, ndim=0, dtype=types.BOOL):
            out = fn.dali_mix.augment(nodes, fn.dali_mix.augment_plan(nodes, **invert))
        else:
            out = fn.dali_mix.augment(nodes, fn.dali_mix.augment_plan(nodes, hflip=1.0))
        return out

    pipeline = pipeline_def(batch_size=12, num_threads=2, device_id=None, enable_conditionals=True)(graph)()
    pipeline.build()
    for _ in range(2):
        for side, image, out in zip(sides, images, pipeline.run()[0], strict=True):
            np.testing.assert_array_equal(np.asarray(out), 255 - image if side else image[:, ::-1])


# Refusals


def message_of(call):
    """The one line that the operator says."""
    with pytest.raises(RuntimeError) as caught:
        call()
    return str(caught.value)


NOTHING = [np.zeros((1, 4))] * 2
ODD_IMAGES = [
    (images_of(2, dtype=np.float32), {}, "images must be uint8, got float; augment before they are normalized"),
    (
        np.zeros((2, 5, 5, 1), np.uint8),
        {},
        "images must have three channels, image 0 has 1; decode with output_type=types.RGB",
    ),
    (np.zeros((2, 5, 5, 4), np.uint8), {}, "images must have three channels, image 0 has 4"),
    (np.zeros((2, 3, 5, 5), np.uint8), {"layout": "CHW"}, r'images must be (H, W, 3), got 3 dimensions, layout "CHW"'),
    (np.zeros((2, 5, 5), np.uint8), {"layout": "HW"}, r'images must be (H, W, 3), got 2 dimensions, layout "HW"'),
]


@pytest.mark.parametrize(("images", "options", "message"), ODD_IMAGES)
def test_images_of_other_kinds_are_refused(images, options, message):
    assert message in message_of(lambda: applied(images, NOTHING, **options))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([np.zeros((1, 4), np.float32)] * 2, "steps must be float64 (S, 4), as augment_plan gives them"),
        ([np.zeros((1, 3))] * 2, "steps must be float64 (S, 4), got 3 columns"),
        ([np.array([[99.0, 0, 0, 0]])] * 2, "steps: there is no operation 99"),
        ([np.array([[-3.0, 0, 0, 0]])] * 2, "steps: there is no operation -3"),
        ([np.zeros((1, 4)), np.array([[21.0, 0, 0, 0]])], "steps: there is no operation 21"),
        ([np.array([[np.nan, 0, 0, 0]])] * 2, "steps must be finite, those of image"),
        ([np.zeros((1, 4)), np.array([[0, 0, np.inf, 0]])], "steps must be finite, those of image 1 are not"),
    ],
)
def test_steps_that_are_none_are_refused(steps, message):
    dtype = types.to_dali_type(steps[0].dtype.name)
    assert message in message_of(lambda: applied(images_of(2), steps, dtype=dtype))


@pytest.mark.parametrize(
    ("name", "numbers", "message"),
    [
        ("Rotate", (np.nan, 0), "steps must be finite"),
        ("Rotate", (5, 3), "there is no filter 3"),
        ("Rotate", (5, -1), "there is no filter -1"),
        ("GaussianBlur", (1e9,), "the radius of a blur must be at most 1000 pixels, got 1e+09"),
        ("GaussianBlur", (-1,), "the radius of a blur must be at most 1000 pixels, got -1"),
        ("Erase", (1, 2, 1e9), "at most 1000 boxes are erased, got 1e+09"),
    ],
)
def test_arguments_that_are_none_are_refused(name, numbers, message):
    assert message in message_of(lambda: applied(images_of(2), [step(name, *numbers)] * 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fill": [0, 0, 256]}, "fill must be levels from 0 to 255, got 256"),
        ({"fill": [-1, 0, 0]}, "fill must be levels from 0 to 255, got -1"),
        ({"fill": [1, 2]}, "fill, mean and std must have three values each"),
        ({"mean": [1.0] * 4}, "fill, mean and std must have three values each"),
        ({"std": [1.0, -0.5, 1.0]}, "mean and std must be finite, std not negative"),
        ({"std": [1.0, np.nan, 1.0]}, "mean and std must be finite"),
        ({"mean": [1.0, np.inf, 1.0]}, "mean and std must be finite"),
        ({"remode": "blur"}, "remode must be const, rand or pixel, got blur"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    assert message in message_of(lambda: applied(images_of(2), NOTHING, **options))


ONE = {"operations": ["Invert"], "probs": [1.0], "magnitudes": [5.0], "draws": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operations": ["Mosaic"]}, 'operations: there is no "Mosaic"'),
        ({"probs": [1.0, 1.0]}, "operations, probs and magnitudes must be lists of one length"),
        ({"magnitudes": []}, "operations, probs and magnitudes must be lists of one length"),
        ({"slots": 2}, "operations must come in groups of 2"),
        ({"slots": 0}, "operations must come in groups of 0"),
        ({"draws": -1}, "operations must come in groups of 1, and at least one where any is drawn"),
        ({"operations": [], "probs": [], "magnitudes": []}, "at least one where any is drawn"),
        ({"weights": [0.5, 0.5]}, "weights must be one for each of the 1 groups"),
        ({"weights": [-1.0]}, "weights must be positive, got -1"),
        (
            {"weights": [1.0], "draws": 2},
            "weights must be one for each of the 1 groups, of which at most all are drawn",
        ),
        ({"interpolation": "lanczos"}, "interpolation must be nearest, bilinear, bicubic or random, got lanczos"),
        ({"jitter": [0.4, 0.4]}, "jitter must be brightness, contrast, saturation and hue"),
        ({"recount": 0}, "recount must be at least 1, got 0"),
    ],
)
def test_plans_that_cannot_be_are_refused(options, message):
    assert message in message_of(lambda: plan(2, **(ONE | options)))
