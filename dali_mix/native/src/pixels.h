// The operator that mixes pixels, as far as both backends share it.  It knows no method: boxes and weights say it all.
#ifndef DALI_MIX_PIXELS_H_
#define DALI_MIX_PIXELS_H_

#include <optional>
#include <string>
#include <vector>

#include "dali/pipeline/operator/arg_helper.h"
#include "dali/pipeline/operator/checkpointing/stateless_operator.h"
#include "pixel.h"
#include "placement.h"
#include "require.h"

namespace dali_mix {

// Images of more are taken only where their layout says so.
constexpr int kLikelyChannels = 4;

template <typename Backend>
class Pixels : public dali::StatelessOperator<Backend> {
 public:
  explicit Pixels(const dali::OpSpec& spec)
      : dali::StatelessOperator<Backend>(spec),
        partner_("partner", spec),
        target_("target", spec),
        source_("source", spec),
        weight_("weight", spec),
        mirror_("mirror", spec),
        image_size_(spec.GetRepeatedArgument<int>("image_size")),
        mean_(spec.GetRepeatedArgument<float>("mean")),
        std_(spec.GetRepeatedArgument<float>("std")),
        dtype_(spec.HasArgument("dtype") ? spec.GetArgument<dali::DALIDataType>("dtype") : DALI_NO_TYPE) {
    DALI_MIX_REQUIRE(mean_.size() == std_.size(), "mean and std must have one value per channel each");
    DALI_MIX_REQUIRE(dtype_ == DALI_NO_TYPE || dtype_ == DALI_FLOAT || dtype_ == DALI_FLOAT16,
                     "dtype must be FLOAT or FLOAT16, got ", dtype_);
  }

 protected:
  using dali::OperatorBase::spec_;

  bool SetupImpl(std::vector<dali::OutputDesc>& outputs, const dali::Workspace& ws) override {
    const auto& images = ws.template Input<Backend>(0);
    DALI_MIX_REQUIRE(images.type() == DALI_UINT8 || images.type() == DALI_FLOAT,
                     "images must be uint8 or float32, got ", images.type(),
                     "; mix before crop_mirror_normalize, or cast");
    DALI_MIX_REQUIRE(images.sample_dim() == 3 && (images.GetLayout().empty() || images.GetLayout() == "HWC"),
                     "images must be (H, W, C), got ", images.sample_dim(), " dimensions, layout \"",
                     images.GetLayout(), "\"; mix before the layout is changed");
    if (images.GetLayout().empty() && images.num_samples() > 0) {
      auto first = images.tensor_shape_span(0);
      DALI_MIX_REQUIRE(first[2] <= kLikelyChannels || first[0] > kLikelyChannels,
                       "images must be (H, W, C), got shape (", first[0], ", ", first[1], ", ", first[2],
                       ") without a layout, which looks like CHW; mix before the layout is changed, and give "
                       "external_source layout='HWC'");
    }
    outputs = {{images.shape(), Normalizes() ? (dtype_ == DALI_NO_TYPE ? DALI_FLOAT : dtype_) : images.type()}};
    return true;
  }

  bool Normalizes() const { return !mean_.empty() || dtype_ != DALI_NO_TYPE; }

  // What is done to each sample; refuses what lies outside of an image.
  std::vector<Sample> Samples(const dali::Workspace& ws) {
    const auto& images = ws.template Input<Backend>(0);
    auto& out = ws.template Output<Backend>(0);
    out.SetLayout(images.GetLayout());
    int n = images.num_samples();
    if (n) Acquire(ws, n);
    std::vector<Sample> samples(n);
    for (int i = 0; i < n; i++) {
      int partner = *partner_[i].data;
      DALI_MIX_REQUIRE(partner >= 0 && partner < n, "partner ", partner, " of sample ", i, " is not in the batch of ",
                       n);
      auto own = images.tensor_shape_span(i), other = images.tensor_shape_span(partner);
      auto first = images.tensor_shape_span(0);  // the partner's number is compared in its own turn
      DALI_MIX_REQUIRE(own[2] == first[2], "the images of a batch differ in channels: image 0 has ", first[2],
                       ", image ", i, " has ", own[2]);
      CheckSize(own, i);
      Box target =
          target_.HasValue() ? Read(target_[i].data) : Box{0, 0, static_cast<int>(own[0]), static_cast<int>(own[1])};
      Box source = source_.HasValue() ? Read(source_[i].data) : target;
      CheckBox(target, own, i, i);
      CheckBox(source, other, i, partner);
      if (target.height() == 0 || target.width() == 0 || *weight_[i].data == 1.0f) target = source = {};
      samples[i] = {images.raw_tensor(i),
                    images.raw_tensor(partner),
                    out.raw_mutable_tensor(i),
                    static_cast<int>(own[0]),
                    static_cast<int>(own[1]),
                    static_cast<int>(other[1]),
                    target.y1,
                    target.x1,
                    target.y2,
                    target.x2,
                    source.y1,
                    source.x1,
                    source.y2,
                    source.x2,
                    *weight_[i].data,
                    *mirror_[i].data != 0,
                    *mirror_[partner].data != 0};
      DALI_MIX_REQUIRE(SameSize(samples[i]) || (source.height() > 0 && source.width() > 0), "the source box of sample ",
                       i, " is empty, its target box is not");
    }
    return samples;
  }

  // For the channels of this batch.
  Normalization NormalizationFor(int channels) const {
    DALI_MIX_REQUIRE(channels <= kMaxChannels, "images of more than ", kMaxChannels,
                     " channels cannot be normalized in this pass, got ", channels,
                     "; use crop_mirror_normalize behind it");
    DALI_MIX_REQUIRE(mean_.empty() || static_cast<int>(mean_.size()) == channels, "mean and std have ", mean_.size(),
                     " values, the images ", channels, " channels");
    Normalization result{};
    for (int c = 0; c < channels; c++) {
      result.mean[c] = mean_.empty() ? 0.0f : mean_[c];
      result.scale[c] = mean_.empty() ? 1.0f : 1.0f / std_[c];
    }
    return result;
  }

 private:
  void Acquire(const dali::Workspace& ws, int n) {
    partner_.Acquire(spec_, ws, n, dali::TensorShape<0>{});
    if (target_.HasValue()) target_.Acquire(spec_, ws, n, dali::TensorShape<1>{4});
    if (source_.HasValue()) source_.Acquire(spec_, ws, n, dali::TensorShape<1>{4});
    weight_.Acquire(spec_, ws, n, dali::TensorShape<0>{});
    if (mirror_.HasArgumentInput()) {
      auto type = ws.ArgumentInput("mirror").type();
      DALI_MIX_REQUIRE(type == DALI_INT32, "mirror must be int32, as coin_flip gives, got ", type);
    }
    mirror_.Acquire(spec_, ws, n, dali::TensorShape<0>{});
  }

  static Box Read(const int* edges) { return {edges[0], edges[1], edges[2], edges[3]}; }

  template <typename Shape>
  void CheckSize(const Shape& own, int i) const {
    DALI_MIX_REQUIRE(image_size_.empty() || (own[0] == image_size_[0] && own[1] == image_size_[1]), "image_size says ",
                     image_size_.empty() ? 0 : image_size_[0], " x ", image_size_.empty() ? 0 : image_size_[1],
                     " pixels, but image ", i, " has ", own[0], " x ", own[1],
                     "; leave image_size out, or resize the images to it");
  }

  template <typename Shape>
  static void CheckBox(const Box& box, const Shape& shape, int i, int image) {
    DALI_MIX_REQUIRE(
        box.y1 >= 0 && box.x1 >= 0 && box.y1 <= box.y2 && box.x1 <= box.x2 && box.y2 <= shape[0] && box.x2 <= shape[1],
        "the box (", box.y1, ", ", box.x1, ", ", box.y2, ", ", box.x2, ") of sample ", i, " does not fit image ", image,
        " of ", shape[0], " x ", shape[1], " pixels; the images of a batch must have one size");
  }

  dali::ArgValue<int, 0> partner_;
  dali::ArgValue<int, 1> target_, source_;
  dali::ArgValue<float, 0> weight_;
  dali::ArgValue<int, 0> mirror_;
  std::vector<int> image_size_;
  std::vector<float> mean_, std_;
  dali::DALIDataType dtype_;
};

}  // namespace dali_mix

#endif  // DALI_MIX_PIXELS_H_
