// The label side of every mix.
#ifndef DALI_MIX_SOFT_TARGETS_H_
#define DALI_MIX_SOFT_TARGETS_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "dali/core/static_switch.h"
#include "dali/pipeline/data/types.h"
#include "dali/pipeline/operator/operator.h"
#include "require.h"

namespace dali_mix {

// on = 1 - s + s / K and off = s / K, as in timm's Mixup.
class SoftTargets {
 public:
  SoftTargets(int num_classes, double smoothing)
      : num_classes_(num_classes),
        off_(static_cast<float>(smoothing / num_classes)),
        on_(static_cast<float>(1 - smoothing + smoothing / num_classes)) {}

  // Labels () or (1,) of any integer type but bytes, which are text, as class numbers.
  std::vector<int> Read(const dali::TensorList<dali::CPUBackend>& labels) const {
    std::vector<int> classes(labels.num_samples());
    DALI_MIX_REQUIRE(
        labels.type() != DALI_UINT8,
        "soft_targets: labels must be integers, got bytes (uint8); those of text, as WebDataset's cls, are "
        "digits to parse, see docs/soft_targets.md, and numbers are cast by fn.cast(labels, "
        "dtype=types.INT32)");
    TYPE_SWITCH(
        labels.type(), dali::type2id, Label, (int8_t, uint16_t, int16_t, uint32_t, int32_t, uint64_t, int64_t),
        (for (int i = 0; i < labels.num_samples(); i++) {
          DALI_MIX_REQUIRE(volume(labels.tensor_shape_span(i)) == 1,
                           "soft_targets: labels must be one class number per sample, got shape (",
                           labels.tensor_shape(i), ") in sample ", i, "; one-hot rows go through fn.arg_max first");
          auto label = *labels.tensor<Label>(i);
          DALI_MIX_REQUIRE(label >= 0 && static_cast<uint64_t>(label) < static_cast<uint64_t>(num_classes_),
                           "soft_targets: label ", +label, " of sample ", i, " lies outside [0, ", num_classes_,
                           "); num_classes must be the number of classes");
          classes[i] = static_cast<int>(label);
        }),
        (DALI_FAIL(dali::make_string("soft_targets: labels must be integers, got ", labels.type()))));  // NOLINT
    return classes;
  }

  void Write(float* row, int own, int partner, float lam) const {
    std::fill(row, row + num_classes_, off_);
    // Where there is one class only it is exact, and no third value remains from rounding.
    if (own == partner || lam == 1) {
      row[own] = on_;
    } else if (lam == 0) {
      row[partner] = on_;
    } else {
      row[own] = off_ + (on_ - off_) * lam;
      row[partner] = on_ + (off_ - on_) * lam;
    }
  }

 private:
  int num_classes_;
  float off_, on_;
};

}  // namespace dali_mix

#endif  // DALI_MIX_SOFT_TARGETS_H_
