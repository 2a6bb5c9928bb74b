// The operator that takes images through their steps, as far as both backends share it.
#ifndef DALI_MIX_AUGMENT_AUGMENT_H_
#define DALI_MIX_AUGMENT_AUGMENT_H_

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "augment/noise_table.h"
#include "augment/passes.h"
#include "dali/pipeline/operator/checkpointing/stateless_operator.h"
#include "require.h"

namespace dali_mix {

template <typename Backend>
class Augment : public dali::StatelessOperator<Backend> {
 public:
  explicit Augment(const dali::OpSpec& spec) : dali::StatelessOperator<Backend>(spec) {
    auto fill = spec.GetRepeatedArgument<int>("fill");
    auto mean = spec.GetRepeatedArgument<float>("mean"), std = spec.GetRepeatedArgument<float>("std");
    DALI_MIX_REQUIRE(fill.size() == 3 && mean.size() == 3 && std.size() == 3,
                     "fill, mean and std must have three values each");
    for (int c = 0; c < 3; c++) {
      DALI_MIX_REQUIRE(fill[c] >= 0 && fill[c] <= 255, "fill must be levels from 0 to 255, got ", fill[c]);
      DALI_MIX_REQUIRE(std::isfinite(mean[c]) && std::isfinite(std[c]) && std[c] >= 0,
                       "mean and std must be finite, std not negative");
      settings_.fill[c] = static_cast<Byte>(fill[c]);
      augment::FillNoise(settings_.noise, c, mean[c], std[c]);
    }
    auto remode = spec.GetArgument<std::string>("remode");
    DALI_MIX_REQUIRE(remode == "const" || remode == "rand" || remode == "pixel",
                     "remode must be const, rand or pixel, got ", remode);
    settings_.remode = remode == "const"  ? augment::Remode::kConst
                       : remode == "rand" ? augment::Remode::kRand
                                          : augment::Remode::kPixel;
  }

 protected:
  bool SetupImpl(std::vector<dali::OutputDesc>& outputs, const dali::Workspace& ws) override {
    const auto& images = ws.template Input<Backend>(0);
    const auto& steps = ws.template Input<dali::CPUBackend>(1);
    DALI_MIX_REQUIRE(images.type() == DALI_UINT8, "images must be uint8, got ", images.type(),
                     "; augment before they are normalized");
    DALI_MIX_REQUIRE(images.sample_dim() == 3 && (images.GetLayout().empty() || images.GetLayout() == "HWC"),
                     "images must be (H, W, 3), got ", images.sample_dim(), " dimensions, layout \"",
                     images.GetLayout(), "\"; augment before the layout is changed");
    for (int i = 0; i < images.num_samples(); i++) {
      auto shape = images.tensor_shape_span(i);
      DALI_MIX_REQUIRE(shape[2] == 3, "images must have three channels, image ", i, " has ", shape[2],
                       "; decode with output_type=types.RGB");
      DALI_MIX_REQUIRE(shape[0] * shape[1] < (int64_t{1} << 31) / 3, "image ", i, " has ", shape[0], " x ", shape[1],
                       " pixels, too many to count");
    }
    DALI_MIX_REQUIRE(steps.type() == DALI_FLOAT64 && steps.sample_dim() == 2,
                     "steps must be float64 (S, 4), as augment_plan gives them");
    outputs = {{images.shape(), DALI_UINT8}};
    return true;
  }

  // What image i goes through.
  augment::PassList Passes(const dali::Workspace& ws, int i) const {
    auto shape = ws.template Input<Backend>(0).tensor_shape_span(i);
    const auto& steps = ws.template Input<dali::CPUBackend>(1);
    auto extent = steps.tensor_shape_span(i);
    DALI_MIX_REQUIRE(extent[1] == augment::kStepNumbers, "steps must be float64 (S, 4), got ", extent[1], " columns");
    augment::PassList passes(settings_, static_cast<int>(shape[0]), static_cast<int>(shape[1]));
    const double* rows = steps.tensor<double>(i);
    DALI_MIX_REQUIRE(std::all_of(rows, rows + extent[0] * extent[1], [](double value) { return std::isfinite(value); }),
                     "steps must be finite, those of image ", i, " are not");
    if (shape[0] && shape[1])
      for (int s = 0; s < extent[0]; s++) passes.Add(augment::ReadStep(rows + s * augment::kStepNumbers));
    return passes;
  }

  augment::Settings settings_;
};

}  // namespace dali_mix

#endif  // DALI_MIX_AUGMENT_AUGMENT_H_
