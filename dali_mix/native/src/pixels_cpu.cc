// Mixing pixels on the CPU: one pass over the batch, by rows, in DALI's thread pool.
#include <algorithm>
#include <vector>

#include "dali/core/static_switch.h"
#include "pixels.h"
#include "rows.h"

namespace dali_mix {

using dali::CPUBackend;
using dali::Workspace;

namespace {

// Batches of fewer bytes take less time than waking the threads.
constexpr int64_t kSerialBytes = 64 << 10;
constexpr int kChunksPerThread = 4;

// What one thread needs of its own.
struct Scratch {
  std::vector<uint8_t> own, partner;
  std::vector<float> mixed;
};

// Mean and scale, repeated along a row.
struct RowNormalization {
  int channels = 0;
  std::vector<float> mean, scale;
};

template <typename In>
const In* RowOf(const void* pixels, int y, int width, int channels, bool mirrored, std::vector<uint8_t>& scratch) {
  const In* row = static_cast<const In*>(pixels) + static_cast<int64_t>(y) * width * channels;
  if (!mirrored) return row;
  scratch.resize(static_cast<size_t>(width) * channels * sizeof(In));
  In* copy = reinterpret_cast<In*>(scratch.data());
  rows::Mirror(copy, row, width, channels);
  return copy;
}

template <typename In>
void Store(In* out, const In* own, int n) {
  std::memcpy(out, own, n * sizeof(In));
}

inline uint8_t Rounded(uint8_t, float value) { return Level(value); }
inline float Rounded(float, float value) { return value; }

// The stretch of row y inside the target box, for boxes of two sizes; the rest of the row is its own.
template <typename In, typename Put>
void Resample(const Sample& sample, int channels, int y, Put put) {
  for (int x = sample.x1; x < sample.x2; x++)
    for (int c = 0; c < channels; c++) put(x * channels + c, Mixed<In>(sample, channels, y, x, c));
}

// Row y of a mixed image, of the type of the input.
template <typename In>
void MixRow(In* out, const Sample& sample, int channels, int y, Scratch& scratch) {
  int n = sample.width * channels;
  const In* own = RowOf<In>(sample.own, y, sample.width, channels, sample.mirrored, scratch.own);
  if (y < sample.y1 || y >= sample.y2) return Store(out, own, n);
  int start = sample.x1 * channels, end = sample.x2 * channels;
  Store(out, own, start);
  Store(out + end, own + end, n - end);
  if (!SameSize(sample))
    return Resample<In>(sample, channels, y, [out](int i, float value) { out[i] = Rounded(In{}, value); });
  const In* other = RowOf<In>(sample.partner, y - sample.y1 + sample.source_y1, sample.partner_width, channels,
                              sample.partner_mirrored, scratch.partner) +
                    sample.source_x1 * channels;
  if (sample.weight == 0)
    Store(out + start, other, end - start);
  else
    rows::BlendTo(out + start, own + start, other, sample.weight, end - start);
}

// The same, normalised.
template <typename In>
void MixNormalizedRow(float* out, const Sample& sample, int channels, int y, const RowNormalization& by,
                      Scratch& scratch) {
  int n = sample.width * channels;
  const float *mean = by.mean.data(), *scale = by.scale.data();
  const In* own = RowOf<In>(sample.own, y, sample.width, channels, sample.mirrored, scratch.own);
  if (y < sample.y1 || y >= sample.y2) return rows::Normalize(out, own, mean, scale, n);
  int start = sample.x1 * channels, end = sample.x2 * channels;
  rows::Normalize(out, own, mean, scale, start);
  rows::Normalize(out + end, own + end, mean, scale, n - end);  // the channels start anew at each pixel
  if (!SameSize(sample))
    return Resample<In>(sample, channels, y, [=](int i, float value) { out[i] = (value - mean[i]) * scale[i]; });
  const In* other = RowOf<In>(sample.partner, y - sample.y1 + sample.source_y1, sample.partner_width, channels,
                              sample.partner_mirrored, scratch.partner) +
                    sample.source_x1 * channels;
  if (sample.weight == 0)
    rows::Normalize(out + start, other, mean, scale, end - start);
  else
    rows::BlendNormalize(out + start, own + start, other, sample.weight, mean, scale, end - start);
}

}  // namespace

class PixelsCpu : public Pixels<CPUBackend> {
 public:
  using Pixels::Pixels;

 protected:
  void RunImpl(Workspace& ws) override {
    std::vector<Sample> samples = Samples(ws);
    if (samples.empty()) return;
    const auto& images = ws.Input<CPUBackend>(0);
    channels_ = static_cast<int>(images.tensor_shape_span(0)[2]);
    if (Normalizes()) Prepare(samples);
    bool half = ws.Output<CPUBackend>(0).type() == DALI_FLOAT16;
    TYPE_SWITCH(images.type(), dali::type2id, In, (uint8_t, float), (Run<In>(ws, samples, half)), (DALI_FAIL("")));
  }

 private:
  void Prepare(const std::vector<Sample>& samples) {
    int widest = 0;
    for (const Sample& sample : samples) widest = std::max(widest, sample.width);
    size_t length = static_cast<size_t>(widest) * channels_;
    if (by_.mean.size() == length && by_.channels == channels_) return;
    Normalization normalization = NormalizationFor(channels_);
    by_.channels = channels_;
    by_.mean.resize(length);
    by_.scale.resize(length);
    for (size_t i = 0; i < length; i++) {
      by_.mean[i] = normalization.mean[i % channels_];
      by_.scale[i] = normalization.scale[i % channels_];
    }
  }

  template <typename In>
  void Row(const Sample& sample, int y, bool half, Scratch& scratch) const {
    int64_t n = static_cast<int64_t>(sample.width) * channels_;
    if (!Normalizes()) {
      MixRow(static_cast<In*>(sample.out) + y * n, sample, channels_, y, scratch);
    } else if (!half) {
      MixNormalizedRow<In>(static_cast<float*>(sample.out) + y * n, sample, channels_, y, by_, scratch);
    } else {
      scratch.mixed.resize(n);
      MixNormalizedRow<In>(scratch.mixed.data(), sample, channels_, y, by_, scratch);
      rows::Halve(static_cast<Half*>(sample.out) + y * n, scratch.mixed.data(), static_cast<int>(n));
    }
  }

  // Rows are dealt out in equal chunks, whatever sample they belong to: a small batch uses all threads, too.
  template <typename In>
  void Run(Workspace& ws, const std::vector<Sample>& samples, bool half) {
    std::vector<int64_t> first_row(samples.size() + 1, 0);
    for (size_t i = 0; i < samples.size(); i++) first_row[i + 1] = first_row[i] + samples[i].height;
    int64_t total = first_row.back();
    auto work = [this, &samples, &first_row, half](int64_t begin, int64_t end) {
      Scratch scratch;
      size_t i = std::upper_bound(first_row.begin(), first_row.end(), begin) - first_row.begin() - 1;
      for (int64_t row = begin; row < end; row++) {
        while (row >= first_row[i + 1]) i++;
        Row<In>(samples[i], static_cast<int>(row - first_row[i]), half, scratch);
      }
    };
    if (static_cast<int64_t>(ws.Output<CPUBackend>(0).nbytes()) <= kSerialBytes) return work(0, total);
    auto& pool = ws.GetThreadPool();
    int64_t chunks = std::min<int64_t>(total, int64_t{kChunksPerThread} * pool.NumThreads());
    for (int64_t c = 0; c < chunks; c++) pool.AddWork([=](int) { work(total * c / chunks, total * (c + 1) / chunks); });
    pool.RunAll();
  }

  int channels_ = 0;
  RowNormalization by_;
};

}  // namespace dali_mix

DALI_SCHEMA(dali_mix__Pixels)
    .DocStr(R"(Fill a box of each image from a partner in the batch, in one pass.

Outside ``target`` the own image stays; inside, it is blended with the partner's ``source``, which is scaled to the
size of ``target`` (bilinear). Partners are read from the unmixed batch. Images are uint8 or float32 (H, W, C), the
output has their type and layout, or with ``mean`` and ``std`` or ``dtype`` is normalized: ``(x - mean) / std``.)")
    .NumInput(1)
    .NumOutput(1)
    .AddArg("partner", "The place in the batch of the sample that is mixed in.", DALI_INT32, true)
    .AddOptionalArg<std::vector<int>>("target", "Box y1, x1, y2, x2 in pixels, half-open; default: all.", nullptr, true)
    .AddOptionalArg<std::vector<int>>("source", "Box in the partner; default: the target's.", nullptr, true)
    .AddOptionalArg("weight", "Of the own image, inside the target box.", 0.0f, true)
    .AddOptionalArg("mirror", "1 flips the image left to right before it is mixed.", 0, true)
    .AddOptionalArg("image_size", "Height and width that all images must have.", std::vector<int>{})
    .AddOptionalArg("mean", "One value per channel, in the unit of the images.", std::vector<float>{})
    .AddOptionalArg("std", "One value per channel, in the unit of the images.", std::vector<float>{})
    .AddOptionalTypeArg("dtype", "FLOAT (default) or FLOAT16, of normalized images.");
DALI_REGISTER_OPERATOR(dali_mix__Pixels, dali_mix::PixelsCpu, dali::CPU);
