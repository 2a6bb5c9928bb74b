// Warps on the CPU: the arithmetic of warp.h, for the channels of a pixel at once.
#ifndef DALI_MIX_AUGMENT_ROW_WARP_H_
#define DALI_MIX_AUGMENT_ROW_WARP_H_

#include <cstring>

#include "augment/pass.h"
#include "rows.h"

namespace dali_mix::augment::rows {

using Four = double __attribute__((vector_size(32)));
using FourInts = int __attribute__((vector_size(16)));
using FourBytes = Byte __attribute__((vector_size(4)));

// A pixel and one byte of the next.
inline __attribute__((always_inline)) void Load(const Byte* pixel, Four* to) {
  FourBytes bytes;
  std::memcpy(&bytes, pixel, 4);
  *to = __builtin_convertvector(__builtin_convertvector(bytes, FourInts), Four);
}

inline __attribute__((always_inline)) void Store(const Four& value, Byte* to) {
  Four positive = value > 0.0 ? value : Four{};
  Four most = {255.0, 255.0, 255.0, 255.0};
  FourBytes bytes =
      __builtin_convertvector(__builtin_convertvector(positive < most ? positive : most, FourInts), FourBytes);
  std::memcpy(to, &bytes, 3);
}

inline __attribute__((always_inline)) void CubicAcross(const Byte* pixel, double share, Four* to) {
  Four v[4];
  for (int i = 0; i < 4; i++) Load(pixel + 3 * i, &v[i]);
  *to = Cubic(v[0], v[1], v[2], v[3], share);
}

// Shares of 0, as in a shear or a translation, leave the value as it is: the other taps need not be read.
inline __attribute__((always_inline)) void BicubicFour(const Byte* const* row, const Place& place, Byte* out) {
  Four value[4];
  if (place.down == 0.0) {
    CubicAcross(row[1], place.across, &value[0]);
    return Store(value[0], out);
  }
  if (place.across == 0.0) {
    for (int i = 0; i < 4; i++) Load(row[i] + 3, &value[i]);
  } else {
    for (int i = 0; i < 4; i++) CubicAcross(row[i], place.across, &value[i]);
  }
  Store(Cubic(value[0], value[1], value[2], value[3], place.down), out);
}

inline __attribute__((always_inline)) void BilinearFour(const Byte* upper, const Byte* lower, const Place& place,
                                                        Byte* out) {
  Four corner[4];
  for (int i = 0; i < 4; i++) Load((i < 2 ? upper : lower) + 3 * (i % 2), &corner[i]);
  Four top = Linear(corner[0], corner[1], place.across), bottom = Linear(corner[2], corner[3], place.across);
  Store(Linear(top, bottom, place.down), out);
}

// A pixel near the border is done by itself: the fast way reads up to a pixel and a byte beyond what it needs.
DALI_MIX_CLONES inline void WarpRow(const Pass& pass, int y, Byte* out) {
  int64_t row = int64_t{3} * pass.width;
  bool cubic = pass.filter == Filter::kBicubic;
  int before = cubic ? 1 : 0, behind = cubic ? 3 : 2;
  for (int x = 0; x < pass.width; x++, out += 3) {
    Place place = Locate(pass.matrix, pass.height, pass.width, y, x);
    if (!place.inside) {
      Copy3(pass.fill, out);
    } else if (place.x < before || place.x + behind >= pass.width) {
      WarpPixel(pass.in, pass.height, pass.width, pass.matrix, pass.filter, pass.fill, y, x, out);
    } else {
      const Byte* from = pass.in + (place.x - before) * 3;
      const Byte* rows[4];
      for (int i = 0; i < 4; i++) rows[i] = from + Within(place.y - before + i, pass.height) * row;
      if (cubic)
        BicubicFour(rows, place, out);
      else
        BilinearFour(rows[0], rows[1], place, out);
    }
  }
}

inline void Warp(const Pass& pass) {
  for (int y = 0; y < pass.height; y++) {
    Byte* out = pass.out + int64_t{3} * pass.width * y;
    if (pass.filter != Filter::kNearest)
      WarpRow(pass, y, out);
    else
      for (int x = 0; x < pass.width; x++) RunPixel(pass, y * pass.width + x);
  }
}

}  // namespace dali_mix::augment::rows

#endif  // DALI_MIX_AUGMENT_ROW_WARP_H_
