// Operations by timm's names, and what is drawn for one of them.
// Source: timm 1.0.31, timm/data/auto_augment.py.
#ifndef DALI_MIX_AUGMENT_POLICY_H_
#define DALI_MIX_AUGMENT_POLICY_H_

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "augment/steps.h"
#include "augment/warp.h"
#include "philox.h"
#include "require.h"

namespace dali_mix::augment {

// Normal with mean 0 and deviation 1: Box and Muller 1958.
inline double Normal(Stream& stream) {
  double radius = std::sqrt(-2 * std::log(stream.Uniform()));
  return radius * std::cos(2 * 3.14159265358979323846 * stream.Uniform());
}

inline double RandomSign(Stream& stream) { return stream.Chance(0.5) ? -1.0 : 1.0; }

// From a level, 1 for a magnitude of 10, to a step.
using Scale = std::function<Step(double level, Stream& stream)>;

inline int Whole(double value) { return static_cast<int>(value); }

// 4 bits at level 1; see `_posterize_level_to_arg`.
inline Step Posterize(int bits) { return {Op::kPosterize, static_cast<double>(bits)}; }
inline int SolarizeFrom(double level) { return std::min(256, Whole(level * 256)); }

// The blends' two scales: from 0.1 to 1.9, and away from 1 in either direction.
inline Scale Enhance(Op op) {
  return [op](double level, Stream&) { return Step{op, level * 1.8 + 0.1}; };
}
inline Scale EnhanceIncreasing(Op op) {
  return [op](double level, Stream& stream) { return Step{op, std::max(0.1, 1 + RandomSign(stream) * (level * 0.9))}; };
}
inline Scale Geometric(Op op, double most) {
  return [op, most](double level, Stream& stream) { return Step{op, level * most * RandomSign(stream)}; };
}
inline Scale Plain(Op op) {
  return [op](double, Stream&) { return Step{op}; };
}

// `_minmax_level_to_arg`.
inline double Between(double level, double low, double high) {
  return std::clamp(low + (high - low) * level, low, high);
}

inline const std::map<std::string, Scale>& Scales() {
  static const std::map<std::string, Scale> scales = {
      {"AutoContrast", Plain(Op::kAutoContrast)},
      {"Equalize", Plain(Op::kEqualize)},
      {"Invert", Plain(Op::kInvert)},
      {"Posterize", [](double level, Stream&) { return Posterize(Whole(level * 4)); }},
      {"PosterizeIncreasing", [](double level, Stream&) { return Posterize(4 - Whole(level * 4)); }},
      {"PosterizeOriginal", [](double level, Stream&) { return Posterize(4 + Whole(level * 4)); }},
      {"Solarize", [](double level, Stream&) { return Step{Op::kSolarize, double(SolarizeFrom(level))}; }},
      {"SolarizeIncreasing", [](double level, Stream&) { return Step{Op::kSolarize, 256.0 - SolarizeFrom(level)}; }},
      {"SolarizeAdd",
       [](double level, Stream&) { return Step{Op::kSolarizeAdd, std::min(128.0, std::floor(level * 110))}; }},
      {"Color", Enhance(Op::kColor)},
      {"ColorIncreasing", EnhanceIncreasing(Op::kColor)},
      {"Contrast", Enhance(Op::kContrast)},
      {"ContrastIncreasing", EnhanceIncreasing(Op::kContrast)},
      {"Brightness", Enhance(Op::kBrightness)},
      {"BrightnessIncreasing", EnhanceIncreasing(Op::kBrightness)},
      {"Sharpness", Enhance(Op::kSharpness)},
      {"SharpnessIncreasing", EnhanceIncreasing(Op::kSharpness)},
      {"Rotate", Geometric(Op::kRotate, 30)},
      {"ShearX", Geometric(Op::kShearX, 0.3)},
      {"ShearY", Geometric(Op::kShearY, 0.3)},
      {"TranslateXRel", Geometric(Op::kTranslateX, 0.45)},
      {"TranslateYRel", Geometric(Op::kTranslateY, 0.45)},
      {"Desaturate",
       [](double level, Stream&) { return Step{Op::kColor, std::clamp(1 - Between(level, 0.5, 1), 0.0, 1.0)}; }},
      {"GaussianBlur", [](double level, Stream&) { return Step{Op::kBlur, Between(level, 0.1, 2)}; }},
      {"GaussianBlurRand",
       [](double level, Stream& stream) { return Step{Op::kBlur, stream.Uniform(0.1, 2 * Between(level, 0, 1))}; }},
  };
  return scales;
}

inline bool IsGeometric(Op op) { return op >= Op::kRotate && op <= Op::kTranslateY; }

// The filters that a geometric operation chooses among.
inline std::vector<Filter> FiltersOf(const std::string& interpolation) {
  if (interpolation == "nearest") return {Filter::kNearest};
  if (interpolation == "bilinear") return {Filter::kBilinear};
  if (interpolation == "bicubic") return {Filter::kBicubic};
  DALI_MIX_REQUIRE(interpolation == "random", "interpolation must be nearest, bilinear, bicubic or random, got ",
                   interpolation);
  return {Filter::kBilinear, Filter::kBicubic};
}

// One of timm's `AugmentOp`.
struct Operation {
  Scale scale;
  double prob, magnitude;
};

// What an `aa` string stands for: sub-policies of equally many operations.
class Policy {
 public:
  struct Noise {
    double deviation, most;  // an infinite deviation is a uniform magnitude
  };

  Policy(std::vector<Operation> operations, int slots, std::vector<double> weights, int draws, Noise noise,
         std::vector<Filter> filters)
      : operations_(std::move(operations)),
        weights_(std::move(weights)),
        filters_(std::move(filters)),
        noise_(noise),
        slots_(slots),
        draws_(draws) {}

  int steps() const { return draws_ * slots_; }

  void Draw(Stream& stream, std::vector<Step>& steps) const {
    for (int chosen : Chosen(stream))
      for (int slot = 0; slot < slots_; slot++) DrawOperation(operations_[chosen * slots_ + slot], stream, steps);
  }

 private:
  std::vector<int> Chosen(Stream& stream) const {
    int count = static_cast<int>(operations_.size()) / std::max(1, slots_);
    std::vector<int> chosen(draws_);
    if (weights_.empty()) {
      for (int& index : chosen) index = stream.Below(count);
      return chosen;
    }
    // Without replacement: the first of a race of exponential times is drawn by weight, and so is each that follows.
    std::vector<std::pair<double, int>> race(count);
    for (int i = 0; i < count; i++) race[i] = {-std::log(stream.Uniform()) / weights_[i], i};
    std::sort(race.begin(), race.end());
    for (int i = 0; i < draws_; i++) chosen[i] = race[i].second;
    return chosen;
  }

  void DrawOperation(const Operation& operation, Stream& stream, std::vector<Step>& steps) const {
    if (!stream.Chance(operation.prob)) return;
    double magnitude = operation.magnitude;
    if (std::isinf(noise_.deviation))
      magnitude *= stream.Uniform();
    else if (noise_.deviation > 0)
      magnitude += noise_.deviation * Normal(stream);
    Step step = operation.scale(std::clamp(magnitude, 0.0, noise_.most) / 10, stream);
    if (IsGeometric(step.op)) step.option = static_cast<int>(filters_[stream.Below(static_cast<int>(filters_.size()))]);
    steps.push_back(step);
  }

  std::vector<Operation> operations_;
  std::vector<double> weights_;
  std::vector<Filter> filters_;
  Noise noise_;
  int slots_, draws_;
};

}  // namespace dali_mix::augment

#endif  // DALI_MIX_AUGMENT_POLICY_H_
