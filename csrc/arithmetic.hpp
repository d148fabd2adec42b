// The two arithmetics: Fast for float32 and narrower elements, Exact for float64 and for channels that leave float's range.
//
// Fast    values one at a time in float; sums in float over a few vectors, these in double; per channel in double
// Exact   everything in double, with what rounding takes from x - hi, too; per channel in long double
//
//     y = (x - hi) * (scale + scale_lost) + start + start_lost
//
// (In Fast, results of 16 bits go without what was lost: it is far below their own rounding.)
//
// hi is the mean rounded to the arithmetic's own number, and what that lost is in `start`: x - hi is exact near the
// mean, so that mean / std = 1e7 costs nothing.
#pragma once

#include "activations.hpp"
#include "sums.hpp"

namespace batchnorm::BATCHNORM_VARIANT {

// One channel's constants, in a number with twice the digits of those that they are split into.
template <class Real>
struct Constants {
  double mean_hi = 0, mean_lo = 0;  // the mean: hi + lo
  double rstd = 0;                  // 1 / sqrt(sigma2 + eps)
  Real scale = 0;                   // gamma * rstd
  Real gamma = 1, beta = 0;
};

// How many values a channel has, and their reciprocals: a division per channel is much where channels are many and short.
template <class Real>
struct Count {
  Real values, share, unbiased_share;  // 1 / values and 1 / (values - 1); of no values the sums are left as they are
  explicit Count(Real n) : values(n), share(n > 0 ? 1 / n : 1), unbiased_share(n > 1 ? 1 / (n - 1) : 1) {}
};

// What rounding took from `exact`; an infinite or undefined number has lost nothing.
template <class Number, class Real>
Number difference(Real exact, Number rounded) {
  const auto lost = static_cast<Number>(exact - rounded);
  return std::isfinite(lost) ? lost : Number{0};
}

struct Fast {
  using V = VF;
  using Number = float;
  using Real = double;
  using Sums = ShortSums;      // where `settled` says that they do
  using SureSums = WideSums;
  static constexpr int kLanes = kFloats;
  static constexpr std::int64_t kWork = 1;  // a value's, in float32 values' time
  static constexpr int kSamples = 8;    // that a first guess at the mean is made from, for short sums
  static constexpr int kConstants = 5;  // per channel: hi, scale, start, and what rounding took from scale and start

  // Whether sums of deviations and squares say enough: float held them, and they are not far from the mean. Double does.
  template <class OfKind>
  static bool settled(Pair<double> sums, const Count<double>& count, double eps) {
    if constexpr (std::is_same_v<OfKind, SureSums>) return true;
    const double mean = sums.first * count.share, variance = (sums.second - sums.first * mean) * count.share;
    if (sums.first == 0 && sums.second == 0) return eps > 1e-30;  // constant, or too small to tell, and to matter
    return variance > 1e-30 && variance < 1e30 && mean * mean <= 4 * variance;
  }
  // The same of sums of gradients.
  template <class OfKind>
  static bool settled(Pair<double> sums) {
    if constexpr (std::is_same_v<OfKind, SureSums>) return true;
    const double first = std::abs(sums.first), second = std::abs(sums.second);
    return (first == 0 && second == 0) || (first < 1e30 && second < 1e30 && second > 1e-25);
  }

  // How often a lane counts.
  using Weights = Doubles;
  static BATCHNORM_INLINE Weights weights(double w) { return {splat(w), splat(w)}; }
  static BATCHNORM_INLINE Weights weights(const double* p) { return {unaligned<VD>(p), unaligned<VD>(p + kDoubles)}; }
  // v where a lane counts, else `otherwise`.
  static BATCHNORM_INLINE V where_counted(Weights w, V v, V otherwise) { return narrow(w) > 0.0f ? v : otherwise; }
  static BATCHNORM_INLINE V as_numbers(Weights w) { return narrow(w); }

  struct Apply {
    V hi, scale, start, scale_lost, start_lost;
    BATCHNORM_INLINE V deviation(V x) const { return x - hi; }
    // Which side of an activation's corner a value is on; close enough for its slope.
    BATCHNORM_INLINE V value(V d) const { return d * scale + start; }
    // Two roundings at the size of the result, the deviation's and the last. Where x may be infinite: it has lost
    // nothing. (It may not in training: the statistics would be undefined.)
    template <bool kMayBeInfinite>
    BATCHNORM_INLINE V exact_value(V x) const {
      const V d = x - hi, lost = d * scale_lost + start_lost;
      if constexpr (kMayBeInfinite) return d * scale + (start + (lost - lost == 0.0f ? lost : V{}));
      return d * scale + (start + lost);
    }
  };
  // `at` is the first of kConstants arrays that lie `stride` apart.
  static BATCHNORM_INLINE Apply apply(const float* at, std::int64_t stride) {
    return {unaligned<V>(at), unaligned<V>(at + stride), unaligned<V>(at + 2 * stride), unaligned<V>(at + 3 * stride),
            unaligned<V>(at + 4 * stride)};
  }
  static BATCHNORM_INLINE Apply splat_apply(const float* at) {
    return {splat(at[0]), splat(at[1]), splat(at[2]), splat(at[3]), splat(at[4])};
  }
  static void constants(const Constants<double>& c, float* at, std::int64_t stride) {
    at[0] = static_cast<float>(c.mean_hi);
    const double start = c.beta - ((c.mean_hi - at[0]) + c.mean_lo) * c.scale;
    at[stride] = static_cast<float>(c.scale);
    at[2 * stride] = static_cast<float>(start);
    at[3 * stride] = difference(c.scale, at[stride]);
    at[4 * stride] = difference(start, at[2 * stride]);
  }
  // hi as the backward pass sees it.
  static double hi(const Constants<double>& c) { return static_cast<float>(c.mean_hi); }

  // float cannot hold it: a mean, a deviation, a scale or a slope near the ends of its range. Small scales are harmless
  // unless deviations are large: then so is what rounding takes from the scale's last bits.
  static bool covers(const Constants<double>& c, double m2) {
    const double scale = std::abs(c.scale), slope = scale * c.rstd;
    const bool vanishes = scale > 0 && slope < 1e-20 && c.rstd < 1e-3;
    return !(std::abs(c.mean_hi) > 1e30) && !(m2 > 1e60) && !(scale > 1e30) && !(slope > 1e30) && !vanishes &&
           !(std::abs(c.beta) > 1e37);
  }
};

struct Exact {
  using V = VD;
  using Number = double;
  using Real = long double;
  using Sums = KeepingSums;
  using SureSums = KeepingSums;
  static constexpr int kLanes = kDoubles;
  static constexpr std::int64_t kWork = 8;
  static constexpr int kSamples = 1;
  static constexpr int kConstants = 5;

  // Always a second look, at the squares around the mean that the first one found.
  template <class>
  static bool settled(Pair<long double>, const Count<long double>&, double) { return false; }
  template <class>
  static bool settled(Pair<long double>) { return true; }

  using Weights = VD;
  static BATCHNORM_INLINE Weights weights(double w) { return splat(w); }
  static BATCHNORM_INLINE Weights weights(const double* p) { return unaligned<VD>(p); }
  static BATCHNORM_INLINE V where_counted(Weights w, V v, V otherwise) { return w > 0.0 ? v : otherwise; }
  static BATCHNORM_INLINE V as_numbers(Weights w) { return w; }

  struct Apply {
    V hi, scale, start, scale_lost, start_lost;
    BATCHNORM_INLINE V deviation(V x) const { return x - hi; }
    BATCHNORM_INLINE V value(V d) const { return d * scale + start; }
    // As Fast, with what the deviation's own rounding took (Knuth, TAOCP 2, 4.2.2).
    template <bool>
    BATCHNORM_INLINE V exact_value(V x) const {
      const V d = x - hi;
      const V of_hi = d - x;
      const V lost_of_d = (x - (d - of_hi)) - (hi + of_hi);
      const V lost = d * scale_lost + (lost_of_d * scale + start_lost);
      return d * scale + ((lost - lost == 0.0 ? lost : V{}) + start);  // an infinite value has lost nothing
    }
  };
  static BATCHNORM_INLINE Apply apply(const double* at, std::int64_t stride) {
    return {unaligned<V>(at), unaligned<V>(at + stride), unaligned<V>(at + 2 * stride), unaligned<V>(at + 3 * stride),
            unaligned<V>(at + 4 * stride)};
  }
  static BATCHNORM_INLINE Apply splat_apply(const double* at) {
    return {splat(at[0]), splat(at[1]), splat(at[2]), splat(at[3]), splat(at[4])};
  }
  static void constants(const Constants<long double>& c, double* at, std::int64_t stride) {
    const long double start = c.beta - c.mean_lo * c.scale;
    at[0] = c.mean_hi;
    at[stride] = static_cast<double>(c.scale);
    at[2 * stride] = static_cast<double>(start);
    at[3 * stride] = difference(c.scale, at[stride]);
    at[4 * stride] = difference(start, at[2 * stride]);
  }
  static double hi(const Constants<long double>& c) { return c.mean_hi; }
  static bool covers(const Constants<long double>&, double) { return true; }
};

}  // namespace batchnorm::BATCHNORM_VARIANT
