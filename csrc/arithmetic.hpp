// The two arithmetics: Fast for float32 and narrower elements, Exact for float64 and for channels that leave float's range.
//
// Fast    sums in double, one value at a time in float
// Exact   everything in double, with what rounding takes from x - hi, too
//
//     y = (x - hi) * (scale + scale_lost) + start + start_lost
//
// hi is the mean rounded to the arithmetic's own number, and what that lost is in `start`: x - hi is exact near the
// mean, so that mean / std = 1e7 costs nothing.
#pragma once

#include "activations.hpp"

namespace batchnorm::BATCHNORM_VARIANT {

// One channel's constants, computed with the digits of long double and split.
struct Constants {
  double mean_hi = 0, mean_lo = 0;    // the mean: hi + lo
  double rstd = 0;                    // 1 / sqrt(sigma2 + eps)
  double scale = 0, scale_lost = 0;   // gamma * rstd
  long double gamma = 1, beta = 0;

  void set_scale(long double s) {
    scale = static_cast<double>(s);
    scale_lost = std::isfinite(scale) ? static_cast<double>(s - scale) : 0.0;
  }
};

// --- sums ----------------------------------------------------------------------------------------------------------

// a + b, and what rounding took from it (Knuth, TAOCP 2, 4.2.2).
BATCHNORM_INLINE void add_keeping(VD& sum, VD& lost, VD b) {
  const VD s = sum + b;
  const VD of_b = s - sum;
  lost += (sum - (s - of_b)) + (b - of_b);
  sum = s;
}

// Two sums of one channel: of deviations and of their squares, or of g and of g times the deviation.
struct WidePair {
  long double first = 0, second = 0;
  void add(WidePair other) { first += other.first, second += other.second; }
};

struct Fast {
  using V = VF;
  static constexpr int kLanes = kFloats;
  static constexpr bool kTwoLooks = false;
  static constexpr int kConstants = 5;  // per channel: hi, scale, start, and what rounding took from scale and start

  // Two sums in double, lanes apart.
  struct Sums {
    VD a0{}, a1{}, b0{}, b1{};
    BATCHNORM_INLINE void add(Doubles a, Doubles b_left, Doubles b_right) {
      a0 += a.low;
      a1 += a.high;
      b0 += b_left.low * b_right.low;
      b1 += b_left.high * b_right.high;
    }
    BATCHNORM_INLINE void merge(const Sums& other) { a0 += other.a0, a1 += other.a1, b0 += other.b0, b1 += other.b1; }
    WidePair totals() const { return {total(a0) + total(a1), total(b0) + total(b1)}; }
    // Lane by lane into kArrays arrays that lie `stride` apart: for rows, where every lane is a channel.
    static constexpr int kArrays = 2;
    BATCHNORM_INLINE void load(const double* at, std::int64_t stride) {
      a0 = unaligned<VD>(at), a1 = unaligned<VD>(at + kDoubles);
      b0 = unaligned<VD>(at + stride), b1 = unaligned<VD>(at + stride + kDoubles);
    }
    BATCHNORM_INLINE void store(double* at, std::int64_t stride) const {
      std::memcpy(at, &a0, sizeof a0), std::memcpy(at + kDoubles, &a1, sizeof a1);
      std::memcpy(at + stride, &b0, sizeof b0), std::memcpy(at + stride + kDoubles, &b1, sizeof b1);
    }
    static WidePair totals(const double* at, std::int64_t stride) { return {at[0], at[stride]}; }
  };

  // Per-lane anchors, and how often a lane counts, in double.
  using Anchor = Doubles;
  using Weights = Doubles;
  static BATCHNORM_INLINE Weights weights(double w) { return {splat(w), splat(w)}; }
  static BATCHNORM_INLINE Weights weights(const double* p) { return anchors(p); }
  // v where a lane counts, else `otherwise`.
  static BATCHNORM_INLINE V where_counted(Weights w, V v, V otherwise) { return narrow(w) > 0.0f ? v : otherwise; }
  static BATCHNORM_INLINE V as_numbers(Weights w) { return narrow(w); }
  static BATCHNORM_INLINE Anchor anchor(double value) { return {splat(value), splat(value)}; }
  static BATCHNORM_INLINE Anchor anchors(const double* p) { return {unaligned<VD>(p), unaligned<VD>(p + kDoubles)}; }

  // sum of (x - anchor) and of its square.
  static BATCHNORM_INLINE void add_moments(Sums& sums, V x, Anchor anchor) {
    const Doubles wide = widen(x);
    const Doubles d{wide.low - anchor.low, wide.high - anchor.high};
    sums.add(d, d, d);
  }
  static BATCHNORM_INLINE void add_weighted_moments(Sums& sums, V x, Anchor anchor, Doubles w) {
    const Doubles wide = widen(x);
    const Doubles d{wide.low - anchor.low, wide.high - anchor.high};
    const Doubles wd{w.low * d.low, w.high * d.high};
    sums.add(wd, wd, d);
  }
  // sum of g and of g * d.
  static BATCHNORM_INLINE void add_gradients(Sums& sums, V g, V d) {
    const Doubles wide_g = widen(g);
    sums.add(wide_g, wide_g, widen(d));
  }

  struct Apply {
    V hi, scale, start, scale_lost, start_lost;
    BATCHNORM_INLINE V deviation(V x) const { return x - hi; }
    // Which side of an activation's corner a value is on; close enough for its slope.
    BATCHNORM_INLINE V value(V d) const { return d * scale + start; }
    // Two roundings at the size of the result, the deviation's and the last.
    BATCHNORM_INLINE V exact_value(V x) const {
      const V d = x - hi, lost = d * scale_lost + start_lost;
      return d * scale + (start + (lost - lost == 0.0f ? lost : V{}));  // an infinite value has lost nothing
    }
  };
  // `at` is the first of kConstants arrays that lie `stride` apart.
  static BATCHNORM_INLINE Apply apply(const float* at, std::int64_t stride) {
    return {unaligned<V>(at), unaligned<V>(at + stride), unaligned<V>(at + 2 * stride), unaligned<V>(at + 3 * stride),
            unaligned<V>(at + 4 * stride)};
  }
  using Number = float;
  static void constants(const Constants& c, float* at, std::int64_t stride) {
    at[0] = static_cast<float>(c.mean_hi);
    const long double lo = (static_cast<long double>(c.mean_hi) - at[0]) + c.mean_lo;
    const long double scale = static_cast<long double>(c.scale) + c.scale_lost, start = c.beta - lo * scale;
    at[stride] = static_cast<float>(scale);
    at[2 * stride] = static_cast<float>(start);
    at[3 * stride] = difference(scale, at[stride]);
    at[4 * stride] = difference(start, at[2 * stride]);
  }
  // What rounding took; an infinite or undefined number has lost nothing.
  static float difference(long double exact, float rounded) {
    const auto lost = static_cast<float>(exact - rounded);
    return std::isfinite(lost) ? lost : 0.0f;
  }
  static BATCHNORM_INLINE Apply splat_apply(const float* at) {
    return {splat(at[0]), splat(at[1]), splat(at[2]), splat(at[3]), splat(at[4])};
  }
  // hi as the backward pass sees it, and what is left of the mean.
  static double hi(const Constants& c) { return static_cast<float>(c.mean_hi); }

  // float cannot hold it: a mean, a deviation, a scale or a slope near the ends of its range. Small scales are harmless
  // unless deviations are large: then so is what rounding takes from the scale's last bits.
  static bool covers(const Constants& c, double m2) {
    const double size = std::abs(c.mean_hi) + std::sqrt(m2), scale = std::abs(c.scale), slope = scale * c.rstd;
    const bool vanishes = scale > 0 && slope < 1e-20 && c.rstd < 1e-3;
    return !(size > 1e30) && !(scale > 1e30) && !(slope > 1e30) && !vanishes && !(std::abs(c.beta) > 1e37L);
  }
};

struct Exact {
  using V = VD;
  static constexpr int kLanes = kDoubles;
  static constexpr bool kTwoLooks = true;  // first the mean, then the squares around it
  static constexpr int kConstants = 5;

  struct Sums {
    VD a{}, a_lost{}, b{}, b_lost{};
    BATCHNORM_INLINE void merge(const Sums& other) {
      add_keeping(a, a_lost, other.a);
      add_keeping(b, b_lost, other.b);
      a_lost += other.a_lost;
      b_lost += other.b_lost;
    }
    WidePair totals() const {
      long double first = 0, second = 0;
      for (int i = 0; i < kDoubles; ++i) first += a[i], second += b[i];
      for (int i = 0; i < kDoubles; ++i) first += a_lost[i], second += b_lost[i];
      return {first, second};
    }
    static constexpr int kArrays = 4;
    BATCHNORM_INLINE void load(const double* at, std::int64_t stride) {
      a = unaligned<VD>(at), a_lost = unaligned<VD>(at + stride);
      b = unaligned<VD>(at + 2 * stride), b_lost = unaligned<VD>(at + 3 * stride);
    }
    BATCHNORM_INLINE void store(double* at, std::int64_t stride) const {
      std::memcpy(at, &a, sizeof a), std::memcpy(at + stride, &a_lost, sizeof a);
      std::memcpy(at + 2 * stride, &b, sizeof b), std::memcpy(at + 3 * stride, &b_lost, sizeof b);
    }
    static WidePair totals(const double* at, std::int64_t stride) {
      return {static_cast<long double>(at[0]) + at[stride], static_cast<long double>(at[2 * stride]) + at[3 * stride]};
    }
  };

  using Anchor = VD;
  using Weights = VD;
  static BATCHNORM_INLINE Anchor anchor(double value) { return splat(value); }
  static BATCHNORM_INLINE Anchor anchors(const double* p) { return unaligned<VD>(p); }
  static BATCHNORM_INLINE Weights weights(double w) { return splat(w); }
  static BATCHNORM_INLINE Weights weights(const double* p) { return unaligned<VD>(p); }
  static BATCHNORM_INLINE V where_counted(Weights w, V v, V otherwise) { return w > 0.0 ? v : otherwise; }
  static BATCHNORM_INLINE V as_numbers(Weights w) { return w; }

  static BATCHNORM_INLINE void add_moments(Sums& sums, V x, Anchor anchor) {
    const V d = x - anchor;
    add_keeping(sums.a, sums.a_lost, d);
    add_keeping(sums.b, sums.b_lost, d * d);
  }
  static BATCHNORM_INLINE void add_weighted_moments(Sums& sums, V x, Anchor anchor, V w) {
    const V d = x - anchor;
    add_keeping(sums.a, sums.a_lost, w * d);
    add_keeping(sums.b, sums.b_lost, w * d * d);
  }
  static BATCHNORM_INLINE void add_gradients(Sums& sums, V g, V d) {
    add_keeping(sums.a, sums.a_lost, g);
    add_keeping(sums.b, sums.b_lost, g * d);
  }

  struct Apply {
    V hi, scale, start, scale_lost, start_lost;
    BATCHNORM_INLINE V deviation(V x) const { return x - hi; }
    BATCHNORM_INLINE V value(V d) const { return d * scale + start; }
    // As Fast, with what the deviation's own rounding took (Knuth, TAOCP 2, 4.2.2).
    BATCHNORM_INLINE V exact_value(V x) const {
      const V d = x - hi;
      const V of_hi = d - x;
      const V lost_of_d = (x - (d - of_hi)) - (hi + of_hi);
      const V lost = d * scale_lost + (lost_of_d * scale + start_lost);
      return d * scale + ((lost - lost == 0.0 ? lost : V{}) + start);  // an infinite value has lost nothing
    }
  };
  using Number = double;
  static BATCHNORM_INLINE Apply apply(const double* at, std::int64_t stride) {
    return {unaligned<V>(at), unaligned<V>(at + stride), unaligned<V>(at + 2 * stride), unaligned<V>(at + 3 * stride),
            unaligned<V>(at + 4 * stride)};
  }
  static void constants(const Constants& c, double* at, std::int64_t stride) {
    const long double scale = static_cast<long double>(c.scale) + c.scale_lost;
    const long double start = c.beta - c.mean_lo * scale;
    at[0] = c.mean_hi;
    at[stride] = c.scale;
    at[2 * stride] = static_cast<double>(start);
    at[3 * stride] = c.scale_lost;
    at[4 * stride] = static_cast<double>(start - at[2 * stride]);
  }
  static BATCHNORM_INLINE Apply splat_apply(const double* at) {
    return {splat(at[0]), splat(at[1]), splat(at[2]), splat(at[3]), splat(at[4])};
  }
  static double hi(const Constants& c) { return c.mean_hi; }
  static bool covers(const Constants&, double) { return true; }
};

}  // namespace batchnorm::BATCHNORM_VARIANT
