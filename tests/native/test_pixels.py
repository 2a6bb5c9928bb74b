"""``fn.dali_mix.pixels`` against NumPy: any boxes, weights, sizes and types."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nvidia.dali import fn, pipeline_def, types

from tests.graphs import images_of

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
_TYPES = {"uint8": types.UINT8, "float32": types.FLOAT}


def pixels(images, *, layout="HWC", threads=2, batch_size=None, **placement):
    """Output of one batch; arrays among the arguments are per sample."""

    @pipeline_def(batch_size=batch_size or len(images), num_threads=threads, device_id=None)
    def host():
        node = fn.external_source(source=lambda: list(images), layout=layout, dtype=_TYPES[images[0].dtype.name])
        arguments = {name: fed(value) if isinstance(value, np.ndarray) else value for name, value in placement.items()}
        return fn.dali_mix.pixels(node, **arguments)

    pipeline = host()
    pipeline.build()
    (output,) = pipeline.run()
    return [np.asarray(sample) for sample in output]


def fed(array):
    dtype = {"int32": types.INT32, "float32": types.FLOAT}[array.dtype.name]
    return fn.external_source(source=lambda: list(array), ndim=array.ndim - 1, dtype=dtype)


def expected(images, partner, target, source, weight, mirror=None):
    """Unrounded; a box of another size than its source is left to torch."""
    images = [
        image[:, ::-1].copy() if mirror is not None and mirror[i] else image
        for i, image in enumerate(images.astype(np.float64))
    ]
    mixed = np.stack(images)
    for i, ((y1, x1, y2, x2), (v1, u1, v2, u2)) in enumerate(zip(target, source, strict=True)):
        if y1 < y2 and x1 < x2:
            patch = images[partner[i]][v1:v2, u1:u2]
            if patch.shape[:2] != (y2 - y1, x2 - x1):
                tensor = torch.from_numpy(np.ascontiguousarray(patch)).permute(2, 0, 1)[None]
                patch = torch.nn.functional.interpolate(tensor, (y2 - y1, x2 - x1), mode="bilinear")
                patch = patch[0].permute(1, 2, 0).numpy()
            mixed[i, y1:y2, x1:x2] = weight[i] * mixed[i, y1:y2, x1:x2] + (1 - weight[i]) * patch
    return mixed


@st.composite
def boxes(draw, height, width, empty=True):
    y1, x1 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    least = 0 if empty else 1
    return y1, x1, draw(st.integers(y1 + least, height)), draw(st.integers(x1 + least, width))


@st.composite
def placements(draw, scaled):
    batch, height, width = draw(st.integers(1, 6)), draw(st.integers(1, 40)), draw(st.integers(1, 40))
    target = [draw(boxes(height, width)) for _ in range(batch)]
    source = [draw(boxes(height, width, empty=False)) for _ in range(batch)] if scaled else target
    weights = st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.floats(0, 1, width=32))
    return {
        "images": images_of(batch, height, width, dtype=draw(st.sampled_from([np.uint8, np.float32]))),
        "partner": np.array([draw(st.integers(0, batch - 1)) for _ in range(batch)], np.int32),
        "target": np.array(target, np.int32),
        "source": np.array(source, np.int32),
        "weight": np.array([draw(weights) for _ in range(batch)], np.float32),
        "mirror": np.array([draw(st.integers(0, 1)) for _ in range(batch)], np.int32),
    }


@given(placements(scaled=False))
@SETTINGS
def test_boxes_of_one_size(case):
    right = expected(**case)
    mixed = np.stack(pixels(**case))
    assert mixed.dtype == case["images"].dtype
    exact = (case["weight"] == 0) | (case["weight"] == 1)
    np.testing.assert_array_equal(mixed[exact], right[exact])
    np.testing.assert_allclose(mixed.astype(float), right, atol=0.501 if mixed.dtype == np.uint8 else 1e-4)


@given(placements(scaled=True))
@SETTINGS
def test_a_source_of_another_size_is_resampled_as_torch_does(case):
    mixed = np.stack(pixels(**case))
    tolerance = 0.51 if mixed.dtype == np.uint8 else 2e-2  # places between pixels are float32
    np.testing.assert_allclose(mixed.astype(float), expected(**case), atol=tolerance)


@given(placements(scaled=False), st.sampled_from([types.FLOAT, types.FLOAT16]))
@SETTINGS
def test_normalized_in_the_same_pass(case, dtype):
    mean, std = [120.0, 110.0, 100.0], [60.0, 50.0, 40.0]
    right = (expected(**case) - mean) / std
    (*mixed,) = pixels(**case, mean=mean, std=std, dtype=dtype)
    assert mixed[0].dtype == (np.float16 if dtype == types.FLOAT16 else np.float32)
    # Half a level is not lost: a blend is not rounded before it is normalized.
    np.testing.assert_allclose(np.stack(mixed).astype(float), right, atol=4e-3 if dtype == types.FLOAT16 else 1e-5)


def test_what_is_left_out_has_a_default():
    images = images_of(4)
    partner = np.array([1, 2, 3, 0], np.int32)
    np.testing.assert_array_equal(pixels(images, partner=partner), images[partner])
    half = pixels(images, partner=partner, weight=0.5)
    np.testing.assert_allclose(np.stack(half), (images + images[partner].astype(float)) / 2, atol=0.5)


def test_the_layout_is_kept_and_may_be_missing():
    images = images_of(2)
    for layout in ("HWC", ""):
        assert np.array_equal(pixels(images, layout=layout, partner=1, weight=1.0), images)


def test_large_images_are_shared_among_threads():
    images = images_of(2, 401, 399)
    partner, target = np.array([1, 0], np.int32), np.array([[7, 9, 300, 350], [0, 0, 401, 1]], np.int32)
    right = expected(images, partner, target, target, [0, 0])
    for threads in (1, 3):
        np.testing.assert_array_equal(pixels(images, threads=threads, partner=partner, target=target), right)


def test_images_of_several_sizes_keep_their_own():
    images = [images_of(1, 8, 6)[0], images_of(1, 5, 9, seed=1)[0]]
    target = np.array([[1, 1, 4, 5], [0, 2, 3, 6]], np.int32)
    first, second = pixels(images, partner=np.array([1, 0], np.int32), target=target)
    right = images[0].copy()
    right[1:4, 1:5] = images[1][1:4, 1:5]
    np.testing.assert_array_equal(first, right)
    assert second.shape == (5, 9, 3)


def test_no_pixels_at_all():
    for size in ((0, 5), (5, 0)):
        assert pixels(images_of(2, *size), partner=1, mirror=1)[0].shape == (*size, 3)


@pytest.mark.parametrize("images", [[(4, 4, 3), (4, 4, 4)], [(4, 4, 4), (4, 4, 3)], [(9, 9, 3), (9, 9, 3), (9, 9, 1)]])
def test_one_number_of_channels_for_the_batch(images):
    """Also where partners agree: the number of the first image is everybody's."""
    arrays = [np.zeros(shape, np.uint8) for shape in images]
    with pytest.raises(RuntimeError, match="the images of a batch differ in channels: image 0 has"):
        pixels(arrays, partner=np.arange(len(arrays), dtype=np.int32), weight=1.0)


def test_covered_pixels_may_be_anything():
    images = images_of(2, dtype=np.float32)
    images[0] = np.nan
    mixed = np.stack(pixels(images, partner=np.array([1, 0], np.int32)))
    np.testing.assert_array_equal(mixed[0], images[1])


def test_float16_rounds_as_numpy_does():
    values = np.concatenate([np.float32(2.0) ** np.arange(-30, 18), np.random.default_rng(0).normal(0, 1e4, 4000)])
    ties = np.arange(0, 4096, dtype=np.uint16).view(np.float16).astype(np.float64)
    values = np.concatenate([values, (ties[1:] + ties[:-1]) / 2, [65519.0, 65520.0, np.inf, -np.inf, 0.0, -0.0]])
    images = np.stack([values, -values]).astype(np.float32)[:, :, None, None]
    (own, negative) = pixels(images, partner=0, weight=1.0, dtype=types.FLOAT16)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(
            np.stack([own, negative]).view(np.uint16), images.astype(np.float16).view(np.uint16)
        )
    assert np.isnan(pixels(np.full((1, 1, 1, 1), np.nan, np.float32), partner=0, weight=1.0, dtype=types.FLOAT16)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partner": 2}, "partner 2 of sample 0 is not in the batch of 2"),
        ({"partner": -1}, "is not in the batch"),
        ({"partner": 0, "target": [0, 0, 13, 4]}, r"box \(0, 0, 13, 4\) of sample 0 does not fit image 0 of 12 x 17"),
        ({"partner": 0, "target": [3, 0, 2, 4]}, "does not fit"),
        ({"partner": 0, "target": [0, 0, 2, 4], "source": [0, 0, 0, 4]}, "source box of sample 0 is empty"),
        ({"partner": 0, "image_size": [12, 18]}, "image_size says 12 x 18 pixels, but image 0 has 12 x 17"),
        ({"partner": 0, "mean": [1.0], "std": [1.0]}, "mean and std have 1 values, the images 3 channels"),
        ({"partner": 0, "mean": [1.0] * 17, "std": [1.0] * 17}, "mean and std have 17 values"),
        ({"partner": 0, "mean": [1.0]}, "one value per channel each"),
        ({"partner": 0, "mirror": np.ones(2, np.float32)}, "mirror must be int32, as coin_flip gives"),
        ({"partner": 0, "dtype": types.INT32}, "dtype must be FLOAT or FLOAT16"),
        ({"partner": 0, "layout": "CHW"}, r'must be \(H, W, C\), got 3 dimensions, layout "CHW"'),
    ],
)
def test_what_does_not_fit_is_named(options, message):
    with pytest.raises(RuntimeError, match=message):
        pixels(images_of(2), **options)
