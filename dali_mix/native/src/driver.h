// CUDA's driver, found when it is first needed: the library loads on machines without one.
#ifndef DALI_MIX_DRIVER_H_
#define DALI_MIX_DRIVER_H_

#include <cuda.h>

#include <string>

namespace dali_mix {

// Keep a compiled kernel file.  `arch` is 10 * major + minor of what it is compiled for, 0 for PTX.
void AddKernels(int arch, const void* data, size_t size);

// A kernel for the device that is current; loads the file that fits it best, once per device.
CUfunction FindKernel(const std::string& name);

void LaunchKernel(CUfunction kernel, unsigned grid_x, unsigned grid_y, unsigned threads, CUstream stream,
                  void** arguments);

}  // namespace dali_mix

#endif  // DALI_MIX_DRIVER_H_
