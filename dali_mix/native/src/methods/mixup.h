// Mixup (Zhang et al., ICLR 2018, arXiv 1710.09412).
#ifndef DALI_MIX_METHODS_MIXUP_H_
#define DALI_MIX_METHODS_MIXUP_H_

#include "../distributions.h"
#include "method.h"

namespace dali_mix {

// Section 2: both images and both labels, with one weight.
class Mixup : public Method {
 public:
  explicit Mixup(double alpha) : alpha_(alpha) {}

  Placement Draw(Stream& stream, Size size) const override {
    Box whole{0, 0, size.height, size.width};
    float lam = static_cast<float>(SymmetricBeta(stream, alpha_));
    return {whole, whole, lam, lam};
  }

 private:
  double alpha_;
};

}  // namespace dali_mix

#endif  // DALI_MIX_METHODS_MIXUP_H_
