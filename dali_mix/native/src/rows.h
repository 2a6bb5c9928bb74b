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

// Pixels of three bytes, five at a time: 16 bytes are read and written, of which the next five overwrite the last.
// The first pixel is left to the caller, which has nothing behind it to read; returns how many are done.
DALI_MIX_CLONES inline int MirrorFives(uint8_t* out, const uint8_t* row, int width) {
  using Bytes = uint8_t __attribute__((vector_size(16)));
  const Bytes order = {12, 13, 14, 9, 10, 11, 6, 7, 8, 3, 4, 5, 0, 1, 2, 15};
  int x = 1;
  for (; x + 6 <= width; x += 5) {
    Bytes pixels;
    std::memcpy(&pixels, row + 3 * (width - 5 - x), 16);
    pixels = __builtin_shuffle(pixels, order);
    std::memcpy(out + 3 * x, &pixels, 16);
  }
  return x;
}

template <typename In>
void Mirror(In* out, const In* row, int width, int channels) {
  if (width <= 0) return;
  auto* to = reinterpret_cast<uint8_t*>(out);
  auto* from = reinterpret_cast<const uint8_t*>(row);
  int bytes = channels * static_cast<int>(sizeof(In));
  int done = bytes == 3 ? MirrorFives(to, from, width) : 0;
  if (done) std::memcpy(to, from + 3 * (width - 1), 3);
  for (int x = done; x < width; x++) std::memcpy(to + x * bytes, from + (width - 1 - x) * bytes, bytes);
}

}  // namespace dali_mix::rows

#endif  // DALI_MIX_ROWS_H_
