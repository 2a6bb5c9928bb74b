"""The kernels of augmentation on the host: the text of the kernels, thread by thread, against the CPU operator.

The harness stands in for the GPU.  Threads of one launch run one after the other in any order, so that it shows that
none needs another one; those of a histogram, which wait for one another, are real threads.
"""

import ctypes
import subprocess
from functools import partial

import numpy as np
import pytest

from dali_mix.native import toolchain
from tests.graphs import images_of
from tests.implementations import need_native
from tests.native.augmenting import GEOMETRIC, applied, plan, step

HARNESS = r"""
#include <atomic>
#include <barrier>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>
#define DALI_MIX_REQUIRE_H_
#define DALI_MIX_REQUIRE(condition, ...) do { if (!(condition)) throw std::runtime_error(#condition); } while (false)

#include "augment/noise_table.h"
#include "augment/schedule.h"

struct Place { int x = 0, y = 0; };
static thread_local Place threadIdx, blockIdx, blockDim, gridDim;
static std::barrier<>* together = nullptr;
#define __global__
#define __shared__ static
static void __syncthreads() { if (together) together->arrive_and_wait(); }
static void atomicAdd(dali_mix::Word32* to, unsigned value) { __atomic_fetch_add(to, value, __ATOMIC_RELAXED); }
#include "augment/augment.cu"

using namespace dali_mix;
using namespace dali_mix::augment;

// Memory of exactly this size, full of garbage, with guards around it.
template <typename T>
struct Guarded {
  static constexpr size_t kGuard = 64;
  std::vector<T> memory;
  size_t size;
  explicit Guarded(size_t size) : memory(size + 2 * kGuard), size(size) {
    std::memset(memory.data(), 0xA5, memory.size() * sizeof(T));
  }
  T* data() { return memory.data() + kGuard; }
  bool intact() const {
    Guarded untouched(size);
    return std::memcmp(memory.data(), untouched.memory.data(), kGuard * sizeof(T)) == 0 &&
           std::memcmp(&memory[kGuard + size], untouched.memory.data(), kGuard * sizeof(T)) == 0;
  }
};

// One launch, whose grid is of any shape.
static void RunLaunch(const Launch& launch, const Pass* passes, int blocks, int threads, std::mt19937& random) {
  if (launch.kernel == Kernel::kTables) threads += 3;  // one for each channel, at least
  const Pass* here = passes + launch.first;
  auto run = [&](int thread, int x, int y, auto kernel) {
    threadIdx.x = thread, blockIdx = {x, y}, blockDim.x = threads, gridDim.x = blocks;
    kernel(here);
  };
  std::vector<int> order(launch.count * blocks);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  if (launch.kernel == Kernel::kHistograms) {
    for (int block : order) {
      std::barrier<> barrier(threads);
      together = &barrier;
      std::vector<std::thread> team;
      for (int t = 0; t < threads; t++) team.emplace_back(run, t, block % blocks, block / blocks, augment_histograms);
      for (std::thread& thread : team) thread.join();
      together = nullptr;
    }
    return;
  }
  order.resize(order.size() * threads);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  for (int all : order) {
    int block = all / threads;
    run(all % threads, block % blocks, block / blocks,
        launch.kernel == Kernel::kTables ? augment_tables : augment_pixels);
  }
}

struct Picture { int height, width, steps; const double* rows; const Byte* in; Byte* out; };
struct Look { int fill[3]; int remode; float mean[3], std[3]; };

static Settings SettingsOf(const Look& look) {
  Settings settings;
  settings.remode = static_cast<Remode>(look.remode);
  for (int c = 0; c < 3; c++)
    settings.fill[c] = static_cast<Byte>(look.fill[c]), FillNoise(settings.noise, c, look.mean[c], look.std[c]);
  return settings;
}

static PassList PassesOf(const Settings& settings, const Picture& picture) {
  PassList list(settings, picture.height, picture.width);
  if (picture.height && picture.width)
    for (int s = 0; s < picture.steps; s++) list.Add(ReadStep(picture.rows + s * kStepNumbers));
  return list;
}

// As AugmentGpu does it.  0, or a number of what went wrong.
static int ByGpu(const Picture* pictures, int count, const Look& look, int threads, int seed) {
  std::mt19937 random(seed);
  Settings settings = SettingsOf(look);
  settings.noise_where_passes_run = &settings.noise;
  Schedule schedule;
  for (int i = 0; i < count; i++) {
    const Picture& p = pictures[i];
    schedule.Add(PassesOf(settings, p), p.in, p.out, int64_t{3} * p.height * p.width);
  }
  size_t entries = schedule.tables() * 3 * kLevels;
  Guarded<Byte> bytes(schedule.bytes()), tables(entries);
  Guarded<float> floats(schedule.floats());
  Guarded<Word32> histograms(entries);
  std::memset(histograms.data(), 0, entries * sizeof(Word32));
  schedule.Lay(bytes.data(), floats.data(), histograms.data(), tables.data());
  for (const Launch& launch : schedule.launches()) {
    if (launch.pixels == 0 && launch.kernel != Kernel::kTables) continue;
    int blocks = (launch.pixels + threads - 1) / threads;
    if (launch.kernel == Kernel::kHistograms) blocks = (blocks + 15) / 16;
    if (launch.kernel == Kernel::kTables) blocks = 1;
    else if (seed % 3) blocks = std::max(1, blocks + (seed % 3 == 1 ? 3 : -blocks / 2));  // too many, or too few
    RunLaunch(launch, schedule.passes().data(), blocks, threads, random);
  }
  return !bytes.intact() + 2 * !tables.intact() + 4 * !floats.intact() + 8 * !histograms.intact();
}

extern "C" __attribute__((visibility("default"))) int by_gpu(
    const Picture* pictures, int count, const Look* look, int threads, int seed) {
  return ByGpu(pictures, count, *look, threads, seed);
}
"""

# Both ways on memory of its own, to be compiled with sanitizers: what each image reads and writes is exactly its own.
MAIN = r"""
#include <sys/mman.h>
#include "augment/row_passes.h"

// Memory of this size next to pages that cannot be read: sanitizers do not see what vector instructions load.
template <typename T>
struct Fenced {
  static constexpr size_t kPage = 4096;
  size_t length;
  char* base;
  T* data;
  Fenced(size_t count, bool at_end) : length((count * sizeof(T) + kPage - 1) / kPage * kPage + 2 * kPage) {
    base = static_cast<char*>(mmap(nullptr, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(base + kPage, length - 2 * kPage, PROT_READ | PROT_WRITE);
    data = reinterpret_cast<T*>(at_end ? base + length - kPage - count * sizeof(T) : base + kPage);
  }
  ~Fenced() { munmap(base, length); }
};

// As AugmentCpu does it.
static void ByCpu(const Picture& p, const Look& look, bool at_end) {
  Settings settings = SettingsOf(look);
  settings.noise_where_passes_run = &settings.noise;
  PassList list = PassesOf(settings, p);
  size_t values = size_t{3} * p.height * p.width;
  Fenced<Byte> scratch(list.Moving() > 1 ? values : 0, at_end);
  Fenced<float> floats(list.Has(Kind::kGaussAcross) ? values : 0, at_end);
  std::vector<Byte> tables(3 * kLevels);
  std::vector<Word32> histogram(3 * kLevels);
  for (Pass& pass : list.Route(p.in, p.out, scratch.data)) {
    pass.tables = tables.data(), pass.histogram = histogram.data(), pass.floats = floats.data;
    augment::rows::RunPass(pass);
  }
}

int main(int, char** arguments) {
  std::FILE* file = std::fopen(arguments[1], "rb");
  std::mt19937 random(1);
  int size[3], batch = 0;
  auto read = [&](void* to, size_t bytes) { return std::fread(to, 1, bytes, file) == bytes; };
  while (read(size, sizeof(size))) {
    size_t values = size_t{3} * size[0] * size[1];
    auto rows = std::make_unique<double[]>(size[2] * kStepNumbers);
    if (!read(rows.get(), size[2] * kStepNumbers * sizeof(double))) return 2;
    Fenced<Byte> in(values, batch % 2), one(values, batch % 2);
    auto other = std::make_unique<Byte[]>(values);
    for (size_t i = 0; i < values; i++) in.data[i] = static_cast<Byte>(random());
    Look look = {{1, 2, 250}, batch % 3, {100, 120, 140}, {60, 50, 40}};
    ByCpu({size[0], size[1], size[2], rows.get(), in.data, one.data}, look, batch % 2);
    Picture picture = {size[0], size[1], size[2], rows.get(), in.data, other.get()};
    if (ByGpu(&picture, 1, look, 4, batch++)) return 3;
    if (std::memcmp(one.data, other.get(), values)) return std::printf("image %d differs\n", batch - 1), 1;
  }
  std::printf("%d images agree\n", batch);
}
"""


class Picture(ctypes.Structure):
    _fields_ = [
        ("height", ctypes.c_int), ("width", ctypes.c_int), ("steps", ctypes.c_int), ("rows", ctypes.c_void_p),
        ("in_", ctypes.c_void_p), ("out", ctypes.c_void_p),
    ]  # fmt: skip


class Look(ctypes.Structure):
    _fields_ = [
        ("fill", ctypes.c_int * 3), ("remode", ctypes.c_int), ("mean", ctypes.c_float * 3), ("std", ctypes.c_float * 3),
    ]  # fmt: skip


REMODES = ("const", "rand", "pixel")


def compiled(folder, text, name, *options):
    (folder / f"{name}.cc").write_text(text)
    base = [option for option in toolchain.compile_options() if not options or option != "-O2"]
    command = [*toolchain.find_compiler(), *base, f"-I{toolchain.SOURCES}", "-pthread", *(options or ["-shared"])]
    subprocess.run([*command, "-o", folder / name, folder / f"{name}.cc"], check=True)
    return folder / name


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    need_native()
    return ctypes.CDLL(str(compiled(tmp_path_factory.mktemp("harness"), HARNESS, "harness.so")))


def by_gpu(harness, images, steps, *, fill, remode, mean, std, threads, seed):
    """What the kernels' threads make of the batch.  Nothing but the outputs may be written."""
    inputs, rows = [image.copy() for image in images], [np.ascontiguousarray(one) for one in steps]
    outs = [np.full(image.size + 128, 0x5A, np.uint8) for image in images]
    pictures = (Picture * len(images))(*[
        Picture(*image.shape[:2], len(row), row.ctypes.data, image.ctypes.data, out.ctypes.data + 64)
        for image, row, out in zip(inputs, rows, outs, strict=True)
    ])  # fmt: skip
    look = Look(
        (ctypes.c_int * 3)(*fill), REMODES.index(remode), (ctypes.c_float * 3)(*mean), (ctypes.c_float * 3)(*std)
    )
    assert harness.by_gpu(pictures, len(images), ctypes.byref(look), threads, seed) == 0  # guards
    for image, given, out in zip(inputs, images, outs, strict=True):
        np.testing.assert_array_equal(image, given)
        assert (out[:64] == 0x5A).all()
        assert (out[image.size + 64 :] == 0x5A).all()
    return [out[64 : 64 + image.size].reshape(image.shape) for image, out in zip(images, outs, strict=True)]


def random_steps(rng, count):
    """Of all kinds, in any order and number: more than any recipe asks for."""
    sign = rng.choice([-1, 1])
    kinds = [
        *[partial(step, name) for name in ("AutoContrast", "Equalize", "Invert")],
        *[lambda name=name: step(name, rng.uniform(0, 3)) for name in ("Color", "Contrast", "Brightness", "Sharpness")],
        *[lambda name=name: step(name, sign * rng.uniform(0, 0.7), rng.integers(3)) for name in GEOMETRIC[1:]],
        lambda: step("Rotate", sign * rng.uniform(0, 200), rng.integers(3)),
        lambda: step("Posterize", rng.integers(1, 9)), lambda: step("Solarize", rng.integers(257)),
        lambda: step("SolarizeAdd", rng.integers(129)), lambda: step("GaussianBlur", rng.uniform(0, 3)),
        lambda: step("GaussianBlur", rng.uniform(20, 40)), lambda: step("Gaussian", rng.uniform(0.1, 2)),
        lambda: step("Hue", rng.integers(256)), lambda: step("Flip", *rng.integers(0, 2, 2)),
        lambda: step("Erase", *rng.integers(0, 2**32, 2), rng.integers(1, 4)), lambda: np.zeros(4),
    ]  # fmt: skip
    return np.stack([kinds[rng.integers(len(kinds))]() for _ in range(count)])


@pytest.mark.parametrize("seed", range(6))
def test_the_kernels_threads_do_what_the_cpu_operator_does(harness, seed):
    """To the bit: any steps, images of any size, any grid and any order of threads."""
    rng = np.random.default_rng(seed)
    sizes = [(1, 1), (1, 9), (7, 1), (2, 2), (3, 3), (5, 4), (40, 23), (31, 64), (64, 65), (0, 4), (12, 91), (50, 50)]
    sizes += [tuple(rng.integers(1, 48, 2)) for _ in range(12)]
    images = [images_of(1, *size, seed=i)[0] for i, size in enumerate(sizes)]
    steps = [random_steps(rng, rng.integers(1, 9)) for _ in images]
    look = {"fill": [9, 250, 77], "remode": REMODES[seed % 3], "mean": [100.0, 120, 140], "std": [60.0, 50, 1]}
    right = applied(images, steps, **look)
    assert sum(not np.array_equal(a, b) for a, b in zip(images, right, strict=True)) > 18
    threads = (32, 5, 1, 64, 7, 16)[seed]
    for mine, other in zip(by_gpu(harness, images, steps, **look, threads=threads, seed=seed), right, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_the_kernels_run_the_recipes(harness):
    """What is drawn, as it is drawn."""
    images = [images_of(1, 32, 32, seed=i)[0] for i in range(24)]
    names = ["Equalize", "Rotate", "ColorIncreasing", "ContrastIncreasing", "Sharpness", "ShearY", "GaussianBlurRand"]
    steps = plan(
        24, operations=names, probs=[0.7] * 7, magnitudes=[9.0] * 7, draws=3, mstd=0.5, hflip=0.5, vflip=0.2,
        jitter=[0.4, 0.4, 0.4, 0.1], jitter_prob=0.5, grayscale=0.2, blur=0.4, erasing=0.5, recount=3,
    )  # fmt: skip
    look = {"fill": [124, 116, 104], "remode": "pixel", "mean": [124.0, 116, 104], "std": [58.0, 57, 57]}
    for mine, other in zip(
        by_gpu(harness, images, steps, **look, threads=32, seed=3), applied(images, steps, **look), strict=True
    ):
        np.testing.assert_array_equal(mine, other)


def test_images_without_steps_are_copied(harness):
    images = [images_of(1, 5, 6)[0], images_of(1, 1, 1)[0], np.zeros((0, 3, 3), np.uint8)]
    look = {"fill": [0, 0, 0], "remode": "const", "mean": [0.0] * 3, "std": [1.0] * 3}
    copies = by_gpu(harness, images, [np.zeros((2, 4))] * 3, **look, threads=8, seed=0)
    assert all(np.array_equal(a, b) for a, b in zip(copies, images, strict=True))


def test_sanitizers_find_nothing(tmp_path):
    """Images of 1 to 40 pixels a side, the loops of the CPU and the kernels, both on memory of the exact size."""
    need_native()
    found = subprocess.run([*toolchain.find_compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True)
    if "/" not in found.stdout:
        pytest.skip("the compiler has no address sanitizer")
    options = ["-O1", "-g0", "-Wno-psabi", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    program = compiled(tmp_path, HARNESS + MAIN, "main", *options)
    rng = np.random.default_rng(0)
    with open(tmp_path / "batch", "wb") as file:
        for _ in range(250):
            steps = random_steps(rng, rng.integers(1, 6))
            file.write(np.array([*rng.integers(1, 41, 2), len(steps)], np.int32).tobytes() + steps.tobytes())
    result = subprocess.run([program, tmp_path / "batch"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "250 images agree\n"), result.stderr[:2000]
