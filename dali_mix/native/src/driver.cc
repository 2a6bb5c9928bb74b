#include "driver.h"

#include <dlfcn.h>

#include <map>
#include <mutex>
#include <vector>

#include "dali/core/error_handling.h"
#include "require.h"

namespace dali_mix {

using dali::make_string;

namespace {

std::mutex mutex;

std::map<int, std::vector<char>>& Files() {
  static std::map<int, std::vector<char>> files;
  return files;
}

// cuda.h renames some functions to versioned ones; these names are the versioned ones.
template <typename Function>
Function* Symbol(const char* name) {
  static void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  DALI_MIX_REQUIRE(driver, "libcuda.so.1, the NVIDIA driver, cannot be loaded");
  auto* function = reinterpret_cast<Function*>(dlsym(driver, name));
  DALI_MIX_REQUIRE(function, "the NVIDIA driver has no function ", name);
  return function;
}

void Check(CUresult result, const char* what) {
  if (result == CUDA_SUCCESS) return;
  const char* text = nullptr;
  Symbol<decltype(cuGetErrorString)>("cuGetErrorString")(result, &text);
  DALI_FAIL(make_string(what, ": ", text ? text : "unknown error", " (", static_cast<int>(result), ")"));
}

int Attribute(CUdevice device, CUdevice_attribute attribute) {
  int value = 0;
  Check(Symbol<decltype(cuDeviceGetAttribute)>("cuDeviceGetAttribute")(&value, attribute, device),
        "cuDeviceGetAttribute");
  return value;
}

// Binary code runs on its own and on later minor versions of one major version; PTX, if new enough, on all.
const std::vector<char>& FileFor(CUdevice device) {
  int major = Attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
  int arch = 10 * major + Attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  auto after = Files().upper_bound(arch);
  if (after != Files().begin() && std::prev(after)->first / 10 == major) return std::prev(after)->second;
  auto ptx = Files().find(0);
  DALI_MIX_REQUIRE(ptx != Files().end(), "there is no kernel for a device of compute capability ", arch / 10, ".",
                   arch % 10, "; set DALI_MIX_NATIVE=off to use the portable graph");
  return ptx->second;
}

CUmodule ModuleOfCurrentDevice() {
  static std::map<CUdevice, CUmodule> modules;
  CUdevice device;
  Check(Symbol<decltype(cuCtxGetDevice)>("cuCtxGetDevice")(&device), "cuCtxGetDevice");
  auto found = modules.find(device);
  if (found != modules.end()) return found->second;
  CUmodule module;
  Check(Symbol<decltype(cuModuleLoadData)>("cuModuleLoadData")(&module, FileFor(device).data()), "cuModuleLoadData");
  return modules[device] = module;
}

}  // namespace

void AddKernels(int arch, const void* data, size_t size) {
  std::lock_guard guard(mutex);
  const char* bytes = static_cast<const char*>(data);
  auto& file = Files()[arch];
  file.assign(bytes, bytes + size);
  file.push_back('\0');  // PTX is read as text
}

CUfunction FindKernel(const std::string& name) {
  std::lock_guard guard(mutex);
  CUfunction kernel;
  Check(Symbol<decltype(cuModuleGetFunction)>("cuModuleGetFunction")(&kernel, ModuleOfCurrentDevice(), name.c_str()),
        "cuModuleGetFunction");
  return kernel;
}

void LaunchKernel(CUfunction kernel, unsigned grid_x, unsigned grid_y, unsigned threads, CUstream stream,
                  void** arguments) {
  Check(Symbol<decltype(cuLaunchKernel)>("cuLaunchKernel")(kernel, grid_x, grid_y, 1, threads, 1, 1, 0, stream,
                                                           arguments, nullptr),
        "cuLaunchKernel");
}

}  // namespace dali_mix
