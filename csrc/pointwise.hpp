// Activations by themselves, products value by value, and sums of columns.
#pragma once

#include "activations.hpp"
#include "parallel.hpp"
#include "steps.hpp"

namespace batchnorm::BATCHNORM_VARIANT {

template <class T, class V>
void pointwise_of(const Pointwise& p) {
  constexpr int lanes = static_cast<int>(sizeof(V) / sizeof(T));
  const T* z = static_cast<const T*>(p.z);
  const T* dy = static_cast<const T*>(p.dy);
  const T* factor = static_cast<const T*>(p.factor);
  T* to = static_cast<T*>(p.to);
  const auto result = [&](V v, V other) BATCHNORM_LAMBDA {
    if (factor != nullptr) return v * other;
    if (dy != nullptr) return slope<Act::any>(p.activation, v, other);
    return activate<Act::any>(p.activation, v);
  };
  const T* second = factor != nullptr ? factor : dy;
  spread(threads_for(p.count), [&](int thread, int all) {
    const Range range = share(p.count, thread, all, 64);
    std::int64_t i = range.begin;
    for (; i + lanes <= range.end; i += lanes) {
      store(to + i, result(unaligned<V>(z + i), second == nullptr ? V{} : unaligned<V>(second + i)));
    }
    if (i < range.end) {
      const int count = static_cast<int>(range.end - i);
      const V v = load_part(z + i, count, V{}), other = second == nullptr ? V{} : load_part(second + i, count, V{});
      store_part(to + i, count, result(v, other));
    }
  });
}

template <class T>
void column_sums_of(const ColumnSums& s) {
  constexpr std::int64_t kBlock = 64;
  const T* x = static_cast<const T*>(s.x);
  T* to = static_cast<T*>(s.to);
  for (std::int64_t c = 0; c < s.columns; c += kBlock) {
    const std::int64_t width = std::min(kBlock, s.columns - c);
    double sums[kBlock] = {};
    for (std::int64_t r = 0; r < s.rows; ++r) {
      const T* row = x + r * s.columns + c;
#pragma omp simd
      for (std::int64_t j = 0; j < width; ++j) sums[j] += row[j];
    }
    for (std::int64_t j = 0; j < width; ++j) to[c + j] = static_cast<T>(sums[j]);
  }
}

}  // namespace batchnorm::BATCHNORM_VARIANT
