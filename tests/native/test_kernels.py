"""The kernels: compiled for every architecture without a GPU, and run by the host, thread by thread."""

import ctypes
import subprocess

import numpy as np
import pytest
from nvidia.dali import types

from dali_mix.native import kernels, toolchain
from tests.graphs import images_of
from tests.implementations import need_native
from tests.native.test_pixels import pixels

HARNESS = """
#include "pixels_kernel.h"
using namespace dali_mix;
template <typename In, typename Out, bool kNormalize>
void Run(const Sample *samples, int count, int channels, const Normalization &by, unsigned threads) {
  for (int i = 0; i < count; i++)
    for (unsigned t = 0; t < threads; t++) MixWord<In, Out, kNormalize>(samples[i], channels, by, t * kPerThread);
}
extern "C" __attribute__((visibility("default"))) void run(
    const char *kernel, const Sample *s, int n, int c, const Normalization *by, unsigned threads) {
  switch (kernel[0]) {
    case 'a': return Run<unsigned char, unsigned char, false>(s, n, c, *by, threads);
    case 'b': return Run<float, float, false>(s, n, c, *by, threads);
    case 'c': return Run<unsigned char, float, true>(s, n, c, *by, threads);
    case 'd': return Run<unsigned char, Half, true>(s, n, c, *by, threads);
    case 'e': return Run<float, float, true>(s, n, c, *by, threads);
    case 'f': return Run<float, Half, true>(s, n, c, *by, threads);
  }
}
"""
KERNELS = {
    "a": (np.uint8, None), "b": (np.float32, None), "c": (np.uint8, types.FLOAT), "d": (np.uint8, types.FLOAT16),
    "e": (np.float32, types.FLOAT), "f": (np.float32, types.FLOAT16),
}  # fmt: skip
NAMES = (b"mix_uint8", b"mix_float", b"normalize_uint8_to_half", b"normalize_float_to_float",
         b"augment_pixels", b"augment_histograms", b"augment_tables")  # fmt: skip
_BOXES = ("target", "source")


class Sample(ctypes.Structure):
    _fields_ = [
        ("own", ctypes.c_void_p), ("partner", ctypes.c_void_p), ("out", ctypes.c_void_p),
        ("height", ctypes.c_int), ("width", ctypes.c_int), ("partner_width", ctypes.c_int),
        ("target", ctypes.c_int * 4), ("source", ctypes.c_int * 4), ("weight", ctypes.c_float),
        ("mirrored", ctypes.c_int), ("partner_mirrored", ctypes.c_int),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def nvrtc():
    if toolchain.find_nvrtc() is None:
        pytest.skip("NVRTC is not installed")
    return kernels.Compiler(toolchain.find_nvrtc())


@pytest.mark.parametrize("architecture", [80, 90, 100, 120, 75])
def test_compiles_for(nvrtc, architecture):
    binary = nvrtc.binary(architecture)
    assert binary[:4] == b"\x7fELF"
    for name in NAMES:
        assert name in binary


def test_devices_to_come_get_text(nvrtc):
    text = nvrtc.ptx(kernels.PTX)
    assert b".target sm_80" in text
    for name in NAMES:
        assert b".visible .entry " + name in text


def test_an_error_of_the_compiler_is_told(nvrtc):
    with pytest.raises(kernels.KernelError, match="architecture"):
        nvrtc.binary(1)


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    need_native()
    folder = tmp_path_factory.mktemp("harness")
    (folder / "harness.cc").write_text(HARNESS)
    command = [*toolchain.find_compiler(), *toolchain.compile_options(), f"-I{toolchain.SOURCES}", "-shared"]
    subprocess.run([*command, "-o", folder / "harness.so", folder / "harness.cc"], check=True)
    return ctypes.CDLL(str(folder / "harness.so"))


def by_host(harness, kernel, images, partner, target, source, weight, mirror, mean, std):
    """What the kernel's threads make of the batch."""
    out_type = {None: images.dtype, types.FLOAT: np.float32, types.FLOAT16: np.float16}[KERNELS[kernel][1]]
    batch, height, width, channels = images.shape
    # One more value in front: outputs that are not aligned are stored one by one.
    buffers = [np.zeros(height * width * channels + 1, out_type) for _ in range(batch)]
    outs = [buffer[i % 2 :][: height * width * channels] for i, buffer in enumerate(buffers)]
    samples = (Sample * batch)()
    for i in range(batch):
        empty = (target[i][:2] >= target[i][2:]).any() or weight[i] == 1
        own_boxes = ((ctypes.c_int * 4)(*([0] * 4 if empty else box[i])) for box in (target, source))
        samples[i] = Sample(
            images[i].ctypes.data, images[partner[i]].ctypes.data, outs[i].ctypes.data, height, width, width,
            *own_boxes, weight[i], mirror[i], mirror[partner[i]],
        )  # fmt: skip
    normalization = (ctypes.c_float * 32)(*mean, *[0] * (16 - channels), *(1 / np.float32(std)), *[0] * (16 - channels))
    threads = -(-height * width * channels // 4) + 3  # a few more than there is work for
    harness.run(kernel.encode(), samples, batch, channels, normalization, threads)
    return np.stack(outs).reshape(images.shape)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 16), (9, 33)])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_kernels_threads_do_what_the_cpu_operator_does(harness, kernel, size, scaled):
    """To the bit: the same arithmetic, without contraction."""
    rng = np.random.default_rng([*size, scaled])
    batch, (height, width) = 6, size
    dtype, out = KERNELS[kernel]
    images = images_of(batch, height, width, dtype=dtype)
    edges = [np.sort(rng.integers(0, side + 1, (2, batch, 2)), -1) for side in size]
    target = np.stack([edges[0][0, :, 0], edges[1][0, :, 0], edges[0][0, :, 1], edges[1][0, :, 1]], 1).astype(np.int32)
    source = target
    if scaled:
        top, left = rng.integers(0, height, batch), rng.integers(0, width, batch)
        source = np.stack([top, left, np.full(batch, height), np.full(batch, width)], 1).astype(np.int32)
    case = {
        "partner": rng.integers(0, batch, batch).astype(np.int32), "target": target, "source": source,
        "weight": np.array([0, 1, 0.3, 0.5, 0, 0.7], np.float32), "mirror": rng.integers(0, 2, batch).astype(np.int32),
    }  # fmt: skip
    mean, std = [120.0, 110.0, 100.0], [60.0, 50.0, 40.0]
    leaving = {} if out is None else {"mean": mean, "std": std, "dtype": out}
    right = np.stack(pixels(images, **case, **leaving))
    np.testing.assert_array_equal(by_host(harness, kernel, images, **case, mean=mean, std=std), right)
