// Exact's constants at test time, many channels at once: pairs of doubles instead of long double, which has no vectors and
// takes a microsecond for thirty channels.
#pragma once

#include "channel_blocks.hpp"

namespace batchnorm::BATCHNORM_VARIANT {

// Whether a product and what rounding takes from it are two instructions.
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
inline constexpr bool kFuses = true;
#else
inline constexpr bool kFuses = false;
#endif

// What Exact::constants makes of constants_of, for channels normalized by running statistics; sets centre and rstd. False,
// and nothing of use written, where a variance is so near the ends of double's range that its square's lost part is not
// in it, or no variance at all.
//
//   r = 1 / sqrt(v), rounded;  1 / sqrt(v) = r + r (1 - v r^2) / 2 to thirty digits
inline bool evaluation_constants(const Forward& f, std::int64_t begin, std::int64_t length, double* at,
                                 std::int64_t stride) {
  if constexpr (!kFuses) return false;
  double *hi = f.centre.anchor() + begin, *lo = f.centre.shift() + begin, *rstd = f.centre.rstd() + begin;
  Block gamma, beta, variance;
  read_values(f.running_mean, begin, length, 0, hi);
  read_values(f.running_var, begin, length, 1, variance);
  read_values(f.gamma, begin, length, 1, gamma);
  read_values(f.beta, begin, length, 0, beta);
  std::fill_n(lo, length, 0.0);
  double outside = 0;
#pragma omp simd reduction(+ : outside)
  for (std::int64_t i = 0; i < length; ++i) outside += variance[i] + f.eps > 1e-280 && variance[i] < 1e280 ? 0.0 : 1.0;
  if (outside > 0) return false;
#pragma omp simd
  for (std::int64_t i = 0; i < length; ++i) {
    const double v = variance[i] + f.eps, of_eps = v - variance[i];
    const double v_lost = (variance[i] - (v - of_eps)) + (f.eps - of_eps);
    const double r = 1 / std::sqrt(v);
    const double square = r * r, square_lost = __builtin_fma(r, r, -square);
    const double one = v * square, one_lost = __builtin_fma(v, square, -one);
    const double r_lost = 0.5 * r * (((1 - one) - one_lost) - (v * square_lost + v_lost * square));
    const double product = gamma[i] * r, product_lost = __builtin_fma(gamma[i], r, -product) + gamma[i] * r_lost;
    const double scale = product + product_lost, scale_lost = product_lost - (scale - product);
    rstd[i] = r + r_lost;
    at[i] = hi[i];
    at[stride + i] = scale;
    at[2 * stride + i] = beta[i];
    at[3 * stride + i] = scale_lost - scale_lost == 0 ? scale_lost : 0;
    at[4 * stride + i] = 0;
  }
  return true;
}

}  // namespace batchnorm::BATCHNORM_VARIANT
