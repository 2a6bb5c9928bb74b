// What the operations that look at one pixel make of it, as Pillow computes it, to the level.
// Source: Pillow 13, ImageOps.py, ImageEnhance.py, libImaging/Blend.c and Convert.c; torchvision's adjust_hue.
#ifndef DALI_MIX_AUGMENT_LEVELS_H_
#define DALI_MIX_AUGMENT_LEVELS_H_

#include "both.h"

namespace dali_mix::augment {

constexpr int kLevels = 256;

// Operations that map each level by itself, in one table per channel; in the order of Op.
enum class Table : int {
  kAutoContrast,
  kEqualize,
  kContrast,
  kInvert,
  kPosterize,
  kSolarize,
  kSolarizeAdd,
  kBrightness
};

// Whether the table depends on the image.
DALI_MIX_BOTH bool NeedsHistogram(Table table) { return table <= Table::kContrast; }

DALI_MIX_BOTH Byte Clamp(int value) { return static_cast<Byte>(value < 0 ? 0 : value > 255 ? 255 : value); }

// ITU-R 601-2.
DALI_MIX_BOTH int Gray(int red, int green, int blue) {
  return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
}

// `from` at a factor of 0, `to` at 1; in float32, and truncated.
DALI_MIX_BOTH Byte Blended(int from, int to, float factor) {
  float value = static_cast<float>(from) + factor * static_cast<float>(to - from);
  return static_cast<Byte>(value < 0.0f ? 0.0f : value > 255.0f ? 255.0f : value);
}

// The kernel of ImageFilter.SMOOTH: 5 in the middle, 1 around, over 13, rounded; no sum lies halfway.
DALI_MIX_BOTH int Smoothed(int around, int middle) { return (2 * (around + 5 * middle) + 13) / 26; }

// One entry of a table that is the same for all images and channels.
DALI_MIX_BOTH Byte FixedEntry(Table table, float argument, int level) {
  int whole = static_cast<int>(argument);
  switch (table) {
    case Table::kInvert:
      return static_cast<Byte>(255 - level);
    case Table::kPosterize:  // bits to keep: Pillow takes 1 to 8
      return static_cast<Byte>(level & ~((1 << (8 - (whole < 1 ? 1 : whole > 8 ? 8 : whole))) - 1));
    case Table::kSolarize:
      return static_cast<Byte>(level < whole ? level : 255 - level);
    case Table::kSolarizeAdd:
      return static_cast<Byte>(level >= 128 ? level : level + whole < 255 ? level + whole : 255);
    default:
      return Blended(0, level, argument);  // brightness
  }
}

DALI_MIX_BOTH void FillEqualize(const Word32* histogram, Byte* table) {
  Word32 total = 0, last = 0, values = 0;
  for (int level = 0; level < kLevels; level++)
    if (histogram[level]) total += last = histogram[level], values++;
  Word32 step = (total - last) / 255, n = step / 2;
  for (int level = 0; level < kLevels; level++) {
    table[level] = values <= 1 || step == 0 ? static_cast<Byte>(level) : n / step < 255 ? n / step : 255;
    n += histogram[level];
  }
}

DALI_MIX_BOTH void FillAutoContrast(const Word32* histogram, Byte* table) {
  int low = 0, high = kLevels - 1;
  while (low < high && histogram[low] == 0) low++;
  while (high > low && histogram[high] == 0) high--;
  double scale = high > low ? 255.0 / (high - low) : 1.0, offset = high > low ? -low * scale : 0.0;
  for (int level = 0; level < kLevels; level++) table[level] = Clamp(static_cast<int>(level * scale + offset));
}

// The histogram is of the grays.
DALI_MIX_BOTH void FillContrast(const Word32* histogram, float factor, Byte* table) {
  double sum = 0, count = 0;
  for (int level = 0; level < kLevels; level++) {
    sum += static_cast<double>(level) * histogram[level];
    count += histogram[level];
  }
  int mean = static_cast<int>(sum / count + 0.5);
  for (int level = 0; level < kLevels; level++) table[level] = Blended(mean, level, factor);
}

// A table of one channel.  `histogram` is that channel's, or the grays' for contrast, and not read for the others.
DALI_MIX_BOTH void FillTable(Table table, float argument, const Word32* histogram, Byte* entries) {
  switch (table) {
    case Table::kEqualize:
      return FillEqualize(histogram, entries);
    case Table::kAutoContrast:
      return FillAutoContrast(histogram, entries);
    case Table::kContrast:
      return FillContrast(histogram, argument, entries);
    default:
      for (int level = 0; level < kLevels; level++) entries[level] = FixedEntry(table, argument, level);
  }
}

struct Hsv {
  int hue, saturation, value;
};

DALI_MIX_BOTH Hsv ToHsv(int red, int green, int blue) {
  int most = red > green ? red : green, least = red < green ? red : green;
  most = most > blue ? most : blue, least = least < blue ? least : blue;
  if (most == least) return {0, 0, most};
  float spread = static_cast<float>(most - least);
  float saturation = spread / static_cast<float>(most);
  float r = static_cast<float>(most - red) / spread, g = static_cast<float>(most - green) / spread;
  float b = static_cast<float>(most - blue) / spread;
  float sixth = red == most ? b - g : green == most ? static_cast<float>(2.0 + r - b) : static_cast<float>(4.0 + g - r);
  double turns = sixth / 6.0 + 1.0;
  float hue = static_cast<float>(turns < 1.0 ? turns : turns - 1.0);
  return {Clamp(static_cast<int>(hue * 255.0)), Clamp(static_cast<int>(saturation * 255.0)), most};
}

DALI_MIX_BOTH int Nearest(double value) { return static_cast<int>(value + 0.5); }

DALI_MIX_BOTH void FromHsv(Hsv hsv, Byte* out) {
  double place = static_cast<float>(hsv.hue) * 6.0 / 255.0;
  int sixth = static_cast<int>(place);
  float rest = static_cast<float>(place - static_cast<float>(sixth));
  float saturation = static_cast<float>(hsv.saturation) / 255.0f, value = static_cast<float>(hsv.value);
  Byte top = static_cast<Byte>(hsv.value), low = Clamp(Nearest(value * (1.0 - saturation)));
  Byte down = Clamp(Nearest(value * (1.0 - saturation * rest)));
  Byte up = Clamp(Nearest(value * (1.0 - saturation * (1.0 - rest))));
  if (hsv.saturation == 0) low = down = up = top;
  const Byte parts[] = {top, up, low, down};
  constexpr int order[6][3] = {{0, 1, 2}, {3, 0, 2}, {2, 0, 1}, {2, 3, 0}, {1, 2, 0}, {0, 2, 3}};
  for (int c = 0; c < 3; c++) out[c] = parts[order[sixth % 6][c]];
}

// `shift` of the hue is in 1 / 256 of what a byte holds, and wraps around.
DALI_MIX_BOTH void TurnHue(const Byte* in, int shift, Byte* out) {
  Hsv hsv = ToHsv(in[0], in[1], in[2]);
  hsv.hue = (hsv.hue + shift) & 255;
  FromHsv(hsv, out);
}

}  // namespace dali_mix::augment

#endif  // DALI_MIX_AUGMENT_LEVELS_H_
