// Marks what the host and the kernels share.  NVRTC compiles the kernels without any standard header; both sides are
// compiled without contraction to fused multiply-add, so that they agree to the bit.
#ifndef DALI_MIX_BOTH_H_
#define DALI_MIX_BOTH_H_

#ifdef __CUDACC__
#define DALI_MIX_BOTH __host__ __device__ inline
#define DALI_MIX_RARE __host__ __device__ __noinline__
#define DALI_MIX_WITHIN DALI_MIX_BOTH
#else
#define DALI_MIX_BOTH inline
#define DALI_MIX_RARE inline
// Never called but inlined: a caller for AVX2 would pass vectors as a callee for any processor does not expect them.
#define DALI_MIX_WITHIN inline __attribute__((always_inline))
#endif

namespace dali_mix {

using Byte = unsigned char;
using Word32 = unsigned int;

}  // namespace dali_mix

#endif  // DALI_MIX_BOTH_H_
