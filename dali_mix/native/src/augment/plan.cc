// Decides for a whole batch at once what each image goes through.
#include <string>
#include <utility>
#include <vector>

#include "augment/policy.h"
#include "augment/steps.h"
#include "randomness.h"
#include "require.h"

namespace dali_mix {

using dali::CPUBackend;
using dali::OpSpec;
using dali::Workspace;

namespace augment {

inline Policy ReadPolicy(const OpSpec& spec) {
  auto names = spec.GetRepeatedArgument<std::string>("operations");
  auto probs = spec.GetRepeatedArgument<float>("probs"), magnitudes = spec.GetRepeatedArgument<float>("magnitudes");
  auto weights = spec.GetRepeatedArgument<float>("weights");
  int slots = spec.GetArgument<int>("slots"), draws = spec.GetArgument<int>("draws");
  DALI_MIX_REQUIRE(names.size() == probs.size() && names.size() == magnitudes.size(),
                   "operations, probs and magnitudes must be lists of one length");
  DALI_MIX_REQUIRE(slots >= 1 && names.size() % slots == 0 && draws >= 0 && (draws == 0 || !names.empty()),
                   "operations must come in groups of ", slots, ", and at least one where any is drawn");
  size_t groups = names.size() / slots;
  DALI_MIX_REQUIRE(weights.empty() || (weights.size() == groups && draws <= static_cast<int>(groups)),
                   "weights must be one for each of the ", groups, " groups, of which at most all are drawn");
  for (float weight : weights) DALI_MIX_REQUIRE(weight > 0, "weights must be positive, got ", weight);
  std::vector<Operation> operations;
  for (size_t i = 0; i < names.size(); i++) {
    auto found = Scales().find(names[i]);
    DALI_MIX_REQUIRE(found != Scales().end(), "operations: there is no \"", names[i], "\"");
    operations.push_back({found->second, probs[i], magnitudes[i]});
  }
  return {std::move(operations),
          slots,
          std::vector<double>(weights.begin(), weights.end()),
          draws,
          {spec.GetArgument<float>("mstd"), spec.GetArgument<float>("mmax")},
          FiltersOf(spec.GetArgument<std::string>("interpolation"))};
}

// torchvision's ColorJitter: the four in an order that is drawn, too.
class Jitter {
 public:
  Jitter(std::vector<float> strengths, double prob) : strengths_(std::move(strengths)), prob_(prob) {
    DALI_MIX_REQUIRE(strengths_.empty() || strengths_.size() == 4,
                     "jitter must be brightness, contrast, saturation and hue");
  }

  int steps() const { return static_cast<int>(strengths_.size()); }

  void Draw(Stream& stream, std::vector<Step>& steps) const {
    if (strengths_.empty() || !stream.Chance(prob_)) return;
    static constexpr Op kOps[] = {Op::kBrightness, Op::kContrast, Op::kColor, Op::kHue};
    int order[] = {0, 1, 2, 3};
    for (int i = 3; i > 0; i--) std::swap(order[i], order[stream.Below(i + 1)]);
    for (int which : order) {
      double strength = strengths_[which];
      if (strength <= 0) continue;
      double drawn =
          which == 3 ? stream.Uniform(-strength, strength) : stream.Uniform(std::max(0.0, 1 - strength), 1 + strength);
      steps.push_back({kOps[which], which == 3 ? (Whole(drawn * 255) & 255) : drawn});
    }
  }

 private:
  std::vector<float> strengths_;
  double prob_;
};

}  // namespace augment

class AugmentPlan : public RandomOperator<CPUBackend> {
 public:
  explicit AugmentPlan(const OpSpec& spec)
      : RandomOperator<CPUBackend>(spec),
        policy_(augment::ReadPolicy(spec)),
        jitter_(spec.GetRepeatedArgument<float>("jitter"), spec.GetArgument<float>("jitter_prob")),
        hflip_(spec.GetArgument<float>("hflip")),
        vflip_(spec.GetArgument<float>("vflip")),
        grayscale_(spec.GetArgument<float>("grayscale")),
        blur_(spec.GetArgument<float>("blur")),
        erasing_(spec.GetArgument<float>("erasing")),
        recount_(spec.GetArgument<int>("recount")) {
    DALI_MIX_REQUIRE(recount_ >= 1, "recount must be at least 1, got ", recount_);
    length_ = 1 + policy_.steps() + jitter_.steps() + 3;  // flips; grayscale, blur, erasing
  }

 protected:
  bool SetupImpl(std::vector<dali::OutputDesc>& outputs, const Workspace& ws) override {
    outputs = {{uniform_list_shape(ws.GetInputBatchSize(0), dali::TensorShape<>{length_, augment::kStepNumbers}),
                DALI_FLOAT64}};
    return true;
  }

  void RunImpl(Workspace& ws) override {
    auto& out = ws.Output<CPUBackend>(0);
    uint64_t key = state_.BatchKey();
    state_.batch++;
    std::vector<augment::Step> steps;
    for (int i = 0; i < out.num_samples(); i++) {
      Stream stream(key, Role::kAugment, i);
      steps.clear();
      Draw(stream, steps);
      steps.resize(length_);
      double* rows = out.mutable_tensor<double>(i);
      for (int s = 0; s < length_; s++) augment::WriteStep(steps[s], rows + s * augment::kStepNumbers);
    }
  }

 private:
  // In timm's order (`transforms_imagenet_train`).
  void Draw(Stream& stream, std::vector<augment::Step>& steps) const {
    using augment::Op;
    bool across = stream.Chance(hflip_), down = stream.Chance(vflip_);
    if (across || down) steps.push_back({Op::kFlip, double(across), double(down)});
    policy_.Draw(stream, steps);
    jitter_.Draw(stream, steps);
    if (grayscale_ > 0 && stream.Chance(grayscale_)) steps.push_back({Op::kColor, 0.0});
    if (blur_ > 0 && stream.Chance(blur_)) steps.push_back({Op::kGaussian, stream.Uniform(0.1, 2.0)});
    if (erasing_ > 0 && stream.Chance(erasing_)) {
      // Where the boxes are follows from their key once the size of the image is known.
      uint64_t erase = stream.Key();
      steps.push_back(
          {Op::kErase, double(erase >> 32), double(static_cast<Word32>(erase)), 1.0 + stream.Below(recount_)});
    }
  }

  augment::Policy policy_;
  augment::Jitter jitter_;
  double hflip_, vflip_, grayscale_, blur_, erasing_;
  int recount_, length_;
};

}  // namespace dali_mix

DALI_SCHEMA(dali_mix__AugmentPlan)
    .DocStr(R"(Decide for a whole batch what each image goes through, by timm's rules.

Output: steps float64 (S, 4), which ``augment`` takes: an operation, its argument and what else it needs. They depend on
no pixel and no size.)")
    .NumInput(1)
    .InputDevice(0, ::dali::InputDevice::Metadata)
    .InputDox(0, "samples", "anything", "Tells the size of the batch.")
    .NumOutput(1)
    .AddOptionalArg("hflip", "Chance of a flip left to right.", 0.0f)
    .AddOptionalArg("vflip", "Chance of a flip upside down.", 0.0f)
    .AddOptionalArg("operations", "timm's names of operations, group after group.", std::vector<std::string>{})
    .AddOptionalArg("probs", "Chance of each operation, where its group is drawn.", std::vector<float>{})
    .AddOptionalArg("magnitudes", "Of each operation.", std::vector<float>{})
    .AddOptionalArg("slots", "Operations in a group.", 1)
    .AddOptionalArg("weights", "Of each group, which is then drawn once at most; default: equal chances, each time.",
                    std::vector<float>{})
    .AddOptionalArg("draws", "How many groups each image goes through.", 0)
    .AddOptionalArg("mstd", "Deviation of the magnitudes; infinite for uniform from 0 to the magnitude.", 0.0f)
    .AddOptionalArg("mmax", "What magnitudes are clipped to.", 10.0f)
    .AddOptionalArg("interpolation", "Of geometric operations: \"nearest\", \"bilinear\", \"bicubic\" or \"random\".",
                    "random")
    .AddOptionalArg("jitter", "Strength of brightness, contrast, saturation and hue.", std::vector<float>{})
    .AddOptionalArg("jitter_prob", "Chance of the jitter.", 1.0f)
    .AddOptionalArg("grayscale", "Chance of turning gray.", 0.0f)
    .AddOptionalArg("blur", "Chance of a Gaussian blur.", 0.0f)
    .AddOptionalArg("erasing", "Chance of erasing.", 0.0f)
    .AddOptionalArg("recount", "Erased boxes are at most that many.", 1)
    .AddRandomSeedArg();
DALI_REGISTER_OPERATOR(dali_mix__AugmentPlan, dali_mix::AugmentPlan, dali::CPU);
