// The kernels, compiled by NVRTC.  One grid row per sample, kPerThread values per thread.
#include "pixels_kernel.h"

#define DALI_MIX_KERNEL(name, In, Out, normalize)                                                              \
  extern "C" __global__ void name(const dali_mix::Sample* samples, int channels, dali_mix::Normalization by) { \
    unsigned first = (blockIdx.x * blockDim.x + threadIdx.x) * dali_mix::kPerThread;                           \
    dali_mix::MixWord<In, Out, normalize>(samples[blockIdx.y], channels, by, first);                           \
  }

DALI_MIX_KERNEL(mix_uint8, unsigned char, unsigned char, false)
DALI_MIX_KERNEL(mix_float, float, float, false)
DALI_MIX_KERNEL(normalize_uint8_to_float, unsigned char, float, true)
DALI_MIX_KERNEL(normalize_uint8_to_half, unsigned char, dali_mix::Half, true)
DALI_MIX_KERNEL(normalize_float_to_float, float, float, true)
DALI_MIX_KERNEL(normalize_float_to_half, float, dali_mix::Half, true)
