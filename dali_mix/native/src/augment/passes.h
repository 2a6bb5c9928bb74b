// From what is decided for an image to passes over it.
#ifndef DALI_MIX_AUGMENT_PASSES_H_
#define DALI_MIX_AUGMENT_PASSES_H_

#include <algorithm>
#include <charconv>
#include <cmath>
#include <vector>

#include "augment/pass.h"
#include "augment/steps.h"
#include "philox.h"
#include "require.h"

namespace dali_mix::augment {

// Of steps that others than augment_plan have made: they bound the time that an image can take.
constexpr int kMostRadius = 1000, kMostBoxes = 1000;

// What is the same for all images.
struct Settings {
  Byte fill[3];
  Remode remode;
  NoiseTable noise;
  const NoiseTable* noise_where_passes_run = nullptr;
};

// Python's round(value, 15), with which Pillow rounds the entries of a rotation.
inline double RoundTo15(double value) {
  char text[64];
  char* end = std::to_chars(text, text + sizeof(text), value, std::chars_format::fixed, 15).ptr;
  std::from_chars(text, end, value);
  return value;
}

// Pillow's Image.rotate about the centre.
inline Matrix Rotation(double degrees, int height, int width) {
  degrees = std::fmod(degrees, 360.0);
  if (degrees < 0) degrees += 360.0;
  double angle = -(degrees * (3.14159265358979323846 / 180.0));
  double cosine = RoundTo15(std::cos(angle)), sine = RoundTo15(std::sin(angle));
  double x = width / 2.0, y = height / 2.0;
  return {cosine, sine, cosine * -x + sine * -y + 0.0 + x, -sine, cosine, -sine * -x + cosine * -y + 0.0 + y};
}

inline Matrix MatrixOf(const Step& step, int height, int width) {
  double value = step.argument;
  switch (step.op) {
    case Op::kRotate:
      return Rotation(value, height, width);
    case Op::kShearX:
      return {1, value, 0, 0, 1, 0};
    case Op::kShearY:
      return {1, 0, 0, value, 1, 0};
    case Op::kTranslateX:
      return {1, 0, value * width, 0, 1, 0};
    default:
      return {1, 0, 0, 0, 1, value * height};
  }
}

// The box of which three passes come close to a Gaussian; Pillow computes it in float32.
// Source: Gwosdek et al. 2011, "Theoretical foundations of Gaussian convolution by extended box filtering".
inline float BoxRadius(float radius) {
  float variance = radius * radius / kBoxPasses;
  float length = static_cast<float>(std::sqrt(12.0 * variance + 1.0));
  float whole = static_cast<float>(std::floor((length - 1.0) / 2.0));
  float rest = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance);
  rest /= 6 * (variance - (whole + 1) * (whole + 1));
  return whole + rest;
}

inline Box1d BoxOf(float radius) {
  int whole = static_cast<int>(radius);
  Word32 weight = static_cast<Word32>((1 << 24) / (radius * 2 + 1));
  return {whole, weight, ((1u << 24) - (whole * 2 + 1) * weight) / 2};
}

inline void FillTaps(double sigma, float* taps) {
  double sum = 0;
  for (int i = -(kTaps / 2); i <= kTaps / 2; i++) sum += std::exp(-0.5 * (i / sigma) * (i / sigma));
  for (int i = 0; i <= kTaps / 2; i++) taps[i] = static_cast<float>(std::exp(-0.5 * (i / sigma) * (i / sigma)) / sum);
}

// The passes over one image; where they read and write is filled in afterwards.
class PassList {
 public:
  PassList(const Settings& settings, int height, int width) : settings_(settings), height_(height), width_(width) {}

  void Add(const Step& step) {
    switch (step.op) {
      case Op::kNone:
        return;
      case Op::kFlip:
        return AddFlip(step.option != 0, step.argument != 0);
      case Op::kColor:
        New(Kind::kColor).factor = static_cast<float>(step.argument);
        return;
      case Op::kSharpness:
        New(Kind::kSharpness).factor = static_cast<float>(step.argument);
        return;
      case Op::kHue:
        New(Kind::kHue).down = static_cast<int>(step.argument);
        return;
      case Op::kBlur:
        return AddBoxes(static_cast<float>(step.argument));
      case Op::kGaussian:
        return AddGaussian(step.argument);
      case Op::kErase:
        return AddErased(step);
      case Op::kRotate:
      case Op::kShearX:
      case Op::kShearY:
      case Op::kTranslateX:
      case Op::kTranslateY:
        return AddWarp(step);
      default:
        return AddTable(step);
    }
  }

  // Lets the image travel between `out` and `scratch`, so that it ends in `out`; an image that goes through nothing is
  // copied.
  std::vector<Pass>& Route(const Byte* in, Byte* out, Byte* scratch) {
    if (passes_.empty()) New(Kind::kCopy);
    int moves = Moving();
    const Byte* here = in;
    for (Pass& pass : passes_) {
      pass.in = here;
      pass.out = Moves(pass.kind) ? (--moves % 2 ? scratch : out) : const_cast<Byte*>(here);
      here = pass.out;
    }
    return passes_;
  }

  // What the passes need beside the image's own memory.
  int Moving() const {
    return static_cast<int>(
        std::count_if(passes_.begin(), passes_.end(), [](const Pass& pass) { return Moves(pass.kind); }));
  }
  bool Has(Kind kind) const {
    return std::any_of(passes_.begin(), passes_.end(), [kind](const Pass& pass) { return pass.kind == kind; });
  }
  int Tables() const {
    return static_cast<int>(
        std::count_if(passes_.begin(), passes_.end(), [](const Pass& pass) { return pass.kind == Kind::kTables; }));
  }
  const std::vector<Pass>& passes() const { return passes_; }

 private:
  Pass Blank(Kind kind) const {
    Pass pass{};
    pass.kind = kind, pass.height = height_, pass.width = width_;
    std::copy(settings_.fill, settings_.fill + 3, pass.fill);
    pass.remode = settings_.remode;
    pass.noise = settings_.noise_where_passes_run;
    return pass;
  }

  Pass& New(Kind kind) { return passes_.emplace_back(Blank(kind)); }

  void AddFlip(bool down, bool across) {
    Pass& pass = New(Kind::kFlip);
    pass.down = down, pass.across = across;
  }

  void AddTable(const Step& step) {
    DALI_MIX_REQUIRE(step.op >= Op::kAutoContrast && step.op <= Op::kBrightness, "steps: there is no operation ",
                     static_cast<int>(step.op));
    Table table = static_cast<Table>(static_cast<int>(step.op) - static_cast<int>(Op::kAutoContrast));
    float argument = static_cast<float>(step.argument);
    if (!NeedsHistogram(table)) {
      Pass& pass = New(Kind::kEntries);
      pass.table = table, pass.factor = argument;
      return;
    }
    New(table == Table::kContrast ? Kind::kGrayHistogram : Kind::kHistogram);
    Pass& pass = New(Kind::kTables);
    pass.table = table, pass.factor = argument;
    New(Kind::kLookUp);
  }

  void AddWarp(const Step& step) {
    DALI_MIX_REQUIRE(step.option >= 0 && step.option < 3, "steps: there is no filter ", step.option);
    if (step.op == Op::kRotate && std::fmod(step.argument, 360.0) == 0.0) return;  // as Pillow's
    Pass& pass = New(Kind::kWarp);
    pass.matrix = MatrixOf(step, height_, width_);
    pass.filter = static_cast<Filter>(static_cast<int>(step.option));
  }

  void AddBoxes(float radius) {
    DALI_MIX_REQUIRE(radius >= 0 && radius <= kMostRadius, "steps: the radius of a blur must be at most ", kMostRadius,
                     " pixels, got ", radius);
    Box1d box = BoxOf(BoxRadius(radius));
    for (Kind kind : {Kind::kBoxAcross, Kind::kBoxDown})
      for (int i = 0; i < kBoxPasses; i++) New(kind).box = box;
  }

  void AddGaussian(double sigma) {
    for (Kind kind : {Kind::kGaussAcross, Kind::kGaussDown}) FillTaps(sigma, New(kind).taps);
  }

  // Source: timm 1.0.31, timm/data/random_erasing.py: a box that does not fit is drawn again, up to ten times.
  void AddErased(const Step& step) {
    uint64_t key = (static_cast<uint64_t>(step.argument) << 32) | static_cast<uint64_t>(step.option);
    DALI_MIX_REQUIRE(step.extra >= 0 && step.extra <= kMostBoxes, "steps: at most ", kMostBoxes,
                     " boxes are erased, got ", step.extra);
    int count = static_cast<int>(step.extra);
    for (int number = 0; number < count; number++) {
      Stream stream(key, Role::kErase, number);
      double share = static_cast<double>(height_) * width_ / count, aspect = std::log(1 / 0.3);
      for (int attempt = 0; attempt < 10; attempt++) {
        double area = stream.Uniform(0.02, 1.0 / 3) * share, ratio = std::exp(stream.Uniform(-aspect, aspect));
        int height = static_cast<int>(std::nearbyint(std::sqrt(area * ratio)));
        int width = static_cast<int>(std::nearbyint(std::sqrt(area / ratio)));
        if (height >= height_ || width >= width_) continue;
        if (Moving() == 0) New(Kind::kCopy);  // what is erased is never the input
        Pass& pass = New(Kind::kErase);
        pass.y1 = stream.Below(height_ - height + 1), pass.x1 = stream.Below(width_ - width + 1);
        pass.y2 = pass.y1 + height, pass.x2 = pass.x1 + width;
        pass.key[0] = static_cast<Word32>(key), pass.key[1] = static_cast<Word32>(key >> 32), pass.number = number;
        Color(stream, pass.color);
        break;
      }
    }
  }

  void Color(Stream& stream, Byte* color) const {
    for (int c = 0; c < 3; c++)
      color[c] = settings_.remode == Remode::kConst
                     ? settings_.fill[c]
                     : settings_.noise.Draw(c, static_cast<Word32>(stream.Below(1 << 21)));
  }

  const Settings& settings_;
  int height_, width_;
  std::vector<Pass> passes_;
};

}  // namespace dali_mix::augment

#endif  // DALI_MIX_AUGMENT_PASSES_H_
