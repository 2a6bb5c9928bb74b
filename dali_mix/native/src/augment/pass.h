// One pass over an image, and what it does at one pixel: the host's reference, and each thread of the kernel.
#ifndef DALI_MIX_AUGMENT_PASS_H_
#define DALI_MIX_AUGMENT_PASS_H_

#include "augment/blur.h"
#include "augment/levels.h"
#include "augment/noise.h"
#include "augment/warp.h"
#include "both.h"

namespace dali_mix::augment {

enum class Kind : int {
  kHistogram,      // of the three channels
  kGrayHistogram,  // in the place of the first channel
  kTables,         // histogram to tables
  // From here on: pixel by pixel.
  kCopy,
  kFlip,
  kEntries,  // a table that no image changes
  kLookUp,   // in the tables
  kColor,    // a blend with the gray
  kHue,
  kSharpness,
  kWarp,
  kBoxAcross,
  kBoxDown,
  kGaussAcross,  // to the floats
  kGaussDown,    // and back
  kErase         // in place
};

enum class Remode : int { kConst, kRand, kPixel };

// Pointers are those of the device where the passes run there.
struct Pass {
  Kind kind;
  const Byte* in;
  Byte* out;
  int height, width;
  float factor;      // of a blend, or the argument of a table
  Table table;       // kTables, kEntries
  int down, across;  // kFlip: along which axes; kHue: the shift is in `down`
  Matrix matrix;
  Filter filter;
  Byte fill[3];
  Box1d box;
  float taps[kTaps / 2 + 1];
  int y1, x1, y2, x2;  // kErase: half-open
  Word32 key[2], number;
  Byte color[3];
  Remode remode;
  const NoiseTable* noise;
  Word32* histogram;  // 3 x 256
  Byte* tables;       // 3 x 256
  float* floats;      // height x width x 3
};

// Whether the image is in `out` afterwards, and not in `in` any more.
DALI_MIX_BOTH bool Moves(Kind kind) {
  return kind >= Kind::kCopy && kind != Kind::kGaussAcross && kind != Kind::kErase;
}

// How many pixels there are to do.
DALI_MIX_BOTH int Pixels(const Pass& pass) {
  return pass.kind == Kind::kErase ? (pass.y2 - pass.y1) * (pass.x2 - pass.x1) : pass.height * pass.width;
}

DALI_MIX_BOTH void Copy3(const Byte* in, Byte* out) {
  for (int c = 0; c < 3; c++) out[c] = in[c];
}

DALI_MIX_BOTH void ColorPixel(const Byte* in, float factor, Byte* out) {
  int gray = Gray(in[0], in[1], in[2]);
  for (int c = 0; c < 3; c++) out[c] = Blended(gray, in[c], factor);
}

// The border is as it was.
DALI_MIX_BOTH void SharpnessPixel(const Pass& pass, int y, int x, Byte* out) {
  const Byte* in = PixelAt(pass.in, pass.height, pass.width, y, x);
  if (y == 0 || x == 0 || y == pass.height - 1 || x == pass.width - 1) return Copy3(in, out);
  long long row = 3LL * pass.width;
  for (int c = 0; c < 3; c++) {
    int around = 0;
    for (int i = -1; i <= 1; i++)
      for (int j = -1; j <= 1; j++) around += i || j ? in[i * row + j * 3 + c] : 0;
    out[c] = Blended(Smoothed(around, in[c]), in[c], pass.factor);
  }
}

DALI_MIX_BOTH void ErasePixel(const Pass& pass, int place) {
  int width = pass.x2 - pass.x1;
  long long pixel = static_cast<long long>(pass.y1 + place / width) * pass.width + pass.x1 + place % width;
  if (pass.remode == Remode::kPixel)
    NoisePixel(*pass.noise, pass.key, pass.number, static_cast<Word32>(place), pass.out + pixel * 3);
  else
    Copy3(pass.color, pass.out + pixel * 3);
}

// The two blurs; `pixel` counts through the image.
DALI_MIX_BOTH void BlurPixel(const Pass& pass, int y, int x, long long pixel) {
  long long row = 3LL * pass.width;
  for (int c = 0; c < 3; c++) {
    if (pass.kind == Kind::kBoxAcross)
      pass.out[pixel * 3 + c] = BoxLevel(pass.in + y * row + c, pass.width, 3, x, pass.box);
    else if (pass.kind == Kind::kBoxDown)
      pass.out[pixel * 3 + c] = BoxLevel(pass.in + x * 3 + c, pass.height, row, y, pass.box);
    else if (pass.kind == Kind::kGaussAcross)
      pass.floats[pixel * 3 + c] = GaussianValue(pass.in + y * row + c, pass.width, 3, x, pass.taps);
    else
      pass.out[pixel * 3 + c] = NearestLevel(GaussianValue(pass.floats + x * 3 + c, pass.height, row, y, pass.taps));
  }
}

// Pixel `place` of those that Pixels counts.
DALI_MIX_BOTH void RunPixel(const Pass& pass, int place) {
  if (pass.kind == Kind::kErase) return ErasePixel(pass, place);
  int y = place / pass.width, x = place % pass.width;
  long long pixel = place;
  const Byte* in = pass.in + pixel * 3;
  Byte* out = pass.out + pixel * 3;
  switch (pass.kind) {
    case Kind::kCopy:
      return Copy3(in, out);
    case Kind::kFlip:
      return Copy3(PixelAt(pass.in, pass.height, pass.width, pass.down ? pass.height - 1 - y : y,
                           pass.across ? pass.width - 1 - x : x),
                   out);
    case Kind::kEntries:
      for (int c = 0; c < 3; c++) out[c] = FixedEntry(pass.table, pass.factor, in[c]);
      return;
    case Kind::kLookUp:
      for (int c = 0; c < 3; c++) out[c] = pass.tables[c * kLevels + in[c]];
      return;
    case Kind::kColor:
      return ColorPixel(in, pass.factor, out);
    case Kind::kHue:
      return TurnHue(in, pass.down, out);
    case Kind::kSharpness:
      return SharpnessPixel(pass, y, x, out);
    case Kind::kWarp:
      return WarpPixel(pass.in, pass.height, pass.width, pass.matrix, pass.filter, pass.fill, y, x, out);
    default:
      return BlurPixel(pass, y, x, pixel);
  }
}

// The counters in the histogram that pixel `place` adds to; returns how many there are.
DALI_MIX_BOTH int Bins(const Pass& pass, int place, int* bins) {
  const Byte* in = pass.in + 3LL * place;
  if (pass.kind == Kind::kGrayHistogram) return bins[0] = Gray(in[0], in[1], in[2]), 1;
  for (int c = 0; c < 3; c++) bins[c] = c * kLevels + in[c];
  return 3;
}

// The table of one channel.
DALI_MIX_BOTH void FillChannel(const Pass& pass, int channel) {
  const Word32* histogram = pass.histogram + (pass.table == Table::kContrast ? 0 : channel * kLevels);
  FillTable(pass.table, pass.factor, histogram, pass.tables + channel * kLevels);
}

}  // namespace dali_mix::augment

#endif  // DALI_MIX_AUGMENT_PASS_H_
