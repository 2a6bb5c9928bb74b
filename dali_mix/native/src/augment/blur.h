// Two blurs: Pillow's GaussianBlur, which is three box blurs, and torchvision's, which is a Gaussian of 23 taps.
// Source: Pillow 13, libImaging/BoxBlur.c; torchvision 0.29, transforms/_functional_tensor.py.
#ifndef DALI_MIX_AUGMENT_BLUR_H_
#define DALI_MIX_AUGMENT_BLUR_H_

#include "augment/warp.h"
#include "both.h"

namespace dali_mix::augment {

constexpr int kBoxPasses = 3;
constexpr int kTaps = 23;

// A box of 2 radius + 1 whole values, of weight `whole` in 1 / 2^24, and half a value on each side, of `edge`.
struct Box1d {
  int radius;
  Word32 whole, edge;
};

// `in` is the first of a line's values, `stride` apart.
DALI_MIX_BOTH Byte BoxLevel(const Byte* in, int length, long long stride, int place, const Box1d& box) {
  Word32 sum = 0;
  for (int i = place - box.radius; i <= place + box.radius; i++) sum += in[Within(i, length) * stride];
  Word32 edges = in[Within(place - box.radius - 1, length) * stride];
  edges += in[Within(place + box.radius + 1, length) * stride];
  return static_cast<Byte>((sum * box.whole + edges * box.edge + (1u << 23)) >> 24);
}

// Reflected at the first and the last value, as often as it takes.
DALI_MIX_BOTH int Reflected(int place, int length) {
  if (length == 1) return 0;
  int period = 2 * (length - 1);
  place = (place < 0 ? -place : place) % period;
  return place < length ? place : period - place;
}

// `taps` begin in the middle: the two sides are equal.
template <typename Number>
DALI_MIX_BOTH float GaussianValue(const Number* in, int length, long long stride, int place, const float* taps) {
  float sum = 0;
  for (int i = -(kTaps / 2); i <= kTaps / 2; i++)
    sum += taps[i < 0 ? -i : i] * static_cast<float>(in[Reflected(place + i, length) * stride]);
  return sum;
}

// To the nearest level, ties to even, as torch.round does.
DALI_MIX_BOTH Byte NearestLevel(float value) {
  int whole = static_cast<int>(value);
  float rest = value - static_cast<float>(whole);
  whole += rest > 0.5f || (rest == 0.5f && (whole & 1));
  return static_cast<Byte>(whole > 255 ? 255 : whole);
}

}  // namespace dali_mix::augment

#endif  // DALI_MIX_AUGMENT_BLUR_H_
