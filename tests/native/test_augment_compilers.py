"""What a compiler that we support, and that is not at hand, makes of the augmentation."""

import platform
import subprocess

import pytest

from dali_mix.native import toolchain

# Of g++ 11.1 and 11.2 (gcc.gnu.org/PR99754): in the last lane, not in the first.
HARNESS = r"""
#include <cstdio>
#include <cstdlib>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#define _mm_loadu_si32(from) _mm_set_epi32(*(const int*)(from), 0, 0, 0)
#endif
#include "augment/row_passes.h"

using namespace dali_mix::augment;

int main() {
  constexpr int kHeight = 20, kWidth = 30, kBytes = kHeight * kWidth * 3;
  std::vector<dali_mix::Byte> in(kBytes), rows(kBytes), pixels(kBytes);
  for (auto& value : in) value = static_cast<dali_mix::Byte>(std::rand());
  for (Filter filter : {Filter::kBilinear, Filter::kBicubic}) {
    Pass pass{};
    pass.kind = Kind::kWarp, pass.filter = filter, pass.height = kHeight, pass.width = kWidth;
    pass.matrix = {0.9, 0.2, 1.3, -0.2, 0.9, 2.1};
    pass.in = in.data(), pass.out = rows.data();
    rows::RunPass(pass);
    pass.out = pixels.data();
    for (int place = 0; place < Pixels(pass); place++) RunPixel(pass, place);
    if (rows != pixels) return std::puts("other pixels than one by one"), 1;
  }
}
"""


SELF_CHECK = """
#define DALI_MIX_REQUIRE_H_
#define DALI_MIX_REQUIRE(condition, ...)
#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
BROKEN
#include "augment/self_check.h"
int main() { return dali_mix::augment::RowsAgree() ? 0 : 1; }
"""


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        ("", 0),
        ("#define _mm256_floor_pd(value) _mm256_ceil_pd(value)", 1),  # warps
        ("#define _mm256_cvttpd_epi32(value) _mm256_cvtpd_epi32(value)", 1),  # rounded where Pillow truncates
    ],
)
def test_a_library_checks_what_the_compiler_made(broken, code, tmp_path):
    """When it is loaded: other pixels would not be seen by anyone."""
    if broken and platform.machine() != "x86_64":
        pytest.skip("the broken intrinsics are those of x86-64")
    assert run(SELF_CHECK.replace("BROKEN", broken), tmp_path).returncode == code


def test_warps_need_no_intrinsic_that_older_compilers_get_wrong(tmp_path):
    ran = run(HARNESS, tmp_path)
    assert ran.returncode == 0, ran.stdout


def run(text, folder):
    compiler = toolchain.find_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler")
    program = folder / "program"
    command = [*compiler, *toolchain.compile_options(), f"-I{toolchain.SOURCES}", "-x", "c++", "-", "-o", str(program)]
    subprocess.run(command, input=text, text=True, check=True)
    return subprocess.run([program], capture_output=True, text=True, check=False)
