"""Ordinary mistakes in a pipeline, and what the loader says of them: the same of both implementations."""

import re

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def

from dali_mix import fn as mix
from dali_mix.loading.dali_errors import mistake_of

BATCH, CLASSES = 3, 5
HWC = np.zeros((8, 8, 3), np.uint8)
OUTSIDE = r"label {} (of sample 0 )?lies outside \[0, 5\); num_classes must be the number of classes"
BYTES = r"labels must be integers, got bytes.*docs/soft_targets\.md"
LIST = r"labels must be one class number per sample, got .*; one-hot rows go through fn\.arg_max"
CHANNELS_LAST = r"images must be \(H, W, C\).*mix before the layout is changed"


@pipeline_def(batch_size=BATCH, num_threads=1, device_id=None)
def cutmix(image, label, layout, size, options):
    def fed(value, **kind):
        return fn.external_source(lambda: [np.asarray(value)] * size, batch=True, **kind)

    images = fed(image, layout=layout)
    return mix.random_mix(images, fed(label), num_classes=CLASSES, choices={"cutmix": 1.0}, **options)[0:2]


MISTAKES = {
    "label": ({"label": np.int32(8)}, OUTSIDE.format(8)),
    "negative": ({"label": np.int64(-1)}, OUTSIDE.format(-1)),
    "one-hot": ({"label": np.eye(CLASSES, dtype=np.int32)[2]}, LIST),
    "bytes": ({"label": np.frombuffer(b"3", np.uint8)}, BYTES),
    "floats": ({"label": np.float32(3)}, r"labels must be integers, got .*float"),
    "half floats": ({"label": np.float16(3)}, r"labels must be integers, got .*float"),
    "CHW": ({"image": np.zeros((3, 8, 8), np.uint8), "layout": "CHW"}, CHANNELS_LAST),
    "CHW unsaid": ({"image": np.zeros((3, 8, 8), np.float32), "layout": None}, CHANNELS_LAST),
    "frames": ({"image": np.zeros((2, 8, 8, 3), np.uint8), "layout": "FHWC"}, CHANNELS_LAST),
    "float16": ({"image": HWC.astype(np.float16)}, r"images must be uint8 or float32, got float16; mix before"),
    "image_size": ({"options": {"image_size": 9}}, r"image_size says.*resize the images to it"),
    "flip": ({"size": 2, "options": {"pairing": "flip"}}, r"pairing='flip' needs full batches.*drops or pads"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_a_line(name):
    change, message = MISTAKES[name]
    right = {"image": HWC, "label": np.int32(1), "layout": "HWC", "size": BATCH, "options": {}}
    pipeline = cutmix(**right | change)
    with pytest.raises((RuntimeError, ValueError)) as caught:
        pipeline.run()
    said = mistake_of(caught.value)
    assert said is not None
    assert "\n" not in said
    assert re.search(message, said), said


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_integers_of_any_width_are_labels(dtype):
    for label in (dtype(3), np.array([3], dtype)):
        _, targets = cutmix(image=HWC, label=label, layout="HWC", size=BATCH, options={}).run()
        np.testing.assert_array_equal(targets.as_array(), np.eye(CLASSES, dtype=np.float32)[[3] * BATCH])


@pytest.mark.parametrize(("shape", "layout"), [((8, 8, 3), None), ((4, 8, 1), None), ((8, 8, 16), None)])
def test_channels_last_is_taken_with_and_without_a_layout(shape, layout):
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    images, _ = cutmix(image=image, label=np.int32(1), layout=layout, size=BATCH, options={}).run()
    np.testing.assert_array_equal(images.as_array(), [image] * BATCH)
