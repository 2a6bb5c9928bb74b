// Whether the compiler has made of the fast loops what they say: a wrong one would change images without a word.
#ifndef DALI_MIX_AUGMENT_SELF_CHECK_H_
#define DALI_MIX_AUGMENT_SELF_CHECK_H_

#include <vector>

#include "augment/passes.h"
#include "augment/row_passes.h"

namespace dali_mix::augment {

// A small image through one step of each kind, by rows and pixel by pixel.
inline bool RowsAgree() {
  constexpr int kHeight = 21, kWidth = 27, kValues = kHeight * kWidth * 3;
  std::vector<Byte> in(kValues), by_rows(kValues), by_pixels(kValues);
  for (int i = 0; i < kValues; i++) in[i] = static_cast<Byte>(Philox({{static_cast<Word32>(i)}}, 0, 0).at[0]);
  std::vector<float> floats_by_rows(kValues), floats_by_pixels(kValues);
  const Settings settings{};
  constexpr double kBilinear = static_cast<int>(Filter::kBilinear), kBicubic = static_cast<int>(Filter::kBicubic);
  const Step steps[] = {{Op::kFlip, 1},
                        {Op::kColor, 1.9},
                        {Op::kSharpness, 1.9},
                        {Op::kRotate, 17, kBilinear},
                        {Op::kRotate, 17, kBicubic},
                        {Op::kShearX, 0.2, kBicubic},
                        {Op::kBlur, 1.5},
                        {Op::kGaussian, 1.5}};
  for (const Step& step : steps) {
    PassList list(settings, kHeight, kWidth);
    list.Add(step);
    for (Pass pass : list.passes()) {  // each by itself
      pass.in = in.data(), pass.out = by_rows.data(), pass.floats = floats_by_rows.data();
      rows::RunPass(pass);
      pass.out = by_pixels.data(), pass.floats = floats_by_pixels.data();
      for (int place = 0; place < kHeight * kWidth; place++) RunPixel(pass, place);
      if (by_rows != by_pixels || floats_by_rows != floats_by_pixels) return false;
    }
  }
  return true;
}

}  // namespace dali_mix::augment

#endif  // DALI_MIX_AUGMENT_SELF_CHECK_H_
