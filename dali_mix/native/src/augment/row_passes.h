// Passes on the CPU, written so that the compiler makes vector instructions of them.  Each gives what RunPixel gives
// for every pixel, to the bit.
#ifndef DALI_MIX_AUGMENT_ROW_PASSES_H_
#define DALI_MIX_AUGMENT_ROW_PASSES_H_

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "augment/pass.h"
#include "augment/row_warp.h"
#include "rows.h"

namespace dali_mix::augment::rows {

// Values that are worked on at a time: sums of them stay in the first cache.
constexpr int kChunk = 1024;

// Two histograms in turn, as neighbors are often equal and a counter cannot be read before it is written.
inline void Count(const Pass& pass) {
  Word32 counts[2][3 * kLevels] = {};
  const Byte* in = pass.in;
  for (int i = 0; i < Pixels(pass); i++, in += 3) {
    Word32* count = counts[i & 1];
    count[in[0]]++, count[kLevels + in[1]]++, count[2 * kLevels + in[2]]++;
  }
  for (int i = 0; i < 3 * kLevels; i++) pass.histogram[i] = counts[0][i] + counts[1][i];
}

inline void CountGrays(const Pass& pass) {
  Word32 counts[2][kLevels] = {};
  const Byte* in = pass.in;
  for (int i = 0; i < Pixels(pass); i++, in += 3) counts[i & 1][Gray(in[0], in[1], in[2])]++;
  for (int i = 0; i < kLevels; i++) pass.histogram[i] = counts[0][i] + counts[1][i];
}

inline void FillTables(const Pass& pass) {
  FillChannel(pass, 0);
  for (int c = 1; c < 3; c++) {
    if (pass.table == Table::kContrast)  // one for all
      std::memcpy(pass.tables + c * kLevels, pass.tables, kLevels);
    else
      FillChannel(pass, c);
  }
}

inline void Flip(const Pass& pass) {
  size_t row = static_cast<size_t>(pass.width) * 3;
  for (int y = 0; y < pass.height; y++) {
    const Byte* in = pass.in + (pass.down ? pass.height - 1 - y : y) * row;
    if (pass.across)
      dali_mix::rows::Mirror(pass.out + y * row, in, pass.width, 3);
    else
      std::memcpy(pass.out + y * row, in, row);
  }
}

inline void LookUp(const Pass& pass) {
  const Byte *in = pass.in, *red = pass.tables, *green = red + kLevels, *blue = green + kLevels;
  Byte* out = pass.out;
  for (int i = 0; i < Pixels(pass); i++, in += 3, out += 3)
    out[0] = red[in[0]], out[1] = green[in[1]], out[2] = blue[in[2]];
}

// In the first table, for all channels.
inline void LookUpOne(const Pass& pass) {
  const Byte* table = pass.tables;
  int64_t values = int64_t{3} * Pixels(pass);
  for (int64_t i = 0; i < values; i++) pass.out[i] = table[pass.in[i]];
}

DALI_MIX_CLONES inline void ColorRow(Byte* __restrict out, const Byte* __restrict in, float factor, int pixels) {
  for (int x = 0; x < pixels; x++) {
    int gray = Gray(in[3 * x], in[3 * x + 1], in[3 * x + 2]);
    out[3 * x] = Blended(gray, in[3 * x], factor);
    out[3 * x + 1] = Blended(gray, in[3 * x + 1], factor);
    out[3 * x + 2] = Blended(gray, in[3 * x + 2], factor);
  }
}

inline void Color(const Pass& pass) { ColorRow(pass.out, pass.in, pass.factor, Pixels(pass)); }

// n values, of which there are three more before and behind.
DALI_MIX_CLONES inline void SharpnessRow(Byte* __restrict out, const Byte* above, const Byte* in, const Byte* below,
                                         float factor, int n) {
  uint16_t sums[kChunk + 6];
  for (int start = 0; start < n; start += kChunk) {
    int count = std::min(kChunk, n - start);
    for (int i = 0; i < count + 6; i++) {
      int place = start + i - 3;
      sums[i] = static_cast<uint16_t>(above[place] + in[place] + below[place]);
    }
    for (int i = 0; i < count; i++) {
      int middle = in[start + i];
      int around = sums[i] + sums[i + 3] + sums[i + 6] - middle;
      out[start + i] = Blended(Smoothed(around, middle), middle, factor);
    }
  }
}

inline void Sharpness(const Pass& pass) {
  size_t row = static_cast<size_t>(pass.width) * 3;
  for (int y = 0; y < pass.height; y++) {
    const Byte* in = pass.in + y * row;
    Byte* out = pass.out + y * row;
    if (y == 0 || y == pass.height - 1 || pass.width < 3) {
      std::memcpy(out, in, row);
      continue;
    }
    Copy3(in, out);
    SharpnessRow(out + 3, in + 3 - row, in + 3, in + 3 + row, pass.factor, static_cast<int>(row) - 6);
    Copy3(in + row - 3, out + row - 3);
  }
}

// `taps` are the 2 radius + 3 stretches whose values are added, the first and the last of them in part.
DALI_MIX_CLONES inline void BoxRow(Byte* __restrict out, const Byte* const* taps, const Box1d& box, int n) {
  Word32 sums[kChunk];
  int last = 2 * box.radius + 2;
  for (int start = 0; start < n; start += kChunk) {
    int count = std::min(kChunk, n - start);
    const Byte *first = taps[0] + start, *end = taps[last] + start;
    for (int i = 0; i < count; i++) sums[i] = taps[1][start + i];
    for (int t = 2; t < last; t++) {
      const Byte* tap = taps[t] + start;
      for (int i = 0; i < count; i++) sums[i] += tap[i];
    }
    for (int i = 0; i < count; i++)
      out[start + i] = static_cast<Byte>(
          (sums[i] * box.whole + static_cast<Word32>(first[i] + end[i]) * box.edge + (1u << 23)) >> 24);
  }
}

// The same for a Gaussian.  Each sum is added up in the order of GaussianValue.
template <typename In>
DALI_MIX_WITHIN void WeightedRow(float* __restrict sums, const In* const* taps, const float* weights, int start,
                                 int n) {
  for (int i = 0; i < n; i++) sums[i] = 0;
  for (int t = 0; t < kTaps; t++) {
    const In* tap = taps[t] + start;
    float weight = weights[t < kTaps / 2 ? kTaps / 2 - t : t - kTaps / 2];
    for (int i = 0; i < n; i++) sums[i] += weight * static_cast<float>(tap[i]);
  }
}

DALI_MIX_CLONES inline void GaussRow(float* __restrict out, const Byte* const* taps, const float* weights, int n) {
  for (int start = 0; start < n; start += kChunk)
    WeightedRow(out + start, taps, weights, start, std::min(kChunk, n - start));
}

DALI_MIX_CLONES inline void GaussRow(Byte* __restrict out, const float* const* taps, const float* weights, int n) {
  float sums[kChunk];
  for (int start = 0; start < n; start += kChunk) {
    int count = std::min(kChunk, n - start);
    WeightedRow(sums, taps, weights, start, count);
    for (int i = 0; i < count; i++) out[start + i] = NearestLevel(sums[i]);
  }
}

// A filter, row by row: `run` takes what its taps read for a row.  Those of a filter along the row are the row itself,
// shifted, with what `place` takes from it at its ends; others are rows that `place` keeps within the image.
template <int kMost, typename In, typename Run>
void FilterRows(const Pass& pass, const In* in, int taps, bool across, int (*place)(int, int), Run run) {
  if (taps > kMost) {
    for (int pixel = 0; pixel < Pixels(pass); pixel++) RunPixel(pass, pixel);
    return;
  }
  int reach = taps / 2, width = pass.width;
  int64_t row = int64_t{3} * width;
  std::array<const In*, kMost> tap;
  std::vector<In> longer(across ? row + 6 * reach : 0);
  for (int y = 0; y < pass.height; y++) {
    for (int i = 0; across && i < reach; i++)
      for (int x : {i - reach, width + i}) std::copy_n(in + y * row + 3 * place(x, width), 3, &longer[3 * (x + reach)]);
    if (across) std::copy_n(in + y * row, row, &longer[3 * reach]);
    for (int t = 0; t < taps; t++) tap[t] = across ? &longer[3 * t] : in + place(y + t - reach, pass.height) * row;
    run(y * row, tap.data(), static_cast<int>(row));
  }
}

inline void Box(const Pass& pass) {
  FilterRows<64>(pass, pass.in, 2 * pass.box.radius + 3, pass.kind == Kind::kBoxAcross, Within,
                 [&](int64_t at, const Byte* const* taps, int n) { BoxRow(pass.out + at, taps, pass.box, n); });
}

inline void Gauss(const Pass& pass) {
  if (pass.kind == Kind::kGaussAcross)
    FilterRows<kTaps>(pass, pass.in, kTaps, true, Reflected, [&](int64_t at, const Byte* const* taps, int n) {
      GaussRow(pass.floats + at, taps, pass.taps, n);
    });
  else
    FilterRows<kTaps>(pass, pass.floats, kTaps, false, Reflected, [&](int64_t at, const float* const* taps, int n) {
      GaussRow(pass.out + at, taps, pass.taps, n);
    });
}

inline void Erase(const Pass& pass) {
  int width = pass.x2 - pass.x1;
  Byte pair[6];
  Word32 place = 0;
  for (int y = pass.y1; y < pass.y2; y++) {
    Byte* out = pass.out + (int64_t{y} * pass.width + pass.x1) * 3;
    for (int x = 0; x < width; x++, place++, out += 3) {
      if (pass.remode == Remode::kPixel && place % 2 == 0) NoisePair(*pass.noise, pass.key, pass.number, place, pair);
      Copy3(pass.remode == Remode::kPixel ? pair + 3 * (place % 2) : pass.color, out);
    }
  }
}

// Any pass: what has no loop of its own goes pixel by pixel.
inline void RunPass(const Pass& pass) {
  switch (pass.kind) {
    case Kind::kHistogram:
      return Count(pass);
    case Kind::kGrayHistogram:
      return CountGrays(pass);
    case Kind::kTables:
      return FillTables(pass);
    case Kind::kCopy:
      std::memcpy(pass.out, pass.in, static_cast<size_t>(Pixels(pass)) * 3);
      return;
    case Kind::kFlip:
      return Flip(pass);
    case Kind::kEntries:
      for (int level = 0; level < kLevels; level++) pass.tables[level] = FixedEntry(pass.table, pass.factor, level);
      return LookUpOne(pass);
    case Kind::kLookUp:
      return LookUp(pass);
    case Kind::kColor:
      return Color(pass);
    case Kind::kSharpness:
      return Sharpness(pass);
    case Kind::kWarp:
      return Warp(pass);
    case Kind::kBoxAcross:
    case Kind::kBoxDown:
      return Box(pass);
    case Kind::kGaussAcross:
    case Kind::kGaussDown:
      return Gauss(pass);
    case Kind::kErase:
      return Erase(pass);
    default:
      for (int place = 0; place < Pixels(pass); place++) RunPixel(pass, place);
  }
}

}  // namespace dali_mix::augment::rows

#endif  // DALI_MIX_AUGMENT_ROW_PASSES_H_
