// The activations and their slopes, on vectors.
//
// relu and leaky_relu in the vector's own numbers; the others in double: on floats through the series below, whose
// relative error, at most 1e-10, disappears in the rounding to float; on doubles through the C library, lane by lane.
#pragma once

#include "vectors.hpp"

namespace batchnorm::BATCHNORM_VARIANT {

inline constexpr double kLeak = 0.01;  // the slope of leaky_relu below zero, torch's default
inline constexpr double kRootHalf = 0.70710678118654752440;
inline constexpr double kRootInverseTwoPi = 0.39894228040143267794;

// Which activation is compiled in: the two that matter most for speed by name, or any, looked up for each vector.
enum class Act { none, relu, any };

// exp(x) = power * (1 + rest): x = n log 2 + r, |r| <= log(2) / 2, power = 2^n, rest = exp(r) - 1. NaN stays NaN.
struct Exponential {
  VD power, rest;
};

BATCHNORM_INLINE Exponential exponential(VD x) {
  const VD clipped = x < -708.0 ? splat(-708.0) : (x > 708.0 ? splat(708.0) : x);
  const VD shifter = splat(0x1.8p52);
  const VD shifted = clipped * 1.44269504088896340736 + shifter;  // its low bits hold n
  const VD n = shifted - shifter;
  const VD r = (clipped - n * 0x1.62e42fefa3800p-1) - n * 0x1.ef35793c76730p-45;
  VD p = splat(1.0 / 3628800);
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r + 1.0;
  const VD power = reinterpret<VD>((reinterpret<VL>(shifted) << 52) + reinterpret<VL>(splat(1.0)));
  return {power, p * r};
}

BATCHNORM_INLINE VD exp_series(VD x) {
  const Exponential e = exponential(x);
  return e.power * e.rest + e.power;
}

BATCHNORM_INLINE VD expm1_series(VD x) {
  const Exponential e = exponential(x);
  return e.power * e.rest + (e.power - 1.0);
}

// erfc(x) exp(x^2) for x >= 0: t P(2t - 1), t = 3 / (3 + x). P was fitted at Chebyshev nodes: relative error 3e-11.
BATCHNORM_INLINE VD scaled_erfc(VD x) {
  constexpr double fitted[] = {0.358002302364765,      0.2944648176776028,     0.19674278538637327,
                               0.10348908925211613,    0.03984259481759542,    0.008942387097811342,
                               -0.00040420809745802833, -0.0010112156570693989, -0.00018247494038005889,
                               9.184238259763587e-05,  3.519139279221958e-05,  -9.422826933807546e-06,
                               -5.022933016733479e-06, 9.068713311979442e-07,  4.2722171196792265e-07};
  const VD t = 3.0 / (x + 3.0);
  const VD u = t * 2.0 - 1.0;
  VD p = splat(fitted[14]);
  for (int i = 13; i >= 0; --i) p = p * u + fitted[i];
  return p * t;
}

// The normal distribution function, its digits kept far below zero.
BATCHNORM_INLINE VD phi(VD z) {
  const VD x = (z < 0.0 ? -z : z) * kRootHalf;
  const VD tail = scaled_erfc(x) * exp_series(-(x * x)) * 0.5;
  return z < 0.0 ? tail : 1.0 - tail;
}

BATCHNORM_INLINE VD sigmoid(VD z) {
  // From the side where exp stays below 1, so that neither end overflows.
  const VD e = exp_series(z < 0.0 ? z : -z);
  return (z < 0.0 ? e : splat(1.0)) / (e + 1.0);
}

BATCHNORM_INLINE VD tanh_series(VD z) {
  const VD e = expm1_series(z * 2.0 < 40.0 ? z * 2.0 : (z == z ? splat(40.0) : z));
  return e / (e + 2.0);
}

// Far out a curve is its limit: what overflowed to an infinity must not meet the 0 that it belongs to. NaN stays.
inline constexpr double kFarOut = 1e30;

// The value of an activation that is a curve. Not inlined: the call costs little beside the series.
__attribute__((noinline)) static VD curve(Activation activation, VD z) {
  const VD kept = z < -kFarOut ? splat(-kFarOut) : z;
  switch (activation) {
    case Activation::sigmoid: return sigmoid(z);
    case Activation::tanh: return tanh_series(z);
    case Activation::silu: return kept * sigmoid(z);
    default: return kept * phi(z);
  }
}

__attribute__((noinline)) static VD curve_slope(Activation activation, VD z) {
  z = z < -kFarOut ? splat(-kFarOut) : (z > kFarOut ? splat(kFarOut) : z);
  switch (activation) {
    case Activation::sigmoid: {
      const VD s = sigmoid(z);
      return s * sigmoid(-z);
    }
    case Activation::tanh: {
      const VD t = tanh_series(z);
      return 1.0 - t * t;
    }
    case Activation::silu: {
      const VD s = sigmoid(z);
      return s + z * s * sigmoid(-z);
    }
    default: return phi(z) + z * exp_series(z * z * -0.5) * kRootInverseTwoPi;
  }
}

__attribute__((noinline)) static double exact_curve(Activation activation, double z) {
  switch (activation) {
    case Activation::sigmoid: return 1.0 / (1.0 + std::exp(-z));
    case Activation::tanh: return std::tanh(z);
    case Activation::silu: return z / (1.0 + std::exp(-z));
    default: return z * 0.5 * std::erfc(-z * kRootHalf);
  }
}

__attribute__((noinline)) static double exact_slope(Activation activation, double z) {
  const double s = 1.0 / (1.0 + std::exp(-z)), rest = 1.0 / (1.0 + std::exp(z));
  switch (activation) {
    case Activation::sigmoid: return s * rest;
    case Activation::tanh: {
      const double t = std::tanh(z);
      return 1.0 - t * t;
    }
    case Activation::silu: return s + z * s * rest;
    default: return 0.5 * std::erfc(-z * kRootHalf) + z * std::exp(-0.5 * z * z) * kRootInverseTwoPi;
  }
}

template <Act A>
BATCHNORM_INLINE VF activate(Activation activation, VF z) {
  if constexpr (A == Act::none) return z;
  if constexpr (A == Act::relu) return z < 0.0f ? VF{} : z;  // NaN stays
  if (activation == Activation::none) return z;
  if (activation == Activation::relu) return z < 0.0f ? VF{} : z;
  if (activation == Activation::leaky_relu) return z < 0.0f ? z * static_cast<float>(kLeak) : z;
  const Doubles wide = widen(z);
  return narrow({curve(activation, wide.low), curve(activation, wide.high)});
}

template <Act A>
BATCHNORM_INLINE VD activate(Activation activation, VD z) {
  if constexpr (A == Act::none) return z;
  if constexpr (A == Act::relu) return z < 0.0 ? VD{} : z;
  if (activation == Activation::none) return z;
  if (activation == Activation::relu) return z < 0.0 ? VD{} : z;
  if (activation == Activation::leaky_relu) return z < 0.0 ? z * kLeak : z;
  for (int i = 0; i < kDoubles; ++i) z[i] = exact_curve(activation, z[i]);
  return z;
}

// dy times the slope at z.
template <Act A>
BATCHNORM_INLINE VF slope(Activation activation, VF z, VF dy) {
  if constexpr (A == Act::none) return dy;
  if constexpr (A == Act::relu) return z <= 0.0f ? VF{} : dy;
  if (activation == Activation::none) return dy;
  if (activation == Activation::relu) return z <= 0.0f ? VF{} : dy;
  if (activation == Activation::leaky_relu) return z > 0.0f ? dy : dy * static_cast<float>(kLeak);
  const Doubles wide = widen(z);
  return dy * narrow({curve_slope(activation, wide.low), curve_slope(activation, wide.high)});
}

template <Act A>
BATCHNORM_INLINE VD slope(Activation activation, VD z, VD dy) {
  if constexpr (A == Act::none) return dy;
  if constexpr (A == Act::relu) return z <= 0.0 ? VD{} : dy;
  if (activation == Activation::none) return dy;
  if (activation == Activation::relu) return z <= 0.0 ? VD{} : dy;
  if (activation == Activation::leaky_relu) return z > 0.0 ? dy : dy * kLeak;
  for (int i = 0; i < kDoubles; ++i) z[i] = exact_slope(activation, z[i]);
  return z * dy;
}

}  // namespace batchnorm::BATCHNORM_VARIANT
