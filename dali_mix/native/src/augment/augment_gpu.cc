// Augmentation on the GPU: few kernels for the whole batch, as many as the longest list of passes is long.
#include <algorithm>
#include <vector>

#include "augment/augment.h"
#include "augment/schedule.h"
#include "dali/kernels/dynamic_scratchpad.h"
#include "driver.h"

namespace dali_mix {

using dali::GPUBackend;
using dali::Workspace;

class AugmentGpu : public Augment<GPUBackend> {
 public:
  using Augment<GPUBackend>::Augment;

 protected:
  void RunImpl(Workspace& ws) override {
    const auto& images = ws.Input<GPUBackend>(0);
    auto& out = ws.Output<GPUBackend>(0);
    out.SetLayout(images.GetLayout());
    dali::kernels::DynamicScratchpad scratchpad(ws.stream());
    settings_.noise_where_passes_run = ToGpu(scratchpad, ws, &settings_.noise, 1);
    augment::Schedule schedule;
    for (int i = 0; i < images.num_samples(); i++)
      schedule.Add(Passes(ws, i), images.tensor<uint8_t>(i), out.mutable_tensor<uint8_t>(i),
                   images.shape().tensor_size(i));
    size_t entries = schedule.tables() * 3 * augment::kLevels;
    auto* histograms = scratchpad.AllocateGPU<Word32>(entries);
    if (entries) CUDA_CALL(cudaMemsetAsync(histograms, 0, entries * sizeof(Word32), ws.stream()));
    schedule.Lay(scratchpad.AllocateGPU<Byte>(schedule.bytes()), scratchpad.AllocateGPU<float>(schedule.floats()),
                 histograms, scratchpad.AllocateGPU<Byte>(entries));
    const auto& passes = schedule.passes();
    auto* on_device = ToGpu(scratchpad, ws, passes.data(), passes.size());
    for (const augment::Launch& launch : schedule.launches()) Run(ws, launch, on_device);
  }

 private:
  static constexpr int kThreads = 256, kMostRows = 65535;  // a grid has no more rows

  // Through pinned memory: from pageable memory the copy would hold the host up.
  template <typename T>
  static T* ToGpu(dali::kernels::DynamicScratchpad& scratchpad, const Workspace& ws, const T* values, size_t count) {
    auto* pinned = scratchpad.AllocatePinned<T>(count);
    std::copy(values, values + count, pinned);
    auto* on_device = scratchpad.AllocateGPU<T>(count);
    if (count) CUDA_CALL(cudaMemcpyAsync(on_device, pinned, count * sizeof(T), cudaMemcpyHostToDevice, ws.stream()));
    return on_device;
  }

  static void Run(const Workspace& ws, const augment::Launch& launch, const augment::Pass* passes) {
    static constexpr const char* kNames[] = {"augment_histograms", "augment_tables", "augment_pixels"};
    int blocks = (launch.pixels + kThreads - 1) / kThreads;
    // A block of a histogram has counters of its own to add up, so that it should count many pixels.
    if (launch.kernel == augment::Kernel::kHistograms) blocks = (blocks + 15) / 16;
    if (launch.kernel == augment::Kernel::kTables) blocks = 1;
    if (blocks == 0) return;  // no pixels
    CUfunction kernel = FindKernel(kNames[static_cast<int>(launch.kernel)]);
    for (int first = 0; first < launch.count; first += kMostRows) {
      const augment::Pass* here = passes + launch.first + first;
      void* arguments[] = {&here};
      LaunchKernel(kernel, blocks, std::min(launch.count - first, kMostRows), kThreads, ws.stream(), arguments);
    }
  }
};

}  // namespace dali_mix

DALI_REGISTER_OPERATOR(dali_mix__Augment, dali_mix::AugmentGpu, dali::GPU);
