// From a channel's two sums to what its values are centred and scaled by, to running statistics and to gradients.
//
//   mean = anchor + sum / M      m2 = squares - sum^2 / M      rstd = 1 / sqrt(m2 / M + eps)
//
// sum and squares are of x - anchor, a first guess at the mean. Where the guess was far off, and always for float64, a
// second look is taken around the mean that the first one found. In the arithmetic's Real.
#pragma once

#include <cstdlib>
#include <limits>
#include <new>

#include "arithmetic.hpp"

namespace batchnorm::BATCHNORM_VARIANT {

inline double value_of(Parameter p, std::int64_t c, double absent) {
  if (p.data == nullptr) return absent;
  switch (p.element) {
    case Element::f32: return static_cast<const float*>(p.data)[c];
    case Element::f64: return static_cast<const double*>(p.data)[c];
    case Element::bf16: return to_double(static_cast<const bf16*>(p.data)[c]);
    default: return to_double(static_cast<const f16*>(p.data)[c]);
  }
}

inline void set_value(Parameter p, std::int64_t c, double value) {
  switch (p.element) {
    case Element::f32: static_cast<float*>(p.data)[c] = static_cast<float>(value); return;
    case Element::f64: static_cast<double*>(p.data)[c] = value; return;
    case Element::bf16: round_into(static_cast<bf16*>(p.data)[c], value); return;
    default: round_into(static_cast<f16*>(p.data)[c], value);
  }
}

// Memory for one call, aligned to a cache line.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes)
      : memory_(std::aligned_alloc(64, (bytes + 63) / 64 * 64 + 64)) {
    if (memory_ == nullptr) throw std::bad_alloc();
  }
  ~Scratch() { std::free(memory_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  template <class E>
  E* as() const { return static_cast<E*>(memory_); }

 private:
  void* memory_;
};

template <class M>
Count<typename M::Real> count_of(const Shape& s, const double* weights) {
  using Real = typename M::Real;
  if (weights == nullptr) return Count<Real>(static_cast<Real>(s.rows * s.positions));
  long double count = 0;
  for (std::int64_t i = 0; i < s.rows * s.positions; ++i) count += weights[i];
  return Count<Real>(static_cast<Real>(count));
}

// Over few values roundings do not average out; nor is there much to gain.
inline bool worth_short_sums(std::int64_t values) { return values >= 256; }

// mean and m2 from the sums of x - anchor and its square, over `count` values.
template <class Real>
void set_moments(Centre centre, std::int64_t c, double anchor, Pair<Real> sums, const Count<Real>& count) {
  // Divided: of whole numbers the mean may be one of the values, and then their difference must be 0.
  const Real shift = sums.first / (count.values > 0 ? count.values : 1), m2 = sums.second - sums.first * shift;
  const double hi = static_cast<double>(anchor + shift);
  centre.anchor()[c] = hi;
  centre.shift()[c] = static_cast<double>((static_cast<Real>(anchor) - hi) + shift);
  centre.m2()[c] = m2 < 0 ? 0.0 : static_cast<double>(m2);
}

// What a second look measures from: the mean that the first one found, if it is a number.
inline double second_guess(Centre centre, std::int64_t c, double first) {
  return std::isfinite(centre.anchor()[c]) ? centre.anchor()[c] : first;
}

// What channel c is centred and scaled by, from the centre or, at test time, from the running statistics; sets rstd.
template <class M>
Constants<typename M::Real> constants_of(const Forward& f, std::int64_t c, const Count<typename M::Real>& count) {
  using Real = typename M::Real;
  if (!f.training) f.centre.anchor()[c] = value_of(f.running_mean, c, 0), f.centre.shift()[c] = 0;
  const Real variance = f.training ? f.centre.m2()[c] * count.share : value_of(f.running_var, c, 1);
  const Real rstd = 1 / std::sqrt(variance + static_cast<Real>(f.eps));
  Constants<Real> k;
  k.mean_hi = f.centre.anchor()[c];
  k.mean_lo = f.centre.shift()[c];
  k.gamma = value_of(f.gamma, c, 1.0);
  k.beta = value_of(f.beta, c, 0.0);
  k.scale = k.gamma * rstd;
  k.rstd = f.centre.rstd()[c] = static_cast<double>(rstd);
  return k;
}

// The squared deviations that a channel of this pass has; at test time nobody knows them.
inline double spread_of(const Centre& centre, bool training, std::int64_t c) { return training ? centre.m2()[c] : 0.0; }

// running = (1 - momentum) * running + momentum * batch, the variance unbiased; false where the batch's are not finite.
template <class Real>
bool move_running(const Forward& f, std::int64_t c, const Count<Real>& count) {
  const Real variance = f.centre.m2()[c] * count.unbiased_share;
  const double mean = f.centre.anchor()[c] + f.centre.shift()[c];
  const bool narrow = f.running_mean.element != Element::f64;
  const double limit = narrow ? std::numeric_limits<float>::max() : std::numeric_limits<double>::max();
  if (!(std::abs(mean) <= limit) || !(variance <= limit)) return false;
  const double old_mean = value_of(f.running_mean, c, 0), old_variance = value_of(f.running_var, c, 1);
  set_value(f.running_mean, c, old_mean + f.momentum * (mean - old_mean));
  set_value(f.running_var, c, static_cast<double>(old_variance + f.momentum * (variance - old_variance)));
  return true;
}

// The forward pass's constants again, from the centre that it left.
template <class M>
Constants<typename M::Real> known_constants(const Backward& b, std::int64_t c) {
  Constants<typename M::Real> k;
  k.mean_hi = b.centre.anchor()[c];
  k.mean_lo = b.centre.shift()[c];
  k.rstd = b.centre.rstd()[c];
  k.gamma = value_of(b.gamma, c, 1.0);
  k.beta = value_of(b.beta, c, 0.0);
  k.scale = k.gamma * k.rstd;
  return k;
}

// dx = g * scale + w * (d * along + across), d = x - hi; and gamma's and beta's own gradients.
struct Slope {
  double scale = 0, along = 0, across = 0;
};

template <class M>
Slope slope_of(const Backward& b, std::int64_t c, const Constants<typename M::Real>& k, Pair<typename M::Real> sums,
               const Count<typename M::Real>& count) {
  using Real = typename M::Real;
  // sums.second is of g * (x - hi), and the mean is hi + rest.
  const Real rest = (static_cast<Real>(k.mean_hi) - M::hi(k)) + k.mean_lo;
  const Real dgamma = (sums.second - rest * sums.first) * k.rstd;
  if (b.dbeta.data != nullptr) set_value(b.dbeta, c, static_cast<double>(sums.first));
  if (b.dgamma.data != nullptr) set_value(b.dgamma, c, static_cast<double>(dgamma));
  Slope slope;
  slope.scale = static_cast<double>(k.scale);
  if (b.training) {
    const Real share = -k.scale * count.share, along = share * k.rstd * dgamma;
    slope.along = static_cast<double>(along);
    slope.across = static_cast<double>(share * sums.first - rest * along);
  }
  return slope;
}

}  // namespace batchnorm::BATCHNORM_VARIANT
