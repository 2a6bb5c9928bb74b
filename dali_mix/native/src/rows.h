// Rows of values on the CPU.  Each loop is compiled for AVX2 and for any x86-64, and chosen when it is first called.
#ifndef DALI_MIX_ROWS_H_
#define DALI_MIX_ROWS_H_

#include <cstdint>
#include <cstring>

#include "pixel.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define DALI_MIX_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define DALI_MIX_CLONES
#endif

namespace dali_mix::rows {

// The two things that happen to a stretch of a row, for each type of image: n values, not pixels.
// `mean` and `scale` repeat themselves channel by channel.
#define DALI_MIX_ROWS(In)                                                                                          \
  DALI_MIX_CLONES inline void Normalize(float* out, const In* own, const float* mean, const float* scale, int n) { \
    for (int i = 0; i < n; i++) out[i] = (static_cast<float>(own[i]) - mean[i]) * scale[i];                        \
  }                                                                                                                \
  DALI_MIX_CLONES inline void BlendNormalize(float* out, const In* own, const In* other, float weight,             \
                                             const float* mean, const float* scale, int n) {                       \
    for (int i = 0; i < n; i++)                                                                                    \
      out[i] = (Blend(static_cast<float>(own[i]), static_cast<float>(other[i]), weight) - mean[i]) * scale[i];     \
  }

DALI_MIX_ROWS(uint8_t)
DALI_MIX_ROWS(float)
#undef DALI_MIX_ROWS

DALI_MIX_CLONES inline void BlendTo(uint8_t* out, const uint8_t* own, const uint8_t* other, float weight, int n) {
  for (int i = 0; i < n; i++)
    out[i] = static_cast<uint8_t>(
        static_cast<int>(Blend(static_cast<float>(own[i]), static_cast<float>(other[i]), weight) + 0.5f));
}

DALI_MIX_CLONES inline void BlendTo(float* out, const float* own, const float* other, float weight, int n) {
  for (int i = 0; i < n; i++) out[i] = Blend(own[i], other[i], weight);
}

DALI_MIX_CLONES inline void Halve(Half* out, const float* values, int n) {
  for (int i = 0; i < n; i++) out[i] = ToHalf(values[i]);
}

template <typename In>
void Mirror(In* out, const In* row, int width, int channels) {
  for (int x = 0; x < width; x++)
    for (int c = 0; c < channels; c++) out[x * channels + c] = row[(width - 1 - x) * channels + c];
}

}  // namespace dali_mix::rows

#endif  // DALI_MIX_ROWS_H_
