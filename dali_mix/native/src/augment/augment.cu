// The kernels of augmentation, compiled by NVRTC.  One grid row per pass; threads take pixels in turn.
#include "augment/pass.h"

using dali_mix::Word32;
using dali_mix::augment::Pass;

extern "C" __global__ void augment_pixels(const Pass* passes) {
  const Pass& pass = passes[blockIdx.y];
  int pixels = Pixels(pass), step = gridDim.x * blockDim.x;
  for (int place = blockIdx.x * blockDim.x + threadIdx.x; place < pixels; place += step) RunPixel(pass, place);
}

// The histograms are zero before.
extern "C" __global__ void augment_histograms(const Pass* passes) {
  constexpr int kCounters = 3 * dali_mix::augment::kLevels;
  __shared__ Word32 counters[kCounters];
  const Pass& pass = passes[blockIdx.y];
  for (int i = threadIdx.x; i < kCounters; i += blockDim.x) counters[i] = 0;
  __syncthreads();
  int pixels = Pixels(pass), step = gridDim.x * blockDim.x;
  for (int place = blockIdx.x * blockDim.x + threadIdx.x; place < pixels; place += step) {
    int bins[3], count = Bins(pass, place, bins);
    for (int i = 0; i < count; i++) atomicAdd(&counters[bins[i]], 1u);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kCounters; i += blockDim.x)
    if (counters[i]) atomicAdd(&pass.histogram[i], counters[i]);
}

// A thread per channel: what it does, the host does as well, in the same order.
extern "C" __global__ void augment_tables(const Pass* passes) {
  if (threadIdx.x < 3) FillChannel(passes[blockIdx.y], threadIdx.x);
}
