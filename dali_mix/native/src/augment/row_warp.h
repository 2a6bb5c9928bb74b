// Warps on the CPU: the arithmetic of warp.h, operation by operation, for the channels of a pixel at once.
#ifndef DALI_MIX_AUGMENT_ROW_WARP_H_
#define DALI_MIX_AUGMENT_ROW_WARP_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "augment/pass.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define DALI_MIX_WARP_BY_AVX2
#include <immintrin.h>
#endif

namespace dali_mix::augment::rows {

#ifdef DALI_MIX_WARP_BY_AVX2

#define DALI_MIX_AVX2 __attribute__((target("avx2")))
#define DALI_MIX_AVX2_WITHIN inline __attribute__((target("avx2"), always_inline))

// With the operators of C++, so that the templates of warp.h take them.
using Four = __m256d;

// A pixel and one byte behind it.  Not by _mm_loadu_si32: g++ 11.1 and 11.2 put its value into the wrong lane
// (gcc.gnu.org/PR99754).
DALI_MIX_AVX2_WITHIN Four Load(const Byte* pixel) {
  int bytes;
  std::memcpy(&bytes, pixel, sizeof(bytes));
  return _mm256_cvtepi32_pd(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(bytes)));
}

// A pixel and, where another one follows it in its row, any byte in front of that.
DALI_MIX_AVX2_WITHIN void Store(Four value, Byte* to, bool last) {
  __m128i whole = _mm256_cvttpd_epi32(value);  // clamped where it is packed
  int bytes = _mm_cvtsi128_si32(_mm_packus_epi16(_mm_packus_epi32(whole, whole), whole));
  if (last)  // each of a length that the compiler knows
    std::memcpy(to, &bytes, 3);
  else
    std::memcpy(to, &bytes, 4);
}

DALI_MIX_AVX2_WITHIN Four CubicAcross(const Byte* pixels, double share) {
  return Cubic(Load(pixels), Load(pixels + 3), Load(pixels + 6), Load(pixels + 9), share);
}

// `from` is the first of 4 x 4 pixels, of 2 x 2 below.  Shares of 0, as in a shear or a translation, leave a value as
// it is: the other taps need not be read.
DALI_MIX_AVX2_WITHIN Four BicubicFour(const Byte* from, int64_t row, double down, double across) {
  if (down == 0.0) return CubicAcross(from + row, across);
  const Byte* third = from + 2 * row;
  if (across == 0.0) return Cubic(Load(from + 3), Load(from + row + 3), Load(third + 3), Load(third + row + 3), down);
  return Cubic(CubicAcross(from, across), CubicAcross(from + row, across), CubicAcross(third, across),
               CubicAcross(third + row, across), down);
}

DALI_MIX_AVX2_WITHIN Four BilinearFour(const Byte* from, int64_t row, double down, double across) {
  return Linear(Linear(Load(from), Load(from + 3), across), Linear(Load(from + row), Load(from + row + 3), across),
                down);
}

// Where four pixels in a row lie in the input, as Locate tells it for one.
struct FourPlaces {
  alignas(32) double down[4], across[4];
  alignas(16) int y[4], x[4];
  int inside;  // one bit each

  DALI_MIX_AVX2_WITHIN void Locate(const Matrix& m, int height, int width, int y_out, int x_out) {
    Four columns = _mm256_set1_pd(x_out) + Four{0.5, 1.5, 2.5, 3.5};
    double row = y_out + 0.5;
    Four left = m.xx * columns + _mm256_set1_pd(m.xy * row) + m.x0;
    Four top = m.yx * columns + _mm256_set1_pd(m.yy * row) + m.y0;
    Four in_x = _mm256_and_pd(_mm256_cmp_pd(left, _mm256_setzero_pd(), _CMP_GE_OQ),
                              _mm256_cmp_pd(left, _mm256_set1_pd(width), _CMP_LT_OQ));
    Four in_y = _mm256_and_pd(_mm256_cmp_pd(top, _mm256_setzero_pd(), _CMP_GE_OQ),
                              _mm256_cmp_pd(top, _mm256_set1_pd(height), _CMP_LT_OQ));
    inside = _mm256_movemask_pd(_mm256_and_pd(in_x, in_y));
    left -= 0.5, top -= 0.5;
    Four first = _mm256_floor_pd(left), upper = _mm256_floor_pd(top);
    _mm256_store_pd(across, left - first);
    _mm256_store_pd(down, top - upper);
    _mm_store_si128(reinterpret_cast<__m128i*>(x), _mm256_cvttpd_epi32(first));
    _mm_store_si128(reinterpret_cast<__m128i*>(y), _mm256_cvttpd_epi32(upper));
  }
};

// The pixels around a place near the border, those outside taken from its edge.
template <int kSide>
struct Patch {
  Byte rows[kSide][16];

  Patch(const Pass& pass, int top, int left) {
    for (int i = 0; i < kSide; i++)
      for (int j = 0; j < kSide; j++)
        Copy3(PixelAt(pass.in, pass.height, pass.width, top + i, left + j), rows[i] + 3 * j);
  }
};

template <bool kCubic>
DALI_MIX_AVX2_WITHIN Four Interpolated(const Byte* from, int64_t row, double down, double across) {
  return kCubic ? BicubicFour(from, row, down, across) : BilinearFour(from, row, down, across);
}

template <bool kCubic>
DALI_MIX_AVX2 void WarpRow(const Pass& pass, int y, Byte* out) {
  constexpr int kBefore = kCubic ? 1 : 0, kSide = kCubic ? 4 : 2;
  const int64_t row = int64_t{3} * pass.width;
  const Byte* last = pass.in + row * pass.height - 3 * kSide - 1;  // a pixel's last load reads one byte too many
  const unsigned columns = std::max(0, pass.width - kSide + 1), rows = std::max(0, pass.height - kSide + 1);
  FourPlaces places;
  for (int x = 0; x < pass.width; x++, out += 3) {
    int i = x % 4;
    if (i == 0) places.Locate(pass.matrix, pass.height, pass.width, y, x);
    if (!(places.inside >> i & 1)) {
      Copy3(pass.fill, out);
      continue;
    }
    int left = places.x[i] - kBefore, top = places.y[i] - kBefore;
    const Byte* from = pass.in + top * row + left * 3;
    bool border = static_cast<unsigned>(left) >= columns || static_cast<unsigned>(top) >= rows;
    Four value;
    if (border || from + (kSide - 1) * row > last) {
      Patch<kSide> patch(pass, top, left);
      value = Interpolated<kCubic>(patch.rows[0], sizeof(patch.rows[0]), places.down[i], places.across[i]);
    } else {
      value = Interpolated<kCubic>(from, row, places.down[i], places.across[i]);
    }
    Store(value, out, x == pass.width - 1);
  }
}

inline bool WarpFast(const Pass& pass) {
  static const bool supported = __builtin_cpu_supports("avx2");
  if (!supported || pass.filter == Filter::kNearest) return false;
  for (int y = 0; y < pass.height; y++) {
    Byte* out = pass.out + int64_t{3} * pass.width * y;
    pass.filter == Filter::kBicubic ? WarpRow<true>(pass, y, out) : WarpRow<false>(pass, y, out);
  }
  return true;
}

#else

inline bool WarpFast(const Pass&) { return false; }

#endif

inline void Warp(const Pass& pass) {
  if (WarpFast(pass)) return;
  for (int place = 0; place < Pixels(pass); place++) RunPixel(pass, place);
}

}  // namespace dali_mix::augment::rows

#endif  // DALI_MIX_AUGMENT_ROW_WARP_H_
