"""The native operators on a GPU against the CPU, and against the portable graph.  Skipped where there is no GPU."""

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def, types

from dali_mix import fn as mix
from dali_mix import native
from dali_mix.native import library
from tests import oracle
from tests.graphs import images_of

pytestmark = pytest.mark.gpu

MEAN, STD = [120.0, 110.0, 100.0], [60.0, 50.0, 40.0]
_TYPES = {np.uint8: types.UINT8, np.float32: types.FLOAT}


@pytest.fixture(autouse=True, scope="module")
def insist():
    with native.using("on"):
        yield


def outputs(graph, images, device, iterations=4, seed=5):
    """Outputs of some batches, as arrays."""

    @pipeline_def(batch_size=len(images), num_threads=2, device_id=0, seed=seed)
    def host():
        dtype = _TYPES[images.dtype.type]
        node = fn.external_source(source=lambda: list(images), layout="HWC", dtype=dtype)
        labels = fn.external_source(
            source=lambda: list(np.arange(len(images), dtype=np.int32)), ndim=0, dtype=types.INT32
        )
        return tuple(graph(node.gpu() if device == "gpu" else node, labels))

    pipeline = host()
    pipeline.build()
    return [[output.as_cpu().as_array() for output in pipeline.run()] for _ in range(iterations)]


def test_there_is_a_kernel_for_this_device():
    assert native.operators("gpu") is not None
    assert library._state.kernels


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("size", [(32, 48), (7, 5), (1, 1), (224, 224)])
def test_flip_mix_and_normalize_equal_the_cpu_to_the_bit(size, dtype, half):
    """One source of the arithmetic, without contraction on either side."""

    def graph(images, labels):
        mirror = fn.random.coin_flip(seed=3)
        normalization = mix.Normalization(MEAN, STD, half)
        options = {"num_classes": 6, "mode": "elem", "mirror": mirror, "normalization": normalization}
        return mix.random_mix(images, labels, choices={"cutmix": 0.4, "mixup": 0.4}, seed=1, **options)

    images = images_of(6, *size, dtype=dtype)
    for cpu, gpu in zip(outputs(graph, images, "cpu"), outputs(graph, images, "gpu"), strict=True):
        for one, other in zip(cpu, gpu, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_boxes_of_two_sizes_equal_the_cpu_to_the_bit(dtype):
    def graph(images, labels):
        box = {"target": [3, 4, 20, 30], "source": [0, 0, 32, 48]}
        return (fn.dali_mix.pixels(images, partner=2, weight=0.25, mirror=1, **box),)

    images = images_of(4, 32, 48, dtype=dtype)
    ((cpu,),), ((gpu,),) = (outputs(graph, images, device, iterations=1) for device in ("cpu", "gpu"))
    np.testing.assert_array_equal(cpu, gpu)


def test_cutmix_is_the_oracles():
    def graph(images, labels):
        params = mix.draw_cutmix(images, mode="elem")
        return mix.apply_cutmix(images, params), *params

    images = images_of(8, 33, 47)
    for mixed, partner, box, _ in outputs(graph, images, "gpu"):
        np.testing.assert_array_equal(mixed, oracle.cutmix(images, partner, box))


def test_a_batch_of_hundreds_and_one_of_one():
    def graph(images, labels):
        return (mix.apply_cutmix(images, mix.draw_cutmix(images, seed=2)),)

    for batch in (1, 300):
        images = images_of(batch, 16, 16)
        for (cpu,), (gpu,) in zip(outputs(graph, images, "cpu"), outputs(graph, images, "gpu"), strict=True):
            np.testing.assert_array_equal(cpu, gpu)
