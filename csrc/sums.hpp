// Sums over a channel's values: of deviations and of their squares, or of g and of g times the deviation.
//
// They come in kinds that the passes are written over: vectors are added to them, `take_in` takes in others, `load` and
// `store` keep them lane by lane in kArrays arrays that lie `stride` apart, for rows, where every lane is a channel.
#pragma once

#include "vectors.hpp"

namespace batchnorm::BATCHNORM_VARIANT {

// One channel's two sums.
template <class Real>
struct Pair {
  Real first = 0, second = 0;
  void add(Pair other) { first += other.first, second += other.second; }
};

// a + b, and what rounding took from it (Knuth, TAOCP 2, 4.2.2).
BATCHNORM_INLINE void add_keeping(VD& sum, VD& lost, VD b) {
  const VD s = sum + b;
  const VD of_b = s - sum;
  lost += (sum - (s - of_b)) + (b - of_b);
  sum = s;
}

// In double, lanes apart.
struct WideSums {
  using V = VF;
  using Anchor = Doubles;
  using Total = WideSums;
  static constexpr std::int64_t kLongest = std::int64_t{1} << 40;  // vectors that may be added before a merge
  static constexpr int kArrays = 2;

  VD a0{}, a1{}, b0{}, b1{};

  static BATCHNORM_INLINE Anchor anchor(double value) { return {splat(value), splat(value)}; }
  static BATCHNORM_INLINE Anchor anchors(const double* p) { return {unaligned<VD>(p), unaligned<VD>(p + kDoubles)}; }
  static BATCHNORM_INLINE V as_numbers(Anchor anchor) { return narrow(anchor); }

  BATCHNORM_INLINE void add(Doubles a, Doubles b_left, Doubles b_right) {
    a0 += a.low;
    a1 += a.high;
    b0 += b_left.low * b_right.low;
    b1 += b_left.high * b_right.high;
  }
  // x - anchor and its square.
  BATCHNORM_INLINE void add_moments(V x, Anchor anchor) {
    const Doubles wide = widen(x);
    const Doubles d{wide.low - anchor.low, wide.high - anchor.high};
    add(d, d, d);
  }
  BATCHNORM_INLINE void add_weighted_moments(V x, Anchor anchor, Doubles w) {
    const Doubles wide = widen(x);
    const Doubles d{wide.low - anchor.low, wide.high - anchor.high};
    const Doubles wd{w.low * d.low, w.high * d.high};
    add(wd, wd, d);
  }
  // g and g * d.
  BATCHNORM_INLINE void add_gradients(V g, V d) {
    const Doubles wide_g = widen(g);
    add(wide_g, wide_g, widen(d));
  }
  BATCHNORM_INLINE void merge(const WideSums& other) { a0 += other.a0, a1 += other.a1, b0 += other.b0, b1 += other.b1; }
  Pair<double> totals() const { return {total(a0) + total(a1), total(b0) + total(b1)}; }
  BATCHNORM_INLINE void load(const double* at, std::int64_t stride) {
    a0 = unaligned<VD>(at), a1 = unaligned<VD>(at + kDoubles);
    b0 = unaligned<VD>(at + stride), b1 = unaligned<VD>(at + stride + kDoubles);
  }
  BATCHNORM_INLINE void store(double* at, std::int64_t stride) const {
    std::memcpy(at, &a0, sizeof a0), std::memcpy(at + kDoubles, &a1, sizeof a1);
    std::memcpy(at + stride, &b0, sizeof b0), std::memcpy(at + stride + kDoubles, &b1, sizeof b1);
  }
  static Pair<double> totals(const double* at, std::int64_t stride) { return {at[0], at[stride]}; }
};

// In float, for so few vectors at a time that what rounding takes averages out far below a result's own rounding;
// then in double. Good where `settled` says so.
struct ShortSums {
  using V = VF;
  using Anchor = VF;
  using Total = WideSums;
  static constexpr std::int64_t kLongest = 16;

  VF a{}, b{};

  static BATCHNORM_INLINE Anchor anchor(double value) { return splat(static_cast<float>(value)); }
  static BATCHNORM_INLINE Anchor anchors(const double* p) { return narrow({unaligned<VD>(p), unaligned<VD>(p + kDoubles)}); }
  static BATCHNORM_INLINE V as_numbers(Anchor anchor) { return anchor; }

  BATCHNORM_INLINE void add_moments(V x, Anchor anchor) {
    const VF d = x - anchor;
    a += d;
    b += d * d;
  }
  BATCHNORM_INLINE void add_gradients(V g, V d) {
    a += g;
    b += g * d;
  }
  BATCHNORM_INLINE WideSums widened() const {
    const Doubles first = widen(a), second = widen(b);
    return {first.low, first.high, second.low, second.high};
  }
  // Arrays hold doubles: a short sum starts at nothing and is added to what is there.
  BATCHNORM_INLINE void load(const double*, std::int64_t) {}
  BATCHNORM_INLINE void store(double* at, std::int64_t stride) const {
    WideSums all;
    all.load(at, stride);
    all.merge(widened());
    all.store(at, stride);
  }
};

// In double, with what rounding took.
struct KeepingSums {
  using V = VD;
  using Anchor = VD;
  using Total = KeepingSums;
  static constexpr std::int64_t kLongest = std::int64_t{1} << 40;
  static constexpr int kArrays = 4;

  VD a{}, a_lost{}, b{}, b_lost{};

  static BATCHNORM_INLINE Anchor anchor(double value) { return splat(value); }
  static BATCHNORM_INLINE Anchor anchors(const double* p) { return unaligned<VD>(p); }
  static BATCHNORM_INLINE V as_numbers(Anchor anchor) { return anchor; }

  BATCHNORM_INLINE void add_moments(V x, Anchor anchor) {
    const V d = x - anchor;
    add_keeping(a, a_lost, d);
    add_keeping(b, b_lost, d * d);
  }
  BATCHNORM_INLINE void add_weighted_moments(V x, Anchor anchor, V w) {
    const V d = x - anchor;
    add_keeping(a, a_lost, w * d);
    add_keeping(b, b_lost, w * d * d);
  }
  BATCHNORM_INLINE void add_gradients(V g, V d) {
    add_keeping(a, a_lost, g);
    add_keeping(b, b_lost, g * d);
  }
  BATCHNORM_INLINE void merge(const KeepingSums& other) {
    add_keeping(a, a_lost, other.a);
    add_keeping(b, b_lost, other.b);
    a_lost += other.a_lost;
    b_lost += other.b_lost;
  }
  Pair<long double> totals() const {
    Pair<long double> sums;
    for (int i = 0; i < kDoubles; ++i) sums.first += a[i], sums.second += b[i];
    for (int i = 0; i < kDoubles; ++i) sums.first += a_lost[i], sums.second += b_lost[i];
    return sums;
  }
  BATCHNORM_INLINE void load(const double* at, std::int64_t stride) {
    a = unaligned<VD>(at), a_lost = unaligned<VD>(at + stride);
    b = unaligned<VD>(at + 2 * stride), b_lost = unaligned<VD>(at + 3 * stride);
  }
  BATCHNORM_INLINE void store(double* at, std::int64_t stride) const {
    std::memcpy(at, &a, sizeof a), std::memcpy(at + stride, &a_lost, sizeof a);
    std::memcpy(at + 2 * stride, &b, sizeof b), std::memcpy(at + 3 * stride, &b_lost, sizeof b);
  }
  static Pair<long double> totals(const double* at, std::int64_t stride) {
    return {static_cast<long double>(at[0]) + at[stride], static_cast<long double>(at[2 * stride]) + at[3 * stride]};
  }
};

// Short sums are merged where they are widened.
BATCHNORM_INLINE void take_in(WideSums& all, const ShortSums& part) { all.merge(part.widened()); }
template <class Sums>
BATCHNORM_INLINE void take_in(Sums& all, const Sums& part) { all.merge(part); }

}  // namespace batchnorm::BATCHNORM_VARIANT
