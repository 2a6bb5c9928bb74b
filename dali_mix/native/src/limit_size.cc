// Stops a pipeline at an image, or a batch, that is too large, before memory is taken for its pixels.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "dali/pipeline/operator/checkpointing/stateless_operator.h"
#include "require.h"

namespace dali_mix {

class LimitSize : public dali::StatelessOperator<dali::CPUBackend> {
 public:
  explicit LimitSize(const dali::OpSpec& spec)
      : StatelessOperator<dali::CPUBackend>(spec),
        max_pixels_(spec.GetArgument<int64_t>("max_pixels")),
        max_batch_pixels_(spec.GetArgument<int64_t>("max_batch_pixels")),
        max_bytes_(spec.GetArgument<int64_t>("max_bytes")) {}

  bool HasContiguousOutputs() const override { return false; }

 protected:
  bool SetupImpl(std::vector<dali::OutputDesc>&, const dali::Workspace&) override { return false; }

  void RunImpl(dali::Workspace& ws) override {
    const auto &encoded = ws.Input<dali::CPUBackend>(0), &shapes = ws.Input<dali::CPUBackend>(1);
    DALI_MIX_REQUIRE(shapes.type() == DALI_INT64, "shape must be int64, got ", shapes.type());
    std::vector<int64_t> pixels(shapes.num_samples());
    for (int i = 0; i < shapes.num_samples(); i++) {
      const int64_t* shape = shapes.tensor<int64_t>(i);
      DALI_MIX_REQUIRE(encoded.tensor_shape_span(i)[0] <= max_bytes_, "a file has more than ", max_bytes_,
                       " bytes, remove it: ", Name(encoded, i));
      // Division, because the product of two claimed sides may not fit.
      DALI_MIX_REQUIRE(shape[0] <= 0 || shape[1] <= max_pixels_ / shape[0], "an image has more than ", max_pixels_,
                       " pixels (", shape[0], " x ", shape[1], "), remove it: ", Name(encoded, i));
      pixels[i] = std::max<int64_t>(shape[0], 0) * std::max<int64_t>(shape[1], 0);
    }
    RequireRoom(encoded, shapes, pixels);
    ws.Output<dali::CPUBackend>(0).ShareData(encoded);
  }

 private:
  using Batch = dali::TensorList<dali::CPUBackend>;

  // None of the images is at fault, and so the message is not one that blames a file.
  void RequireRoom(const Batch& encoded, const Batch& shapes, const std::vector<int64_t>& pixels) const {
    constexpr double kMega = 1e6;
    const int64_t total = std::accumulate(pixels.begin(), pixels.end(), int64_t{0});
    if (total <= max_batch_pixels_) return;
    std::vector<int> order(pixels.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return pixels[a] > pixels[b]; });
    std::string largest;
    for (size_t n = 0; n < order.size() && n < 3; n++) {
      const int64_t* shape = shapes.tensor<int64_t>(order[n]);
      largest += dali::make_string(n ? ", " : "", Name(encoded, order[n]), " (", shape[1], " x ", shape[0], ")");
    }
    DALI_FAIL(dali::make_string("the ", pixels.size(), " images of a batch do not fit into memory together: ",
                                static_cast<int64_t>(total / kMega), " megapixels, the limit is ",
                                static_cast<int64_t>(max_batch_pixels_ / kMega),
                                "; use a smaller batch, or make the largest images smaller: ", largest));
  }

  // Only DALI's readers tell it; the loader knows which image has which number in a batch of its own.
  static std::string Name(const Batch& encoded, int i) {
    const std::string name = encoded.GetMeta(i).GetSourceInfo();
    return name.empty() ? dali::make_string("sample #", i) : name;
  }

  int64_t max_pixels_, max_batch_pixels_, max_bytes_;
};

}  // namespace dali_mix

DALI_SCHEMA(dali_mix__LimitSize)
    .DocStr("Pass encoded images on; fails for a file, an image or a batch above its limit. Nothing is copied.")
    .NumInput(2)
    .InputDevice(0, 2, ::dali::InputDevice::CPU)
    .InputDox(0, "encoded", "uint8 (bytes)", "Encoded images.")
    .InputDox(1, "shape", "int64 (3)", "Their height, width and channels, from ``peek_image_shape``.")
    .NumOutput(1)
    .PassThrough({{0, 0}})
    .AddArg("max_pixels", "Largest product of height and width.", DALI_INT64)
    .AddOptionalArg("max_batch_pixels", "Largest sum of these products.", std::numeric_limits<int64_t>::max())
    .AddOptionalArg("max_bytes", "Largest number of encoded bytes of an image.", std::numeric_limits<int64_t>::max());
DALI_REGISTER_OPERATOR(dali_mix__LimitSize, dali_mix::LimitSize, dali::CPU);
