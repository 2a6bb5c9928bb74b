"""Augmentation on a GPU against the CPU, to the bit.  Skipped where there is no GPU."""

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def, types

from dali_mix import fn as mix
from dali_mix import native
from tests.graphs import images_of

pytestmark = pytest.mark.gpu

DEVICE_ID = 0
OPERATIONS = """
AutoContrast Equalize Invert PosterizeIncreasing SolarizeIncreasing SolarizeAdd ColorIncreasing ContrastIncreasing
BrightnessIncreasing SharpnessIncreasing Rotate ShearX ShearY TranslateXRel TranslateYRel Desaturate GaussianBlur
GaussianBlurRand
""".split()
STEPS = [
    *({"operations": [name], "probs": [1.0], "magnitudes": [9.0], "draws": 1} for name in OPERATIONS),
    {"hflip": 0.5, "vflip": 0.5}, {"jitter": [0.4, 0.4, 0.4, 0.1]}, {"grayscale": 0.5}, {"blur": 0.7},
    {"erasing": 0.7, "recount": 3}, {},
]  # fmt: skip
RECIPES = {
    "rand": mix.Augmentation(aa="rand-m9-mstd0.5-inc1", reprob=0.25),
    "everything": mix.Augmentation(
        vflip=0.5, aa="3a-mstd0.5", color_jitter=(0.4, 0.4, 0.4, 0.1), grayscale_prob=0.3, gaussian_blur_prob=0.5,
        reprob=0.5, recount=2,
    ),
    "policy": mix.Augmentation(aa="original-mstd0.5", reprob=1.0, remode="rand"),
    "const": mix.Augmentation(aa="rand-m9-tweights-n4", reprob=1.0, remode="const"),
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def insist():
    with native.using("on"):
        yield


def outputs(graph, images, device, iterations=3):
    """Images of some batches; ``images`` may be of several sizes."""

    @pipeline_def(batch_size=len(images), num_threads=2, device_id=DEVICE_ID, seed=11)
    def host():
        node = fn.external_source(source=lambda: list(images), layout="HWC", dtype=types.UINT8)
        return graph(node.gpu() if device == "gpu" else node)

    pipeline = host()
    pipeline.build()
    return [[np.asarray(sample) for sample in pipeline.run()[0].as_cpu()] for _ in range(iterations)]


def assert_equal(graph, images):
    cpu, gpu = outputs(graph, images, "cpu"), outputs(graph, images, "gpu")
    for one, other in zip(cpu, gpu, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            np.testing.assert_array_equal(theirs, mine)
    return cpu


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("options", STEPS, ids=str)
def test_augment_steps_equal_the_cpu_to_the_bit(options, interpolation):
    """On images of several sizes, one of them a pixel: one source of the arithmetic, without contraction."""

    def graph(images):
        steps = fn.dali_mix.augment_plan(images, device="cpu", seed=3, interpolation=interpolation, **options)
        return fn.dali_mix.augment(images, steps, fill=[1, 2, 3])

    sizes = [(224, 224), (37, 53), (1, 1), (2, 9), (31, 3), (64, 48)]
    assert_equal(graph, [images_of(1, *size, seed=seed)[0] for seed, size in enumerate(sizes)])


@pytest.mark.parametrize("size", [(32, 32), (224, 224)])
@pytest.mark.parametrize("name", RECIPES)
def test_augment_recipes_equal_the_cpu_to_the_bit(name, size):
    def graph(images):
        return mix.augment(images, RECIPES[name], img_mean=(0.485, 0.456, 0.406), img_std=(0.229, 0.224, 0.225))

    images = images_of(32, *size)
    batches = assert_equal(graph, images)
    assert not np.array_equal(batches[0], images)


def test_augment_of_hundreds_of_images_and_of_one():
    for batch in (1, 600):
        assert_equal(lambda images: mix.rand_augment(images, "rand-m9-p1-n3"), images_of(batch, 24, 24))


def test_augment_leaves_its_input_alone():
    def graph(images):
        return fn.stack(mix.random_erasing(mix.rand_augment(images, "rand-p1"), prob=1.0), images)

    images = images_of(16, 40, 40)
    for batch in outputs(graph, images, "gpu"):
        np.testing.assert_array_equal(np.stack(batch)[:, 1], images)


@pytest.mark.parametrize("conditionals", [False, True])
def test_augment_goes_on_from_a_checkpoint(conditionals):
    images = images_of(8, 32, 32)

    @pipeline_def(
        batch_size=8, num_threads=2, device_id=DEVICE_ID, seed=5, enable_checkpointing=True,
        enable_conditionals=conditionals,
    )  # fmt: skip
    def host():
        node = types.Constant(images[0], layout="HWC", device="gpu")
        return mix.augment(node, RECIPES["rand"], img_mean=(0.5,) * 3, img_std=(0.2,) * 3)

    def run(pipeline, batches):
        return [pipeline.run()[0].as_cpu().as_array() for _ in range(batches)]

    first = host()
    first.build()
    run(first, 3)
    state = first.checkpoint()
    expected = run(first, 3)
    second = host(checkpoint=state)
    second.build()
    np.testing.assert_array_equal(run(second, 3), expected)
