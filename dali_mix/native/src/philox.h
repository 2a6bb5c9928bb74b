// Random numbers without state: a pure function of a key and a position.
#ifndef DALI_MIX_PHILOX_H_
#define DALI_MIX_PHILOX_H_

#include <array>
#include <cstdint>

namespace dali_mix {

// Philox4x32-10.  Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
inline std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; round++) {
    uint64_t first = uint64_t{0xD2511F53} * counter[0];
    uint64_t second = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(second >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(second),
               static_cast<uint32_t>(first >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(first)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

// What the numbers are for: two roles with one key never share numbers.
enum class Role : uint32_t { kPartner = 1, kMix = 2, kBranch = 3 };

// An endless sequence of draws, told apart by key, role and index.
class Stream {
 public:
  Stream(uint64_t key, Role role, uint32_t index)
      : key_{static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)},
        counter_{0, index, static_cast<uint32_t>(role), 0} {}

  // All bits of the next two numbers: the key of further streams.
  uint64_t Key() {
    uint64_t high = Next();
    return (high << 32) | Next();
  }

  // Uniform in (0, 1), in steps of 2^-52; never 0 or 1, so that its logarithm is finite.
  double Uniform() {
    uint64_t high = Next(), low = Next();
    return (static_cast<double>((high << 20) | (low >> 12)) + 0.5) * 0x1p-52;
  }

  // An integer in [0, n), for n up to 2^31: a bias of at most n / 2^52 is far below what any test can see.
  int Below(int n) { return static_cast<int>(Uniform() * n); }

 private:
  uint32_t Next() {
    if (used_ == 4) {
      numbers_ = Philox(counter_, key_);
      counter_[0]++;
      used_ = 0;
    }
    return numbers_[used_++];
  }

  std::array<uint32_t, 2> key_;
  std::array<uint32_t, 4> counter_;
  std::array<uint32_t, 4> numbers_{};
  int used_ = 4;
};

}  // namespace dali_mix

#endif  // DALI_MIX_PHILOX_H_
