// Mixing pixels on the GPU: one kernel for the batch.
#include <algorithm>
#include <string>
#include <vector>

#include "dali/kernels/dynamic_scratchpad.h"
#include "driver.h"
#include "pixels.h"
#include "pixels_kernel.h"
#include "require.h"

namespace dali_mix {

using dali::GPUBackend;
using dali::make_string;
using dali::Workspace;

class PixelsGpu : public Pixels<GPUBackend> {
 public:
  using Pixels::Pixels;

 protected:
  void RunImpl(Workspace& ws) override {
    std::vector<Sample> samples = Samples(ws);
    if (samples.empty()) return;
    const auto& images = ws.Input<GPUBackend>(0);
    int channels = static_cast<int>(images.tensor_shape_span(0)[2]);
    Normalization by = Normalizes() ? NormalizationFor(channels) : Normalization{};
    int64_t longest = 0;
    for (const Sample& sample : samples) longest = std::max(longest, int64_t{sample.height} * sample.width * channels);
    if (longest == 0) return;
    DALI_MIX_REQUIRE(longest < int64_t{1} << 31, "an image has ", longest, " values, more than 2^31");
    // A grid has at most 65,535 rows.
    for (size_t first = 0; first < samples.size(); first += kMaxRows) {
      size_t count = std::min(samples.size() - first, kMaxRows);
      Launch(ws, samples.data() + first, count, channels, by, longest);
    }
  }

 private:
  static constexpr size_t kMaxRows = 65535;

  void Launch(Workspace& ws, const Sample* samples, size_t count, int channels, Normalization by, int64_t longest) {
    dali::kernels::DynamicScratchpad scratchpad(ws.stream());
    auto* pinned = scratchpad.AllocatePinned<Sample>(count);  // from pageable memory the copy would hold the host up
    std::copy(samples, samples + count, pinned);
    auto* on_device = scratchpad.AllocateGPU<Sample>(count);
    CUDA_CALL(cudaMemcpyAsync(on_device, pinned, count * sizeof(Sample), cudaMemcpyHostToDevice, ws.stream()));
    constexpr int64_t kPerBlock = int64_t{kThreads} * kPerThread;
    void* arguments[] = {&on_device, &channels, &by};
    LaunchKernel(FindKernel(KernelName(ws)), static_cast<unsigned>((longest + kPerBlock - 1) / kPerBlock),
                 static_cast<unsigned>(count), kThreads, ws.stream(), arguments);
  }

  std::string KernelName(const Workspace& ws) const {
    std::string in = ws.Input<GPUBackend>(0).type() == DALI_UINT8 ? "uint8" : "float";
    if (!Normalizes()) return "mix_" + in;
    return "normalize_" + in + "_to_" + (ws.Output<GPUBackend>(0).type() == DALI_FLOAT16 ? "half" : "float");
  }
};

}  // namespace dali_mix

DALI_REGISTER_OPERATOR(dali_mix__Pixels, dali_mix::PixelsGpu, dali::GPU);
