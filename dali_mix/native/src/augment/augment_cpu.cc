// Augmentation on the CPU: image after image, in DALI's thread pool.
#include <vector>

#include "augment/augment.h"
#include "augment/row_passes.h"

namespace dali_mix {

using dali::CPUBackend;
using dali::Workspace;

namespace augment {

// What one thread needs of its own.
struct Scratch {
  std::vector<Byte> image, tables = std::vector<Byte>(3 * kLevels);
  std::vector<Word32> histogram = std::vector<Word32>(3 * kLevels);
  std::vector<float> floats;
};

}  // namespace augment

class AugmentCpu : public Augment<CPUBackend> {
 public:
  explicit AugmentCpu(const dali::OpSpec& spec) : Augment<CPUBackend>(spec) {
    settings_.noise_where_passes_run = &settings_.noise;
  }

 protected:
  void RunImpl(Workspace& ws) override {
    const auto& images = ws.Input<CPUBackend>(0);
    auto& out = ws.Output<CPUBackend>(0);
    out.SetLayout(images.GetLayout());
    auto& pool = ws.GetThreadPool();
    int n = images.num_samples();
    scratch_.resize(pool.NumThreads());
    // Few jobs: each costs as much as an image of 32 pixels.  A chunk's images lie far apart, so that chunks are alike.
    int chunks = std::min(n, kChunksPerThread * pool.NumThreads());
    for (int chunk = 0; chunk < chunks; chunk++)
      pool.AddWork([=, this, &ws](int thread) {
        for (int i = chunk; i < n; i += chunks) Run(ws, i, scratch_[thread]);
      });
    pool.RunAll();
  }

 private:
  static constexpr int kChunksPerThread = 8;

  void Run(Workspace& ws, int i, augment::Scratch& scratch) const {
    const auto& images = ws.Input<CPUBackend>(0);
    augment::PassList list = Passes(ws, i);
    size_t bytes = images.tensor_shape_span(i)[0] * images.tensor_shape_span(i)[1] * 3;
    if (list.Moving() > 1) scratch.image.resize(std::max(scratch.image.size(), bytes));
    if (list.Has(augment::Kind::kGaussAcross)) scratch.floats.resize(std::max(scratch.floats.size(), bytes));
    auto* to = ws.Output<CPUBackend>(0).mutable_tensor<uint8_t>(i);
    for (augment::Pass& pass : list.Route(images.tensor<uint8_t>(i), to, scratch.image.data())) {
      pass.tables = scratch.tables.data(), pass.histogram = scratch.histogram.data();
      pass.floats = scratch.floats.data();
      augment::rows::RunPass(pass);
    }
  }

  std::vector<augment::Scratch> scratch_;
};

}  // namespace dali_mix

DALI_SCHEMA(dali_mix__Augment)
    .DocStr(
        R"(Take each image through its steps, as Pillow would: to the level, but for what docs/augmentation.md lists.

An image costs what its own steps cost; one without any is copied. The output is like the images.)")
    .NumInput(2)
    .InputDevice(1, ::dali::InputDevice::CPU)
    .InputDox(0, "images", "uint8 (H, W, 3)", "Layout HWC.")
    .InputDox(1, "steps", "float64 (S, 4)", "As ``augment_plan`` gives them.")
    .NumOutput(1)
    .AddOptionalArg("fill", "Levels of what a warp uncovers, and of what is erased where remode is \"const\".",
                    std::vector<int>{128, 128, 128})
    .AddOptionalArg("remode", "What is erased becomes \"const\", \"rand\" (one normal color) or \"pixel\" (noise).",
                    "pixel")
    .AddOptionalArg("mean", "Of the noise, in levels.", std::vector<float>{128, 128, 128})
    .AddOptionalArg("std", "Of the noise, in levels.", std::vector<float>{64, 64, 64});
DALI_REGISTER_OPERATOR(dali_mix__Augment, dali_mix::AugmentCpu, dali::CPU);
