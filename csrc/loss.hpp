// Softmax cross-entropy and squared error: the mean over a batch, and the gradient in the scores.
//
//   loss = sum share * (log sum exp s - s_y)     gradient = share * (softmax(s) - one-hot(y))
//   loss = sum share * (s - y)^2                 gradient = share * 2 (s - y)
//
// share is 1 / N, or a row's weight by the sum of the weights. A row is computed in double.
#pragma once

#include "activations.hpp"
#include "channels.hpp"
#include "steps.hpp"

namespace batchnorm::BATCHNORM_VARIANT {

// Each exp(s - highest), and their sum. NaN stays NaN.
template <class T>
inline double exponentials(const T* s, std::int64_t count, double highest, double* to) {
  double sum = 0;
  if constexpr (std::is_same_v<T, float>) {
    VD sums{};
    for (std::int64_t j = 0; j < count; j += kDoubles) {
      const int lanes = static_cast<int>(std::min<std::int64_t>(kDoubles, count - j));
      VD v = splat(-1e300);
      for (int i = 0; i < lanes; ++i) v[i] = s[j + i] - highest;
      v = exp_series(v);
      for (int i = lanes; i < kDoubles; ++i) v[i] = 0;
      store(to + j, v);
      sums += v;
    }
    sum = total(sums);
  } else {
    for (std::int64_t j = 0; j < count; ++j) sum += to[j] = std::exp(s[j] - highest);
  }
  return sum;
}

template <class T>
bool loss_of(const Loss& l) {
  const T* scores = static_cast<const T*>(l.scores);
  const T* weights = static_cast<const T*>(l.weights);
  const T* targets = static_cast<const T*>(l.targets);
  T* gradient = static_cast<T*>(l.gradient);
  // Class weights may be 0: a batch of such rows alone teaches nothing, which is not the same as NaN.
  double scale = static_cast<double>(l.rows);
  if (weights != nullptr) {
    scale = 0;
    for (std::int64_t i = 0; i < l.rows; ++i) scale += weights[i];
    if (scale < 1e-30) scale = 1e-30;
  }
  const Scratch memory(static_cast<std::size_t>(l.columns + kDoubles) * sizeof(double));
  double* e = memory.as<double>();
  double loss = 0;
  for (std::int64_t i = 0; i < l.rows; ++i) {
    const double share = (weights == nullptr ? 1.0 : static_cast<double>(weights[i])) / scale;
    const T* s = scores + i * l.columns;
    T* g = gradient + i * l.columns;
    if (l.classes == nullptr) {
      const double residual = static_cast<double>(s[0]) - targets[i];
      loss += share * (residual * residual);
      g[0] = static_cast<T>(share * 2 * residual);
      continue;
    }
    const std::int64_t y = l.classes[i];
    if (y < 0 || y >= l.columns) return false;
    double highest = s[0];
    for (std::int64_t j = 1; j < l.columns; ++j) highest = s[j] > highest ? s[j] : highest;
    const double sum = exponentials(s, l.columns, highest, e);
    loss += share * (std::log(sum) + highest - s[y]);
    const double factor = share / sum;
    for (std::int64_t j = 0; j < l.columns; ++j) g[j] = static_cast<T>(e[j] * factor);
    g[y] = static_cast<T>(e[y] * factor - share);
  }
  *l.value = loss;
  return true;
}

}  // namespace batchnorm::BATCHNORM_VARIANT
