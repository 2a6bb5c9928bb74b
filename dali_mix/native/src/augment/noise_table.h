// The table of a normal distribution whose draws are rounded to levels and clipped.
#ifndef DALI_MIX_AUGMENT_NOISE_TABLE_H_
#define DALI_MIX_AUGMENT_NOISE_TABLE_H_

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "augment/noise.h"

namespace dali_mix::augment {

// The chance of each level, in 1 / 2^21, to the nearest; they sum to 1.
inline std::vector<int> NormalLevels(double mean, double deviation) {
  auto below = [&](double level) { return 0.5 * std::erfc((mean - level) / (deviation * std::sqrt(2.0))); };
  std::vector<int> masses(kLevels);
  double before = 0;  // the ends take what lies beyond them
  for (int level = 0; level < kLevels; level++) {
    double after = level == kLevels - 1 ? 1.0 : below(level + 0.5);
    constexpr double kWhole = kLevels << NoiseTable::kBits;
    masses[level] = static_cast<int>(std::lround(after * kWhole) - std::lround(before * kWhole));
    before = after;
  }
  return masses;
}

// Source: Vose 1991, "A linear algorithm for generating random numbers with a given distribution"; in whole numbers.
inline void FillNoise(NoiseTable& table, int channel, double mean, double deviation) {
  std::vector<int> masses = NormalLevels(mean, std::max(deviation, 1e-9));
  constexpr int kFull = 1 << NoiseTable::kBits;
  std::vector<int> small, large;
  for (int level = 0; level < kLevels; level++) (masses[level] < kFull ? small : large).push_back(level);
  for (int level = 0; level < kLevels; level++)
    table.limit[channel][level] = kFull, table.other[channel][level] = static_cast<Byte>(level);
  while (!small.empty() && !large.empty()) {
    int poor = small.back(), rich = large.back();
    small.pop_back();
    table.limit[channel][poor] = static_cast<unsigned short>(masses[poor]);
    table.other[channel][poor] = static_cast<Byte>(rich);
    masses[rich] -= kFull - masses[poor];
    if (masses[rich] >= kFull) continue;
    large.pop_back();
    small.push_back(rich);
  }
}

}  // namespace dali_mix::augment

#endif  // DALI_MIX_AUGMENT_NOISE_TABLE_H_
