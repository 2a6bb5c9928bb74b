// Where an operator stands in its random numbers, and how DALI's checkpoints keep it.
#ifndef DALI_MIX_RANDOMNESS_H_
#define DALI_MIX_RANDOMNESS_H_

#include <cstdint>
#include <sstream>
#include <string>

#include "dali/pipeline/operator/checkpointing/op_checkpoint.h"
#include "dali/pipeline/operator/operator.h"
#include "philox.h"
#include "require.h"

namespace dali_mix {

// Everything that is drawn for a batch follows from two seeds and the number of the batch: a draw can depend on no
// batch before, not on its size either, so ranks with one branch seed agree whatever their batches are.
struct RandomState {
  int64_t seed = 0, branch_seed = 0;
  int64_t batch = 0;

  uint64_t BatchKey() const { return Stream(seed, Role::kMix, Low()).Key() ^ High(); }
  double BranchDraw() const { return Stream(branch_seed ^ High(), Role::kBranch, Low()).Uniform(); }

 private:
  uint32_t Low() const { return static_cast<uint32_t>(batch); }
  uint64_t High() const { return static_cast<uint64_t>(batch) >> 32 << 32; }
};

// An operator with such a state.
template <typename Backend>
class RandomOperator : public dali::Operator<Backend> {
 public:
  explicit RandomOperator(const dali::OpSpec& spec) : dali::Operator<Backend>(spec) {
    state_.seed = spec.GetArgument<int64_t>("seed");
    state_.branch_seed = spec.HasArgument("branch_seed") ? spec.GetArgument<int64_t>("branch_seed") : state_.seed;
  }

  void SaveState(dali::OpCheckpoint& checkpoint, dali::AccessOrder) override {
    checkpoint.MutableCheckpointState() = state_;
  }

  // The seeds, too: DALI's own operators go on with those that they were saved with.
  void RestoreState(const dali::OpCheckpoint& checkpoint) override {
    state_ = checkpoint.CheckpointState<RandomState>();
  }

  std::string SerializeCheckpoint(const dali::OpCheckpoint& checkpoint) const override {
    const auto& state = checkpoint.CheckpointState<RandomState>();
    std::ostringstream text;
    text << state.seed << ' ' << state.branch_seed << ' ' << state.batch;
    return text.str();
  }

  void DeserializeCheckpoint(dali::OpCheckpoint& checkpoint, const std::string& data) const override {
    RandomState state;
    std::istringstream text(data);
    DALI_MIX_REQUIRE(text >> state.seed >> state.branch_seed >> state.batch,
                     "the checkpoint holds no state of this operator: it belongs to another pipeline");
    checkpoint.MutableCheckpointState() = state;
  }

 protected:
  RandomState state_;
};

}  // namespace dali_mix

#endif  // DALI_MIX_RANDOMNESS_H_
