// Decides for a whole batch at once what is mixed with what.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "dali/pipeline/operator/arg_helper.h"
#include "distributions.h"
#include "methods/cutmix.h"
#include "methods/mixup.h"
#include "randomness.h"
#include "require.h"
#include "soft_targets.h"

namespace dali_mix {

using dali::CPUBackend;
using dali::make_string;
using dali::OpSpec;
using dali::Workspace;

namespace {

enum Output { kPartner, kTarget, kSource, kWeight, kLam, kBranch, kTargets };

std::unique_ptr<Method> MakeMethod(const std::string& name, double alpha, const std::vector<float>& minmax) {
  DALI_MIX_REQUIRE(alpha > 0 && std::isfinite(alpha), "alphas must be > 0 and finite as float32, got ", alpha);
  if (name == "leave") return std::make_unique<Leave>();
  if (name == "mixup") return std::make_unique<Mixup>(alpha);
  if (name == "cutmix" && minmax.empty()) return std::make_unique<CutMix>(alpha);
  if (name == "cutmix") return std::make_unique<CutMixBetween>(minmax.at(0), minmax.at(1));
  DALI_FAIL(make_string("methods: unknown method \"", name, "\"; there are leave, cutmix and mixup"));
}

}  // namespace

class Plan : public RandomOperator<CPUBackend> {
 public:
  explicit Plan(const OpSpec& spec)
      : RandomOperator<CPUBackend>(spec),
        codes_(spec.GetRepeatedArgument<int>("codes")),
        ends_(spec.GetRepeatedArgument<float>("ends")),
        prob_(spec.GetArgument<float>("prob")),
        mode_(spec.GetArgument<std::string>("mode")),
        flip_(spec.GetArgument<std::string>("pairing") == "flip"),
        targets_(std::max(1, spec.GetArgument<int>("num_classes")), spec.GetArgument<float>("smoothing")),
        num_classes_(spec.GetArgument<int>("num_classes")),
        image_size_("image_size", spec) {
    auto names = spec.GetRepeatedArgument<std::string>("methods");
    auto alphas = spec.GetRepeatedArgument<float>("alphas");
    auto minmax = spec.GetRepeatedArgument<float>("minmax");
    DALI_MIX_REQUIRE(!names.empty() && codes_.size() == names.size() && alphas.size() == names.size() &&
                         ends_.size() == names.size(),
                     "methods, codes, alphas and ends must be lists of one length, of at least one");
    DALI_MIX_REQUIRE(minmax.empty() || minmax.size() == 2, "minmax must be two numbers");
    for (size_t i = 0; i < names.size(); i++) methods_.push_back(MakeMethod(names[i], alphas[i], minmax));
  }

 protected:
  bool SetupImpl(std::vector<dali::OutputDesc>& outputs, const Workspace& ws) override {
    int n = ws.GetInputBatchSize(0);
    auto numbers = [n](std::initializer_list<int64_t> shape) {
      return uniform_list_shape(n, dali::TensorShape<>(shape));
    };
    outputs = {{numbers({}), DALI_INT32}, {numbers({4}), DALI_INT32}, {numbers({4}), DALI_INT32},
               {numbers({}), DALI_FLOAT}, {numbers({}), DALI_FLOAT},  {numbers({}), DALI_INT32}};
    if (num_classes_) outputs.push_back({numbers({num_classes_}), DALI_FLOAT});
    return true;
  }

  void RunImpl(Workspace& ws) override {
    int n = ws.Input<CPUBackend>(0).num_samples();
    RandomState state = state_;
    state_.batch++;
    if (n == 0) return;
    DALI_MIX_REQUIRE(!(flip_ || mode_ == "pair") || n == max_batch_size_,
                     "pairing='flip' needs full batches: the batch has ", n, " of ", max_batch_size_,
                     " samples; use pairing='permutation', or a reader that drops or pads the last batch");
    uint64_t key = state.BatchKey();
    std::vector<int> partner = Partners(key, n);
    size_t method = Choose(state.BranchDraw());
    std::vector<Placement> placements = Placements(key, *methods_[method], Sizes(ws, n));
    for (int i = 0; i < n; i++) {
      *ws.Output<CPUBackend>(kPartner).mutable_tensor<int>(i) = partner[i];
      Put(ws.Output<CPUBackend>(kTarget).mutable_tensor<int>(i), placements[i].target);
      Put(ws.Output<CPUBackend>(kSource).mutable_tensor<int>(i), placements[i].source);
      *ws.Output<CPUBackend>(kWeight).mutable_tensor<float>(i) = placements[i].weight;
      *ws.Output<CPUBackend>(kLam).mutable_tensor<float>(i) = placements[i].lam;
      *ws.Output<CPUBackend>(kBranch).mutable_tensor<int>(i) = codes_[method];
    }
    if (num_classes_) {
      std::vector<int> classes = targets_.Read(ws.Input<CPUBackend>(0));
      auto& rows = ws.Output<CPUBackend>(kTargets);
      for (int i = 0; i < n; i++)
        targets_.Write(rows.mutable_tensor<float>(i), classes[i], classes[partner[i]], placements[i].lam);
    }
  }

 private:
  static void Put(int* out, const Box& box) { out[0] = box.y1, out[1] = box.x1, out[2] = box.y2, out[3] = box.x2; }

  std::vector<int> Partners(uint64_t key, int n) const {
    if (!flip_) {
      Stream stream(key, Role::kPartner, 0);
      return Derangement(stream, n);
    }
    std::vector<int> partner(n);
    for (int i = 0; i < n; i++) partner[i] = n - 1 - i;
    return partner;
  }

  // The method of the whole batch: the one whose stretch of [0, 1) the draw falls into.
  size_t Choose(double draw) const {
    size_t method = 0;
    while (method + 1 < methods_.size() && draw >= ends_[method]) method++;
    return method;
  }

  std::vector<Size> Sizes(const Workspace& ws, int n) {
    image_size_.Acquire(spec_, ws, n);
    std::vector<Size> sizes(n);
    for (int i = 0; i < n; i++) {
      DALI_MIX_REQUIRE(image_size_[i].num_elements() >= 2, "image_size must be height and width");
      sizes[i] = {image_size_[i].data[0], image_size_[i].data[1]};
    }
    return sizes;
  }

  std::vector<Placement> Placements(uint64_t key, const Method& method, const std::vector<Size>& sizes) const {
    int n = static_cast<int>(sizes.size());
    std::vector<Placement> placements(n);
    for (int i = 0; i < n; i++) {
      int index = mode_ == "elem" ? i : mode_ == "pair" ? std::min(i, n - 1 - i) : 0;
      Stream stream(key, Role::kMix, index);
      // Drawn whatever prob is, so that another prob leaves the boxes and weights as they are.
      bool used = stream.Uniform() < prob_;
      placements[i] = used ? method.Draw(stream, sizes[i]) : Placement{};
    }
    return placements;
  }

  std::vector<std::unique_ptr<Method>> methods_;
  std::vector<int> codes_;
  std::vector<float> ends_;
  double prob_;
  std::string mode_;
  bool flip_;
  SoftTargets targets_;
  int num_classes_;
  dali::ArgValue<int, 1> image_size_;
};

}  // namespace dali_mix

DALI_SCHEMA(dali_mix__Plan)
    .DocStr(R"(Decide for a whole batch what is mixed with what.

Outputs: partner int32 (), target and source boxes int32 (4) = y1, x1, y2, x2, weight float () of the own image
inside the target box, lam float () of the own label, branch int32 (), and with num_classes the soft targets
float (num_classes). Inside an ``if`` it sees the samples of its side, and mixes among them.

Build )" DALI_MIX_BUILD)
    .NumInput(1)
    .InputDevice(0, ::dali::InputDevice::CPU)
    .InputDox(0, "samples", "labels, or anything", "With num_classes integer () or (1); else it tells the batch size.")
    .OutputFn([](const dali::OpSpec& spec) { return spec.GetArgument<int>("num_classes") > 0 ? 7 : 6; })
    .AddArg("methods", "Any of \"leave\", \"cutmix\" and \"mixup\"; one is chosen per batch.", DALI_STRING_VEC)
    .AddArg("codes", "What branch is, for each method.", DALI_INT_VEC)
    .AddArg("ends", "Where the share of each method ends in [0, 1]; the last takes the rest.", DALI_FLOAT_VEC)
    .AddArg("alphas", "Parameter of each method's Beta distribution.", DALI_FLOAT_VEC)
    .AddOptionalArg("minmax", "Smallest and largest side of the box as shares of the image's.", std::vector<float>{})
    .AddOptionalArg("prob", "Chance that a draw is used.", 1.0f)
    .AddOptionalArg("mode", "Who shares a draw: \"batch\", \"pair\" or \"elem\".", "batch")
    .AddOptionalArg("pairing", "\"permutation\" or \"flip\".", "permutation")
    .AddOptionalArg("num_classes", "Length of the soft targets; 0 for none.", 0)
    .AddOptionalArg("smoothing", "Of the labels, in [0, 1].", 0.0f)
    .AddArg("image_size", "Height and width in pixels; further entries are not read.", DALI_INT_VEC, true)
    .AddRandomSeedArg()
    .AddOptionalArg<int64_t>("branch_seed", "Of the choice of the method; default: the seed.", nullptr);
DALI_REGISTER_OPERATOR(dali_mix__Plan, dali_mix::Plan, dali::CPU);
