// Normal noise in levels, clipped to [0, 255]: a pure function of a key and of the pixel, the same on host and device.
#ifndef DALI_MIX_AUGMENT_NOISE_H_
#define DALI_MIX_AUGMENT_NOISE_H_

#include "augment/levels.h"
#include "both.h"
#include "philox.h"

namespace dali_mix::augment {

// One level of a distribution over 256 of them by one look: level i, or another one where a number of kBits bits is
// not below the limit.  Source: Walker 1977, the alias method.
struct NoiseTable {
  static constexpr int kBits = 13;
  unsigned short limit[3][kLevels];
  Byte other[3][kLevels];

  // `bits` has 21 of them.
  DALI_MIX_BOTH Byte Draw(int channel, Word32 bits) const {
    Word32 level = bits & 255u, rest = (bits >> 8) & ((1u << kBits) - 1);
    return rest < limit[channel][level] ? static_cast<Byte>(level) : other[channel][level];
  }
};

// The noise of pixels `place` and `place` + 1 of a box, of which the first is even: one draw of the generator.
DALI_MIX_BOTH void NoisePair(const NoiseTable& table, const Word32* key, Word32 box, Word32 place, Byte* out) {
  Numbers counter = {{place >> 1, box, static_cast<Word32>(Role::kNoise), 0}};
  Numbers numbers = Philox(counter, key[0], key[1]);
  for (int i = 0; i < 2; i++) {
    Word32 low = numbers.at[2 * i], high = numbers.at[2 * i + 1];
    out[3 * i] = table.Draw(0, low & 0x1FFFFFu);
    out[3 * i + 1] = table.Draw(1, high & 0x1FFFFFu);
    out[3 * i + 2] = table.Draw(2, (low >> 21) | ((high >> 21) << 11));  // the top bit of 22 is not used
  }
}

DALI_MIX_BOTH void NoisePixel(const NoiseTable& table, const Word32* key, Word32 box, Word32 place, Byte* out) {
  Byte pair[6];
  NoisePair(table, key, box, place & ~1u, pair);
  for (int c = 0; c < 3; c++) out[c] = pair[3 * (place & 1u) + c];
}

}  // namespace dali_mix::augment

#endif  // DALI_MIX_AUGMENT_NOISE_H_
