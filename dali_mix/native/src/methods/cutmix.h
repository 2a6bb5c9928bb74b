// CutMix (Yun et al., ICCV 2019, arXiv 1905.04899).
#ifndef DALI_MIX_METHODS_CUTMIX_H_
#define DALI_MIX_METHODS_CUTMIX_H_

#include <algorithm>
#include <cmath>

#include "../distributions.h"
#include "method.h"

namespace dali_mix {

inline Placement Pasted(const Box& box, Size size) {
  return {box, box, 0.0f, static_cast<float>(1 - Share(box, size))};
}

// Section 3.1 and Appendix A, Algorithm A1: centre anywhere in the image, side `size * sqrt(1 - lam)`, clipped, then
// rounded to whole pixels.
class CutMix : public Method {
 public:
  explicit CutMix(double alpha) : alpha_(alpha) {}

  Placement Draw(Stream& stream, Size size) const override {
    double y = stream.Uniform(), x = stream.Uniform();
    // The distribution is symmetric, so the pasted share is drawn as well as the own one.
    double half = std::sqrt(SymmetricBeta(stream, alpha_)) / 2;
    return Pasted({Edge(y - half, size.height), Edge(x - half, size.width), Edge(y + half, size.height),
                   Edge(x + half, size.width)},
                  size);
  }

 private:
  static int Edge(double share, int length) {
    return static_cast<int>(std::lround(std::clamp(share, 0.0, 1.0) * length));
  }

  double alpha_;
};

// Sides drawn independently between two shares of the image's, the box wholly inside.
// Source: timm 1.0.31, timm/data/mixup.py, rand_bbox_minmax; here the largest side can be drawn, too.
class CutMixBetween : public Method {
 public:
  CutMixBetween(double smallest, double largest) : smallest_(smallest), largest_(largest) {}

  Placement Draw(Stream& stream, Size size) const override {
    auto [y1, y2] = Stretch(stream, size.height);
    auto [x1, x2] = Stretch(stream, size.width);
    return Pasted({y1, x1, y2, x2}, size);
  }

 private:
  // Downwards; the shares arrive as float32, in which 0.7 is a little less than that.
  static int Whole(double length) { return static_cast<int>(length + 1e-4); }

  std::pair<int, int> Stretch(Stream& stream, int length) const {
    int low = Whole(smallest_ * length), high = Whole(largest_ * length);
    int side = low + stream.Below(high - low + 1);
    int start = stream.Below(length - side + 1);
    return {start, start + side};
  }

  double smallest_, largest_;
};

}  // namespace dali_mix

#endif  // DALI_MIX_METHODS_CUTMIX_H_
