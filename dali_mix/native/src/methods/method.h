// A way of mixing: one file beside this one each.
#ifndef DALI_MIX_METHODS_METHOD_H_
#define DALI_MIX_METHODS_METHOD_H_

#include "../philox.h"
#include "../placement.h"

namespace dali_mix {

class Method {
 public:
  virtual ~Method() = default;

  // What happens to one sample, or to all that share a draw.
  virtual Placement Draw(Stream& stream, Size size) const = 0;
};

// The batch is left as it is: no mixing, or mixing in the training step.
class Leave : public Method {
 public:
  Placement Draw(Stream&, Size) const override { return {}; }
};

}  // namespace dali_mix

#endif  // DALI_MIX_METHODS_METHOD_H_
