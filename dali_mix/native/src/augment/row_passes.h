// Passes on the CPU, written so that the compiler makes vector instructions of them.  Each gives what RunPixel gives
// for every pixel, to the bit.
#ifndef DALI_MIX_AUGMENT_ROW_PASSES_H_
#define DALI_MIX_AUGMENT_ROW_PASSES_H_

#include <algorithm>
#include <array>
#include <cstring>

#include "augment/pass.h"
#include "augment/row_warp.h"
#include "rows.h"

namespace dali_mix::augment::rows {

// Values that are worked on at a time: sums of them stay in the first cache.
constexpr int kChunk = 1024;

// Two histograms in turn, as neighbors are often equal and a counter cannot be read before it is written.
inline void Count(const Pass& pass) {
  Word32 counts[2][3 * kLevels] = {};
  int pixels = Pixels(pass);
  const Byte* in = pass.in;
  if (pass.kind == Kind::kGrayHistogram) {
    for (int i = 0; i < pixels; i++, in += 3) counts[i & 1][Gray(in[0], in[1], in[2])]++;
  } else {
    for (int i = 0; i < pixels; i++, in += 3) {
      Word32* count = counts[i & 1];
      count[in[0]]++, count[kLevels + in[1]]++, count[2 * kLevels + in[2]]++;
    }
  }
  for (int i = 0; i < 3 * kLevels; i++) pass.histogram[i] = counts[0][i] + counts[1][i];
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

inline void Box(const Pass& pass) {
  constexpr int kMostTaps = 64;
  int taps = 2 * pass.box.radius + 3, reach = pass.box.radius + 1, width = pass.width, row = 3 * width;
  bool across = pass.kind == Kind::kBoxAcross;
  std::array<const Byte*, kMostTaps> tap;
  for (int y = 0; y < pass.height; y++) {
    int64_t start = int64_t{y} * row;
    bool fast = taps <= kMostTaps && (!across || width > 2 * reach);
    int border = !fast ? width : across ? reach : 0;  // pixels on each side that are done one by one
    for (int x = 0; x < std::min(border, width); x++) RunPixel(pass, y * width + x);
    if (!fast) continue;
    for (int x = width - border; x < width; x++) RunPixel(pass, y * width + x);
    for (int t = 0; t < taps; t++)
      tap[t] = across ? pass.in + start + 3 * t : pass.in + int64_t{Within(y + t - reach, pass.height)} * row;
    BoxRow(pass.out + start + 3 * border, tap.data(), pass.box, row - 6 * border);
  }
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

}  // namespace dali_mix::augment::rows

#endif  // DALI_MIX_AUGMENT_ROW_PASSES_H_
