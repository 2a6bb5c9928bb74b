// What Python asks of the library beside its operators.
#include <cstddef>
#include <cstring>

#include "augment/self_check.h"
#include "driver.h"
#include "philox.h"

extern "C" {

__attribute__((visibility("default"))) void dali_mix_add_kernels(int arch, const void* data, size_t size) {
  dali_mix::AddKernels(arch, data, size);
}

// 0 if the generator gives the known answer of its authors (Random123, kat_vectors) and the fast loops give what is
// computed pixel by pixel, else 1.
__attribute__((visibility("default"))) int dali_mix_self_check() {
  const dali_mix::Word32 expected[] = {0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1};
  dali_mix::Numbers counter = {{0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344}};
  dali_mix::Numbers found = dali_mix::Philox(counter, 0xA4093822, 0x299F31D0);
  return std::memcmp(found.at, expected, sizeof(expected)) != 0 || !dali_mix::augment::RowsAgree();
}
}
