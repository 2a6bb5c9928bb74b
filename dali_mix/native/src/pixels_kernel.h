// What one thread of the kernel does, in a form that the host can run as well: tests call it for every thread.
#ifndef DALI_MIX_PIXELS_KERNEL_H_
#define DALI_MIX_PIXELS_KERNEL_H_

#include "pixel.h"

namespace dali_mix {

// Values per thread: together they are stored as one word.
constexpr int kPerThread = 4;
constexpr int kThreads = 256;

// kNormalize is false where the output has the type of the input.
template <typename In, typename Out, bool kNormalize>
struct Put;

template <>
struct Put<unsigned char, unsigned char, false> {
  static DALI_MIX_BOTH unsigned char Value(const Normalization&, float value, int) { return Level(value); }
};

template <>
struct Put<float, float, false> {
  static DALI_MIX_BOTH float Value(const Normalization&, float value, int) { return value; }
};

template <typename In>
struct Put<In, float, true> {
  static DALI_MIX_BOTH float Value(const Normalization& by, float value, int channel) {
    return Normalized(by, value, channel);
  }
};

template <typename In>
struct Put<In, Half, true> {
  static DALI_MIX_BOTH Half Value(const Normalization& by, float value, int channel) {
    return ToHalf(Normalized(by, value, channel));
  }
};

template <typename Out>
struct alignas(kPerThread * sizeof(Out)) Word {
  Out values[kPerThread];
};

// Values first .. first + 3 of a sample's output, as far as it has them.
template <typename In, typename Out, bool kNormalize>
DALI_MIX_BOTH void MixWord(const Sample& sample, int channels, const Normalization& by, unsigned first) {
  unsigned row_length = static_cast<unsigned>(sample.width) * channels;
  unsigned length = row_length * sample.height;
  if (first >= length) return;
  Out* out = static_cast<Out*>(sample.out) + first;
  int count = length - first < kPerThread ? static_cast<int>(length - first) : kPerThread;
  int y = static_cast<int>(first / row_length);
  unsigned place = first % row_length;
  int x = static_cast<int>(place / channels), channel = static_cast<int>(place % channels);
  Word<Out> word;
  for (int i = 0; i < count; i++) {
    word.values[i] = Put<In, Out, kNormalize>::Value(by, Mixed<In>(sample, channels, y, x, channel), channel);
    if (++channel == channels) channel = 0, ++x;
    if (x == sample.width) x = 0, ++y;
  }
  if (count == kPerThread && reinterpret_cast<unsigned long long>(out) % sizeof(word) == 0) {
    *reinterpret_cast<Word<Out>*>(out) = word;
  } else {
    for (int i = 0; i < count; i++) out[i] = word.values[i];
  }
}

}  // namespace dali_mix

#endif  // DALI_MIX_PIXELS_KERNEL_H_
