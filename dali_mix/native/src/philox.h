// Random numbers without state: a pure function of a key and a position.
#ifndef DALI_MIX_PHILOX_H_
#define DALI_MIX_PHILOX_H_

#include "both.h"

namespace dali_mix {

struct Numbers {
  Word32 at[4];
};

// Philox4x32-10.  Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
DALI_MIX_BOTH Numbers Philox(Numbers counter, Word32 key0, Word32 key1) {
  for (int round = 0; round < 10; round++) {
    unsigned long long first = 0xD2511F53ull * counter.at[0], second = 0xCD9E8D57ull * counter.at[2];
    counter = {{static_cast<Word32>(second >> 32) ^ counter.at[1] ^ key0, static_cast<Word32>(second),
                static_cast<Word32>(first >> 32) ^ counter.at[3] ^ key1, static_cast<Word32>(first)}};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return counter;
}

// What the numbers are for: two roles with one key never share numbers.
enum class Role : Word32 { kPartner = 1, kMix = 2, kBranch = 3, kAugment = 4, kErase = 5, kNoise = 6 };

// An endless sequence of draws, told apart by key, role and index.
class Stream {
 public:
  Stream(unsigned long long key, Role role, Word32 index)
      : key_{static_cast<Word32>(key), static_cast<Word32>(key >> 32)},
        counter_{{0, index, static_cast<Word32>(role), 0}} {}

  // All bits of the next two numbers: the key of further streams.
  unsigned long long Key() {
    unsigned long long high = Next();
    return (high << 32) | Next();
  }

  // Uniform in (0, 1), in steps of 2^-52; never 0 or 1, so that its logarithm is finite.
  double Uniform() {
    unsigned long long high = Next(), low = Next();
    return (static_cast<double>((high << 20) | (low >> 12)) + 0.5) * 0x1p-52;
  }

  double Uniform(double low, double high) { return low + (high - low) * Uniform(); }

  // An integer in [0, n), for n up to 2^31: a bias of at most n / 2^52 is far below what any test can see.
  int Below(int n) { return static_cast<int>(Uniform() * n); }

  bool Chance(double probability) { return Uniform() < probability; }

 private:
  Word32 Next() {
    if (used_ == 4) {
      numbers_ = Philox(counter_, key_[0], key_[1]);
      counter_.at[0]++;
      used_ = 0;
    }
    return numbers_.at[used_++];
  }

  Word32 key_[2];
  Numbers counter_;
  Numbers numbers_{};
  int used_ = 4;
};

}  // namespace dali_mix

#endif  // DALI_MIX_PHILOX_H_
