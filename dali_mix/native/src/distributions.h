// What is drawn from a stream of uniform numbers: partners and Beta weights.
#ifndef DALI_MIX_DISTRIBUTIONS_H_
#define DALI_MIX_DISTRIBUTIONS_H_

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "philox.h"

namespace dali_mix {

// Beta(alpha, alpha), alpha > 0.
// Sources: Johnk 1964 for alpha <= 1, in logarithms where the powers underflow; Cheng 1978, algorithm BB, above.
inline double SymmetricBeta(Stream& stream, double alpha) {
  if (alpha <= 1) {
    while (true) {
      double x = std::log(stream.Uniform()) / alpha, y = std::log(stream.Uniform()) / alpha;
      double largest = std::max(x, y);
      double sum = largest + std::log(std::exp(x - largest) + std::exp(y - largest));
      if (sum <= 0) return std::exp(x - sum);
    }
  }
  const double rate = std::sqrt((2 * alpha - 2) / (2 * alpha * alpha - 2 * alpha));
  const double gamma = alpha + 1 / rate;
  while (true) {
    double u = stream.Uniform(), v = stream.Uniform();
    double logit = rate * std::log(u / (1 - u));
    double w = alpha * std::exp(logit);
    double r = gamma * logit - std::log(4.0);
    if (r + 2 * alpha * std::log(2 * alpha / (alpha + w)) >= std::log(u * u * v)) {
      // alpha / (alpha + w) is the same by symmetry; of the two forms, this one cannot be inf / inf.
      return alpha / (alpha + w);
    }
  }
}

// A uniform permutation of 0 .. n-1 without fixed points; n = 1 has only the one with.
inline std::vector<int> Derangement(Stream& stream, int n) {
  std::vector<int> order(n);
  while (true) {
    std::iota(order.begin(), order.end(), 0);
    // Fisher-Yates from the end: place i is final once it is swapped, so a fixed point ends the attempt.
    // One attempt in e succeeds; those that do are uniform over all derangements.
    int i = n - 1;
    for (; i > 0; i--) {
      std::swap(order[i], order[stream.Below(i + 1)]);
      if (order[i] == i) break;
    }
    if (i <= 0 && (n <= 1 || order[0] != 0)) return order;
  }
}

}  // namespace dali_mix

#endif  // DALI_MIX_DISTRIBUTIONS_H_
