// What is decided for an image: a list of steps.  It travels through the graph as rows of four numbers.
#ifndef DALI_MIX_AUGMENT_STEPS_H_
#define DALI_MIX_AUGMENT_STEPS_H_

namespace dali_mix::augment {

// The order is part of nothing that is kept: steps live as long as a batch.
enum class Op : int {
  kNone,
  kFlip,  // argument: along the columns (left to right), option: along the rows
  // Tables, in the order of Table.
  kAutoContrast,  // no argument
  kEqualize,
  kContrast,  // the factor of ImageEnhance
  kInvert,
  kPosterize,    // bits that are kept
  kSolarize,     // first level that is inverted
  kSolarizeAdd,  // what is added to levels below 128
  kBrightness,   // the factor of ImageEnhance, as of the next two
  kColor,
  kSharpness,
  kRotate,  // degrees, counter-clockwise; the option of this and the next four is a Filter
  kShearX,  // factors
  kShearY,
  kTranslateX,  // shares of the side
  kTranslateY,
  kBlur,      // radius of Pillow's GaussianBlur
  kGaussian,  // sigma of torchvision's GaussianBlur, kernel size 23
  kHue,       // shift of the hue, 0 to 255
  kErase      // argument and option: the key of boxes and noise; extra: number of boxes
};

struct Step {
  Op op = Op::kNone;
  double argument = 0, option = 0, extra = 0;
};

constexpr int kStepNumbers = 4;

inline Step ReadStep(const double* row) { return {static_cast<Op>(static_cast<int>(row[0])), row[1], row[2], row[3]}; }

inline void WriteStep(const Step& step, double* row) {
  row[0] = static_cast<int>(step.op), row[1] = step.argument, row[2] = step.option, row[3] = step.extra;
}

}  // namespace dali_mix::augment

#endif  // DALI_MIX_AUGMENT_STEPS_H_
