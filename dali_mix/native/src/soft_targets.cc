// Soft targets by themselves, for parameters from elsewhere.
#include "soft_targets.h"

#include <vector>

#include "dali/pipeline/operator/arg_helper.h"
#include "dali/pipeline/operator/checkpointing/stateless_operator.h"

namespace dali_mix {

using dali::CPUBackend;
using dali::OpSpec;
using dali::Workspace;

class Targets : public dali::StatelessOperator<CPUBackend> {
 public:
  explicit Targets(const OpSpec& spec)
      : StatelessOperator<CPUBackend>(spec),
        targets_(spec.GetArgument<int>("num_classes"), spec.GetArgument<float>("smoothing")),
        num_classes_(spec.GetArgument<int>("num_classes")),
        partner_("partner", spec),
        lam_("lam", spec) {}

 protected:
  bool SetupImpl(std::vector<dali::OutputDesc>& outputs, const Workspace& ws) override {
    outputs = {{uniform_list_shape(ws.GetInputBatchSize(0), dali::TensorShape<>{num_classes_}), DALI_FLOAT}};
    return true;
  }

  void RunImpl(Workspace& ws) override {
    std::vector<int> classes = targets_.Read(ws.Input<CPUBackend>(0));
    int n = static_cast<int>(classes.size());
    partner_.Acquire(spec_, ws, n, dali::TensorShape<0>{});
    lam_.Acquire(spec_, ws, n, dali::TensorShape<0>{});
    auto& rows = ws.Output<CPUBackend>(0);
    for (int i = 0; i < n; i++) {
      int partner = *partner_[i].data;
      DALI_MIX_REQUIRE(partner >= 0 && partner < n, "partner ", partner, " of sample ", i, " is not in the batch of ",
                       n);
      targets_.Write(rows.mutable_tensor<float>(i), classes[i], classes[partner], *lam_[i].data);
    }
  }

 private:
  SoftTargets targets_;
  int num_classes_;
  dali::ArgValue<int, 0> partner_;
  dali::ArgValue<float, 0> lam_;
};

}  // namespace dali_mix

DALI_SCHEMA(dali_mix__SoftTargets)
    .DocStr("Class probabilities ``lam * own + (1 - lam) * partner``, smoothed.")
    .NumInput(1)
    .InputDevice(0, ::dali::InputDevice::CPU)
    .NumOutput(1)
    .AddArg("num_classes", "Length of a row.", DALI_INT32)
    .AddOptionalArg("smoothing", "Of the labels, in [0, 1].", 0.0f)
    .AddArg("partner", "Whose label is mixed in.", DALI_INT32, true)
    .AddArg("lam", "Weight of the own label.", DALI_FLOAT, true);
DALI_REGISTER_OPERATOR(dali_mix__SoftTargets, dali_mix::Targets, dali::CPU);
