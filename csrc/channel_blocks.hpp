// Channels in blocks: what channels.hpp says of one channel, for many at once, in loops that become vectors. A batch that
// is wide and short has little else to do.
//
// For Fast, whose Real is double, and with the same formulas in the same order: a channel's numbers do not depend on
// whether it came alone.
#pragma once

#include <algorithm>
#include <array>

#include "channels.hpp"

namespace batchnorm::BATCHNORM_VARIANT {

// Whether there is arithmetic for blocks.
template <class M>
inline constexpr bool kInBlocks = std::is_same_v<M, Fast>;

inline constexpr std::int64_t kBlock = 64;  // channels at a time
using Block = double[kBlock];
inline constexpr Block kNone{};
inline constexpr auto kOnes = [] {
  std::array<double, kBlock> ones{};
  ones.fill(1);
  return ones;
}();
inline constexpr const double* kAll = kOnes.data();

// The values of the channels from `begin`; `absent` where there are none.
template <class E>
BATCHNORM_INLINE void read_as(const void* data, std::int64_t begin, std::int64_t count, double* to) {
  const E* from = static_cast<const E*>(data) + begin;
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) to[i] = to_double(from[i]);
}
inline void read_values(Parameter p, std::int64_t begin, std::int64_t count, double absent, double* to) {
  if (p.data == nullptr) return static_cast<void>(std::fill_n(to, count, absent));
  switch (p.element) {
    case Element::f32: return read_as<float>(p.data, begin, count, to);
    case Element::f64: return read_as<double>(p.data, begin, count, to);
    case Element::bf16: return read_as<bf16>(p.data, begin, count, to);
    default: return read_as<f16>(p.data, begin, count, to);
  }
}
inline void write_values(Parameter p, std::int64_t begin, std::int64_t count, const double* from) {
  if (p.data == nullptr) return;
  if (p.element == Element::f32) {
    float* to = static_cast<float*>(p.data) + begin;
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(from[i]);
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) set_value(p, begin + i, from[i]);
}

// The constants of a block's channels, as Constants has them for one.
struct ConstantsBlock {
  Block mean_hi, mean_lo, rstd, scale, beta;

  // Five float arrays that lie `stride` apart.
  void split(std::int64_t count, float* at, std::int64_t stride) const {
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
      const float hi = static_cast<float>(mean_hi[i]);
      const double start = beta[i] - ((mean_hi[i] - hi) + mean_lo[i]) * scale[i];
      const float scale_hi = static_cast<float>(scale[i]), start_hi = static_cast<float>(start);
      const float scale_lost = static_cast<float>(scale[i] - scale_hi), start_lost = static_cast<float>(start - start_hi);
      at[i] = hi;
      at[stride + i] = scale_hi;
      at[2 * stride + i] = start_hi;
      at[3 * stride + i] = scale_lost - scale_lost == 0 ? scale_lost : 0;
      at[4 * stride + i] = start_lost - start_lost == 0 ? start_lost : 0;
    }
  }

  // How many of them float does not cover; see Fast::covers. `counted`: 1 for those that are asked for, else 0.
  double uncovered(std::int64_t count, const double* m2, const double* counted) const {
    double found = 0;
#pragma omp simd reduction(+ : found)
    for (std::int64_t i = 0; i < count; ++i) {
      const double magnitude = std::abs(scale[i]), slope = magnitude * rstd[i];
      const bool vanishes = magnitude > 0 && slope < 1e-20 && rstd[i] < 1e-3;
      const bool leaves = std::abs(mean_hi[i]) > 1e30 || m2[i] > 1e60 || magnitude > 1e30 || slope > 1e30 || vanishes ||
                          std::abs(beta[i]) > 1e37;
      found += leaves ? counted[i] : 0.0;
    }
    return found;
  }
};

// set_moments and Fast::settled. Returns how many are not settled; `settled` is 1 or 0.
template <class Kind>
double set_moments(Centre centre, std::int64_t begin, std::int64_t length, const double* anchors, const double* first,
                   const double* second, const Count<double>& count, double eps, double* settled) {
  const double values = count.values > 0 ? count.values : 1;
  double *anchor = centre.anchor() + begin, *lost = centre.shift() + begin, *m2 = centre.m2() + begin, left = 0;
#pragma omp simd
  for (std::int64_t i = 0; i < length; ++i) {
    const double shift = first[i] / values, squares = second[i] - first[i] * shift;
    const double hi = anchors[i] + shift;
    anchor[i] = hi;
    lost[i] = (anchors[i] - hi) + shift;
    m2[i] = squares < 0 ? 0.0 : squares;
  }
  const bool may_be_constant = eps > 1e-30;
#pragma omp simd reduction(+ : left)
  for (std::int64_t i = 0; i < length; ++i) {
    const double mean = first[i] * count.share, variance = (second[i] - first[i] * mean) * count.share;
    const bool constant = first[i] == 0 && second[i] == 0;
    const bool near = variance > 1e-30 && variance < 1e30 && mean * mean <= 4 * variance;
    settled[i] = std::is_same_v<Kind, typename Fast::SureSums> || (constant ? may_be_constant : near) ? 1.0 : 0.0;
    left += 1 - settled[i];
  }
  return left;
}

// constants_of: in training from a centre that is set, at test time from the running statistics; sets rstd.
inline void constants_of(const Forward& f, std::int64_t begin, std::int64_t length, const Count<double>& count,
                         ConstantsBlock& k) {
  double *hi = f.centre.anchor() + begin, *lo = f.centre.shift() + begin, *rstd = f.centre.rstd() + begin;
  Block gamma, variance;
  read_values(f.gamma, begin, length, 1, gamma);
  read_values(f.beta, begin, length, 0, k.beta);
  if (f.training) {
    const double* m2 = f.centre.m2() + begin;
#pragma omp simd
    for (std::int64_t i = 0; i < length; ++i) variance[i] = m2[i] * count.share;
  } else {
    read_values(f.running_mean, begin, length, 0, hi);
    std::fill_n(lo, length, 0.0);
    read_values(f.running_var, begin, length, 1, variance);
  }
#pragma omp simd
  for (std::int64_t i = 0; i < length; ++i) {
    k.mean_hi[i] = hi[i];
    k.mean_lo[i] = lo[i];
    k.rstd[i] = rstd[i] = 1 / std::sqrt(variance[i] + f.eps);
    k.scale[i] = gamma[i] * k.rstd[i];
  }
}

// move_running, where `counted` is 1. Returns how many were refused.
inline double move_running(const Forward& f, std::int64_t begin, std::int64_t length, const Count<double>& count,
                           const double* counted) {
  const double *hi = f.centre.anchor() + begin, *lo = f.centre.shift() + begin, *m2 = f.centre.m2() + begin;
  const bool narrow = f.running_mean.element != Element::f64;
  const double limit = narrow ? std::numeric_limits<float>::max() : std::numeric_limits<double>::max();
  Block mean, variance;
  read_values(f.running_mean, begin, length, 0, mean);
  read_values(f.running_var, begin, length, 1, variance);
  double refused = 0;
#pragma omp simd reduction(+ : refused)
  for (std::int64_t i = 0; i < length; ++i) {
    const double new_mean = hi[i] + lo[i], new_variance = m2[i] * count.unbiased_share;
    const bool fits = std::abs(new_mean) <= limit && new_variance <= limit;
    const double moved_mean = mean[i] + f.momentum * (new_mean - mean[i]);
    const double moved_variance = variance[i] + f.momentum * (new_variance - variance[i]);
    const bool moves = fits && counted[i] != 0;
    mean[i] = moves ? moved_mean : mean[i];
    variance[i] = moves ? moved_variance : variance[i];
    refused += fits ? 0.0 : counted[i];
  }
  write_values(f.running_mean, begin, length, mean);
  write_values(f.running_var, begin, length, variance);
  return refused;
}

// known_constants.
inline void known_constants(const Backward& b, std::int64_t begin, std::int64_t length, ConstantsBlock& k) {
  const double *hi = b.centre.anchor() + begin, *lo = b.centre.shift() + begin, *rstd = b.centre.rstd() + begin;
  Block gamma;
  read_values(b.gamma, begin, length, 1, gamma);
  read_values(b.beta, begin, length, 0, k.beta);
#pragma omp simd
  for (std::int64_t i = 0; i < length; ++i) {
    k.mean_hi[i] = hi[i];
    k.mean_lo[i] = lo[i];
    k.rstd[i] = rstd[i];
    k.scale[i] = gamma[i] * rstd[i];
  }
}

// Fast::settled, of sums of gradients. Returns how many are not; `settled` is 1 or 0.
inline double settled_gradients(std::int64_t length, const double* first, const double* second, double* settled) {
  double left = 0;
#pragma omp simd reduction(+ : left)
  for (std::int64_t i = 0; i < length; ++i) {
    const double a = std::abs(first[i]), b = std::abs(second[i]);
    settled[i] = (a == 0 && b == 0) || (a < 1e30 && b < 1e30 && b > 1e-25) ? 1.0 : 0.0;
    left += 1 - settled[i];
  }
  return left;
}

// slope_of: three float arrays that lie `stride` apart, and gamma's and beta's gradients.
inline void slopes_of(const Backward& b, std::int64_t begin, std::int64_t length, const ConstantsBlock& k,
                      const double* first, const double* second, const Count<double>& count, float* at,
                      std::int64_t stride) {
  const bool training = b.training;
  Block dgamma;
#pragma omp simd
  for (std::int64_t i = 0; i < length; ++i) {
    const double rest = (k.mean_hi[i] - static_cast<float>(k.mean_hi[i])) + k.mean_lo[i];
    dgamma[i] = (second[i] - rest * first[i]) * k.rstd[i];
    const double share = -k.scale[i] * count.share, along = share * k.rstd[i] * dgamma[i];
    at[i] = static_cast<float>(k.scale[i]);
    at[stride + i] = training ? static_cast<float>(along) : 0.0f;
    at[2 * stride + i] = training ? static_cast<float>(share * first[i] - rest * along) : 0.0f;
  }
  write_values(b.dbeta, begin, length, first);
  write_values(b.dgamma, begin, length, dgamma);
}

}  // namespace batchnorm::BATCHNORM_VARIANT
