// The passes of a batch in the order of a GPU: first the first pass of every image, then the second, and so on.
#ifndef DALI_MIX_AUGMENT_SCHEDULE_H_
#define DALI_MIX_AUGMENT_SCHEDULE_H_

#include <algorithm>
#include <utility>
#include <vector>

#include "augment/passes.h"

namespace dali_mix::augment {

enum class Kernel : int { kHistograms, kTables, kPixels };
constexpr int kKernels = 3;

inline Kernel KernelOf(Kind kind) {
  if (kind == Kind::kTables) return Kernel::kTables;
  return kind < Kind::kTables ? Kernel::kHistograms : Kernel::kPixels;
}

// One kernel over `count` passes, of which the largest has so many pixels.
struct Launch {
  Kernel kernel;
  int first, count, pixels;
};

class Schedule {
 public:
  void Add(PassList list, const Byte* in, Byte* out, int64_t values) {
    Image image{std::move(list), in, out};
    image.scratch = bytes_;
    image.floats = floats_;
    image.table = tables_;
    if (image.list.Moving() > 1) bytes_ += values;
    if (image.list.Has(Kind::kGaussAcross)) floats_ += values;
    tables_ += image.list.Tables();
    images_.push_back(std::move(image));
  }

  // What is needed beside the images: bytes, floats, and sets of tables, each with a histogram.
  size_t bytes() const { return bytes_; }
  size_t floats() const { return floats_; }
  size_t tables() const { return tables_; }

  // Lays the passes out, given what is needed.
  void Lay(Byte* bytes, float* floats, Word32* histograms, Byte* tables) {
    size_t longest = 0;
    for (Image& image : images_) {
      std::vector<Pass>& passes = image.list.Route(image.in, image.out, bytes + image.scratch);
      longest = std::max(longest, passes.size());
      size_t table = image.table;
      for (Pass& pass : passes) {
        pass.floats = floats + image.floats;
        pass.histogram = histograms + table * 3 * kLevels;
        pass.tables = tables + table * 3 * kLevels;
        table += pass.kind == Kind::kLookUp;
      }
    }
    for (size_t turn = 0; turn < longest; turn++) LayTurn(turn);
  }

  const std::vector<Pass>& passes() const { return passes_; }
  const std::vector<Launch>& launches() const { return launches_; }

 private:
  struct Image {
    PassList list;
    const Byte* in;
    Byte* out;
    size_t scratch = 0, floats = 0, table = 0;
  };

  // Images do not meet, so the kernels of a turn may come in any order.
  void LayTurn(size_t turn) {
    for (int kernel = 0; kernel < kKernels; kernel++) {
      Launch launch{static_cast<Kernel>(kernel), static_cast<int>(passes_.size()), 0, 0};
      for (Image& image : images_) {
        const std::vector<Pass>& passes = image.list.passes();
        if (turn >= passes.size() || KernelOf(passes[turn].kind) != launch.kernel) continue;
        passes_.push_back(passes[turn]);
        launch.pixels = std::max(launch.pixels, Pixels(passes[turn]));
        launch.count++;
      }
      if (launch.count) launches_.push_back(launch);
    }
  }

  std::vector<Image> images_;
  std::vector<Pass> passes_;
  std::vector<Launch> launches_;
  size_t bytes_ = 0, floats_ = 0, tables_ = 0;
};

}  // namespace dali_mix::augment

#endif  // DALI_MIX_AUGMENT_SCHEDULE_H_
