// From a channel's two sums to what its values are centred and scaled by, to running statistics and to gradients.
//
//   mean = anchor + sum / M      m2 = squares - sum^2 / M      rstd = 1 / sqrt(m2 / M + eps)
//
// sum and squares are of x - anchor, the channel's first value: the difference cancels at most log2(M) bits of the 53
// that float32 and narrower values leave. float64 takes a second look around the mean. All in long double.
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

// mean and m2 around an anchor from the sums of x - anchor and its square, over `count` values.
inline void set_moments(Centre centre, std::int64_t c, double anchor, WidePair sums, long double count) {
  const long double some = count > 0 ? count : 1;
  const long double mean = anchor + sums.first / some, m2 = sums.second - sums.first * sums.first / some;
  const double hi = static_cast<double>(mean);
  centre.anchor()[c] = hi;
  // Through the sum again: anchor + sum / count itself is rounded to long double.
  centre.shift()[c] = static_cast<double>((static_cast<long double>(anchor) - hi) + sums.first / some);
  centre.m2()[c] = m2 < 0 ? 0.0 : static_cast<double>(m2);
}

// What a value is centred and scaled by, from the centre; sets rstd.
inline Constants constants_of(Centre centre, std::int64_t c, long double variance, double eps, Parameter gamma,
                              Parameter beta) {
  const long double rstd = 1.0L / std::sqrt(variance + static_cast<long double>(eps));
  Constants k;
  k.mean_hi = centre.anchor()[c];
  k.mean_lo = centre.shift()[c];
  k.gamma = value_of(gamma, c, 1.0);
  k.beta = value_of(beta, c, 0.0);
  k.set_scale(k.gamma * rstd);
  k.rstd = static_cast<double>(rstd);
  centre.rstd()[c] = k.rstd;
  return k;
}

// running = (1 - momentum) * running + momentum * batch, the variance unbiased; false where the batch's are not finite.
inline bool move_running(const Forward& f, std::int64_t c, long double count) {
  const long double variance = f.centre.m2()[c] / (count - 1);
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
inline Constants known_constants(const Backward& b, std::int64_t c) {
  Constants k;
  k.mean_hi = b.centre.anchor()[c];
  k.mean_lo = b.centre.shift()[c];
  k.rstd = b.centre.rstd()[c];
  k.gamma = value_of(b.gamma, c, 1.0);
  k.beta = value_of(b.beta, c, 0.0);
  k.set_scale(k.gamma * k.rstd);
  return k;
}

// dx = g * scale + w * (d * along + across), d = x - hi; and gamma's and beta's own gradients.
struct Slope {
  double scale = 0, along = 0, across = 0;
};

inline Slope slope_of(const Backward& b, std::int64_t c, const Constants& k, double hi, WidePair sums,
                      long double count) {
  // sums.second is of g * (x - hi), and the mean is hi + rest.
  const long double rest = (static_cast<long double>(k.mean_hi) - hi) + k.mean_lo;
  const long double dgamma = (sums.second - rest * sums.first) * k.rstd;
  if (b.dbeta.data != nullptr) set_value(b.dbeta, c, static_cast<double>(sums.first));
  if (b.dgamma.data != nullptr) set_value(b.dgamma, c, static_cast<double>(dgamma));
  const long double scale = static_cast<long double>(k.scale) + k.scale_lost;
  Slope slope;
  slope.scale = k.scale;
  if (b.training) {
    const long double along = -scale * k.rstd * dgamma / count;
    slope.along = static_cast<double>(along);
    slope.across = static_cast<double>(-scale * sums.first / count - rest * along);
  }
  return slope;
}

}  // namespace batchnorm::BATCHNORM_VARIANT
