// The arithmetic of one value of a mixed image: one source for the host and for the kernel, which NVRTC compiles
// without any standard header.  Both sides are compiled without contraction to fused multiply-add, so that they agree.
#ifndef DALI_MIX_PIXEL_H_
#define DALI_MIX_PIXEL_H_

#include "both.h"

namespace dali_mix {

constexpr int kMaxChannels = 16;

// One sample: where its pixels are, and what happens to them.  Boxes are half-open, in pixels.
struct Sample {
  const void *own, *partner;
  void* out;
  int height, width, partner_width;
  int y1, x1, y2, x2;                              // the target box, in the own image
  int source_y1, source_x1, source_y2, source_x2;  // what fills it, in the partner
  float weight;                                    // of the own image, inside the target box
  int mirrored, partner_mirrored;                  // flipped left to right before all else
};

// out = (value - mean) * scale, per channel.
struct Normalization {
  float mean[kMaxChannels], scale[kMaxChannels];
};

DALI_MIX_BOTH bool Inside(const Sample& sample, int y, int x) {
  return y >= sample.y1 && y < sample.y2 && x >= sample.x1 && x < sample.x2;
}

DALI_MIX_BOTH bool SameSize(const Sample& sample) {
  return sample.y2 - sample.y1 == sample.source_y2 - sample.source_y1 &&
         sample.x2 - sample.x1 == sample.source_x2 - sample.source_x1;
}

template <typename In>
DALI_MIX_BOTH float At(const void* pixels, int width, int mirrored, int channels, int y, int x, int channel) {
  long long pixel = static_cast<long long>(y) * width + (mirrored ? width - 1 - x : x);
  return static_cast<float>(static_cast<const In*>(pixels)[pixel * channels + channel]);
}

DALI_MIX_BOTH float Blend(float own, float other, float weight) { return own * weight + other * (1.0f - weight); }

// Where a place in the target lies in the source: the pixel before it, and how far on to the next.
DALI_MIX_BOTH void Locate(int place, int target, int source, int* before, int* after, float* fraction) {
  float position = (place + 0.5f) * source / target - 0.5f;
  position = position < 0 ? 0 : position;
  *before = static_cast<int>(position);
  *before = *before > source - 1 ? source - 1 : *before;
  *after = *before + 1 > source - 1 ? source - 1 : *before + 1;
  *fraction = position - *before;
}

// Bilinear, between the centres of the pixels, within the source box: torch's interpolate(mode="bilinear").
template <typename In>
DALI_MIX_RARE float Resampled(const Sample& sample, int channels, int y, int x, int channel) {
  int top, bottom, left, right;
  float down, across;
  Locate(y - sample.y1, sample.y2 - sample.y1, sample.source_y2 - sample.source_y1, &top, &bottom, &down);
  Locate(x - sample.x1, sample.x2 - sample.x1, sample.source_x2 - sample.source_x1, &left, &right, &across);
  float corner[2][2];
  for (int i = 0; i < 4; i++)
    corner[i / 2][i % 2] =
        At<In>(sample.partner, sample.partner_width, sample.partner_mirrored, channels,
               sample.source_y1 + (i / 2 ? bottom : top), sample.source_x1 + (i % 2 ? right : left), channel);
  float upper = corner[0][0] + (corner[0][1] - corner[0][0]) * across;
  float lower = corner[1][0] + (corner[1][1] - corner[1][0]) * across;
  return upper + (lower - upper) * down;
}

// What a mixed image has at a place, before it is rounded or normalised.
template <typename In>
DALI_MIX_BOTH float Mixed(const Sample& sample, int channels, int y, int x, int channel) {
  float own = 0;
  bool inside = Inside(sample, y, x);
  if (!inside || sample.weight != 0)  // what is covered is not read, and so may be anything
    own = At<In>(sample.own, sample.width, sample.mirrored, channels, y, x, channel);
  if (!inside) return own;
  float other = SameSize(sample) ? At<In>(sample.partner, sample.partner_width, sample.partner_mirrored, channels,
                                          y - sample.y1 + sample.source_y1, x - sample.x1 + sample.source_x1, channel)
                                 : Resampled<In>(sample, channels, y, x, channel);
  return sample.weight == 0 ? other : Blend(own, other, sample.weight);
}

DALI_MIX_BOTH float Normalized(const Normalization& normalization, float value, int channel) {
  return (value - normalization.mean[channel]) * normalization.scale[channel];
}

struct Half {
  unsigned short bits;
};

// To the nearest float16, ties to even, as the hardware does it; in integers, so that both sides do the same.
DALI_MIX_BOTH Half ToHalf(float value) {
  union {
    float number;
    unsigned bits;
  } of = {value};
  unsigned sign = (of.bits >> 16) & 0x8000u, magnitude = of.bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return {static_cast<unsigned short>(sign | 0x7E00u)};   // not a number
  if (magnitude >= 0x47800000u) return {static_cast<unsigned short>(sign | 0x7C00u)};  // 65536 and more: infinite
  if (magnitude < 0x38800000u) {  // less than 2^-14: adding 1/2 leaves multiples of 2^-24 in the last bits
    of.bits = magnitude;
    of.number += 0.5f;
    return {static_cast<unsigned short>(sign | (of.bits - 0x3F000000u))};
  }
  unsigned odd = (magnitude >> 13) & 1u;  // for ties
  return {static_cast<unsigned short>(sign | ((magnitude - 0x38000000u + 0xFFFu + odd) >> 13))};
}

// To the nearest level; a blend of levels needs no clamp.
DALI_MIX_BOTH unsigned char Level(float value) { return static_cast<unsigned char>(value + 0.5f); }

}  // namespace dali_mix

#endif  // DALI_MIX_PIXEL_H_
