// Affine warps as Pillow computes them: in double, what lies outside filled and not blended, and truncated.
// Source: Pillow 13, libImaging/Geometry.c.
#ifndef DALI_MIX_AUGMENT_WARP_H_
#define DALI_MIX_AUGMENT_WARP_H_

#include "both.h"

namespace dali_mix::augment {

enum class Filter : int { kNearest, kBilinear, kBicubic };

// From the centre of a pixel of the output, (x, y), to the input: a x + b y + c.
struct Matrix {
  double xx, xy, x0, yx, yy, y0;
};

DALI_MIX_WITHIN int Floor(double value) {
  int whole = static_cast<int>(value);
  return whole - (value < whole);
}

DALI_MIX_BOTH int Within(int place, int length) { return place < 0 ? 0 : place < length ? place : length - 1; }

// `Number` is double, or four of them.
template <typename Number>
DALI_MIX_WITHIN Number Linear(Number first, Number second, double share) {
  return first + (second - first) * share;
}

template <typename Number>
DALI_MIX_WITHIN Number Cubic(Number v1, Number v2, Number v3, Number v4, double share) {
  Number linear = v3 - v1;
  Number square = 2.0 * (v1 - v2) + v3 - v4;
  Number cube = v2 - v1 - v3 + v4;
  return v2 + share * (linear + share * (square + share * cube));
}

// Where an output pixel lies in the input: between pixel (y, x) and the next, by these shares.
struct Place {
  int y, x;
  double down, across;
  bool inside;
};

DALI_MIX_WITHIN Place Locate(const Matrix& matrix, int height, int width, int y, int x) {
  double across = x + 0.5, down = y + 0.5;
  double left = matrix.xx * across + matrix.xy * down + matrix.x0;
  double top = matrix.yx * across + matrix.yy * down + matrix.y0;
  bool inside = left >= 0.0 && left < width && top >= 0.0 && top < height;
  left -= 0.5, top -= 0.5;
  Place place = {inside ? Floor(top) : 0, inside ? Floor(left) : 0, 0, 0, inside};
  place.down = top - place.y, place.across = left - place.x;
  return place;
}

DALI_MIX_BOTH const Byte* PixelAt(const Byte* in, int height, int width, int y, int x) {
  return in + (static_cast<long long>(Within(y, height)) * width + Within(x, width)) * 3;
}

DALI_MIX_BOTH void BilinearPixel(const Byte* in, int height, int width, const Place& place, Byte* out) {
  const Byte* corner[4];
  for (int i = 0; i < 4; i++) corner[i] = PixelAt(in, height, width, place.y + i / 2, place.x + i % 2);
  for (int c = 0; c < 3; c++) {
    double upper = Linear<double>(corner[0][c], corner[1][c], place.across);
    double lower = Linear<double>(corner[2][c], corner[3][c], place.across);
    out[c] = static_cast<Byte>(Linear(upper, lower, place.down));
  }
}

DALI_MIX_BOTH void BicubicPixel(const Byte* in, int height, int width, const Place& place, Byte* out) {
  for (int c = 0; c < 3; c++) {
    double row[4];
    for (int i = 0; i < 4; i++) {
      double v[4];
      for (int j = 0; j < 4; j++) v[j] = PixelAt(in, height, width, place.y - 1 + i, place.x - 1 + j)[c];
      row[i] = Cubic(v[0], v[1], v[2], v[3], place.across);
    }
    double value = Cubic(row[0], row[1], row[2], row[3], place.down);
    out[c] = static_cast<Byte>(value <= 0.0 ? 0.0 : value >= 255.0 ? 255.0 : value);
  }
}

DALI_MIX_BOTH int Fixed(double value) { return Floor(value * 65536.0 + 0.5); }

// Where Pillow comes to, which adds `by` to `first` so often: next to a whole number the roundings on the way decide.
DALI_MIX_BOTH int Reached(double first, double by, int times) {
  double place = first + by * times, beside = place - Floor(place + 0.5);
  if (beside > -1e-9 && beside < 1e-9)
    for (place = first; times > 0; times--) place += by;
  return place < 0.0 ? -1 : static_cast<int>(place);
}

// Pillow has paths of its own for this filter: along the axes in double, others in fixed point.  The pixel's place, or
// null outside.
DALI_MIX_BOTH const Byte* NearestPixel(const Byte* in, int height, int width, const Matrix& m, int y, int x) {
  int column, row;
  if (m.xy == 0.0 && m.yx == 0.0) {
    column = Reached(m.x0 + m.xx * 0.5, m.xx, x), row = Reached(m.y0 + m.yy * 0.5, m.yy, y);
  } else {
    // Unsigned, so that what is far outside may wrap around.
    Word32 left = static_cast<Word32>(Fixed(m.x0 + m.xx * 0.5 + m.xy * 0.5)) + static_cast<Word32>(Fixed(m.xy)) * y +
                  static_cast<Word32>(Fixed(m.xx)) * x;
    Word32 top = static_cast<Word32>(Fixed(m.y0 + m.yx * 0.5 + m.yy * 0.5)) + static_cast<Word32>(Fixed(m.yy)) * y +
                 static_cast<Word32>(Fixed(m.yx)) * x;
    column = static_cast<int>(left) >> 16, row = static_cast<int>(top) >> 16;
  }
  bool inside = column >= 0 && column < width && row >= 0 && row < height;
  return inside ? in + (static_cast<long long>(row) * width + column) * 3 : nullptr;
}

DALI_MIX_BOTH void WarpPixel(const Byte* in, int height, int width, const Matrix& matrix, Filter filter,
                             const Byte* fill, int y, int x, Byte* out) {
  if (filter == Filter::kNearest) {
    const Byte* pixel = NearestPixel(in, height, width, matrix, y, x);
    for (int c = 0; c < 3; c++) out[c] = pixel ? pixel[c] : fill[c];
    return;
  }
  Place place = Locate(matrix, height, width, y, x);
  if (!place.inside) {
    for (int c = 0; c < 3; c++) out[c] = fill[c];
  } else if (filter == Filter::kBilinear) {
    BilinearPixel(in, height, width, place, out);
  } else {
    BicubicPixel(in, height, width, place, out);
  }
}

}  // namespace dali_mix::augment

#endif  // DALI_MIX_AUGMENT_WARP_H_
