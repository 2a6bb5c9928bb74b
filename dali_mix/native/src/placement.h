// What is decided for one sample, and the boxes it is made of.
#ifndef DALI_MIX_PLACEMENT_H_
#define DALI_MIX_PLACEMENT_H_

namespace dali_mix {

struct Size {
  int height, width;
};

// Half-open, in pixels.
struct Box {
  int y1 = 0, x1 = 0, y2 = 0, x2 = 0;

  int height() const { return y2 - y1; }
  int width() const { return x2 - x1; }
};

// Outside `target` the own image stays.  Inside, it is blended with what the partner has in `source`, scaled to the
// size of `target`: `weight` is the own image's.
struct Placement {
  Box target, source;
  float weight = 1;
  float lam = 1;  // the weight of the own label
};

inline double Share(const Box& box, Size size) {
  return static_cast<double>(box.height()) * box.width() / (static_cast<double>(size.height) * size.width);
}

}  // namespace dali_mix

#endif  // DALI_MIX_PLACEMENT_H_
