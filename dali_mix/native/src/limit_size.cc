// Stops a pipeline at an image that is too large, before memory is taken for it.
#include <cstdint>

#include "dali/pipeline/operator/checkpointing/stateless_operator.h"
#include "require.h"

namespace dali_mix {

class LimitSize : public dali::StatelessOperator<dali::CPUBackend> {
 public:
  explicit LimitSize(const dali::OpSpec& spec)
      : StatelessOperator<dali::CPUBackend>(spec), max_pixels_(spec.GetArgument<int64_t>("max_pixels")) {}

  bool HasContiguousOutputs() const override { return false; }

 protected:
  bool SetupImpl(std::vector<dali::OutputDesc>&, const dali::Workspace&) override { return false; }

  void RunImpl(dali::Workspace& ws) override {
    const auto &encoded = ws.Input<dali::CPUBackend>(0), &shapes = ws.Input<dali::CPUBackend>(1);
    DALI_MIX_REQUIRE(shapes.type() == DALI_INT64, "shape must be int64, got ", shapes.type());
    for (int i = 0; i < shapes.num_samples(); i++) {
      const int64_t* shape = shapes.tensor<int64_t>(i);
      // Division, because the product of two claimed sides may not fit.
      DALI_MIX_REQUIRE(shape[0] <= 0 || shape[1] <= max_pixels_ / shape[0], "an image has more than ", max_pixels_,
                       " pixels (", shape[0], " x ", shape[1], "), remove it: ", encoded.GetMeta(i).GetSourceInfo());
    }
    ws.Output<dali::CPUBackend>(0).ShareData(encoded);
  }

 private:
  int64_t max_pixels_;
};

}  // namespace dali_mix

DALI_SCHEMA(dali_mix__LimitSize)
    .DocStr("Pass encoded images on; fails for an image of more than ``max_pixels``. Nothing is copied.")
    .NumInput(2)
    .InputDevice(0, 2, ::dali::InputDevice::CPU)
    .InputDox(0, "encoded", "uint8 (bytes)", "Encoded images.")
    .InputDox(1, "shape", "int64 (3)", "Their height, width and channels, from ``peek_image_shape``.")
    .NumOutput(1)
    .PassThrough({{0, 0}})
    .AddArg("max_pixels", "Largest product of height and width.", DALI_INT64);
DALI_REGISTER_OPERATOR(dali_mix__LimitSize, dali_mix::LimitSize, dali::CPU);
