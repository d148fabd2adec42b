// Batches that lie as slabs: x[row][channel][position], a channel's values in `rows` runs of `positions`.
//
// A slab that fits in the second-level cache is read from memory once: its statistics are taken, and it is normalized
// from the cache, last chunk first, by the same thread. Larger slabs, and channels too few to go round, are cut into
// chunks that threads share, with one meeting between the statistics and what follows.
#pragma once

#include <atomic>
#include <vector>

#include "bodies.hpp"
#include "parallel.hpp"

namespace batchnorm::BATCHNORM_VARIANT {

inline constexpr std::int64_t kChunk = 16384;               // values of one channel that are summed together
inline constexpr std::int64_t kCache = 1 << 19;             // half of the second-level cache, in bytes
inline constexpr std::int64_t kPastCaches = 12 << 20;       // outputs from this size on are not found in a cache again

struct Slabs {
  Shape shape;
  std::int64_t values() const { return shape.rows * shape.positions; }
  std::int64_t chunks() const { return (values() + kChunk - 1) / kChunk; }
  Range chunk(std::int64_t k) const { return {k * kChunk, std::min(values(), (k + 1) * kChunk)}; }

  // Calls vector(offset in x, offset in weights, lanes, which of two sums) over a range of one channel's values.
  template <int kLanes, class Vector>
  BATCHNORM_INLINE void over(std::int64_t channel, Range range, const Vector& vector) const {
    std::int64_t row = range.begin / shape.positions, position = range.begin % shape.positions;
    for (std::int64_t left = range.end - range.begin; left > 0;) {
      const std::int64_t run = std::min(left, shape.positions - position);
      const std::int64_t x = (row * shape.channels + channel) * shape.positions + position;
      const std::int64_t w = row * shape.positions + position;
      std::int64_t i = 0;
      for (; i + 2 * kLanes <= run; i += 2 * kLanes) {
        vector(x + i, w + i, Full{}, 0);
        vector(x + i + kLanes, w + i + kLanes, Full{}, 1);
      }
      for (; i < run; i += kLanes) {
        vector(x + i, w + i, Part{static_cast<int>(std::min<std::int64_t>(kLanes, run - i))}, 0);
      }
      left -= run, ++row, position = 0;
    }
  }
};

// Whether every full vector that is written starts at a multiple of its size: what storing past the caches asks.
template <class T, class M>
bool may_store_past(const Slabs& slabs, const void* y) {
  const Shape& s = slabs.shape;
  const std::int64_t bytes = M::kLanes * static_cast<std::int64_t>(sizeof(T));
  return s.rows * s.channels * s.positions * static_cast<std::int64_t>(sizeof(T)) >= kPastCaches &&
         reinterpret_cast<std::uintptr_t>(y) % bytes == 0 && s.positions * static_cast<std::int64_t>(sizeof(T)) % bytes == 0;
}

// The first value of a channel that counts: what the others are measured from.
template <class T>
double first_value(const Shape& s, std::int64_t channel, const T* x, const double* weights) {
  if (weights == nullptr) return to_double(x[channel * s.positions]);
  for (std::int64_t i = 0; i < s.rows * s.positions; ++i) {
    if (weights[i] > 0) return to_double(x[(i / s.positions * s.channels + channel) * s.positions + i % s.positions]);
  }
  return 0;
}

inline long double count_of(const Shape& s, const double* weights) {
  if (weights == nullptr) return s.rows * s.positions;
  long double count = 0;
  for (std::int64_t i = 0; i < s.rows * s.positions; ++i) count += weights[i];
  return count;
}

// Every step of a pass over slabs, each for one chunk of one channel.
template <class M, class T, Act A, bool kExtras>
struct SlabSteps {
  const Slabs& slabs;
  const double* weights;

  template <class Math, class Lanes>
  BATCHNORM_INLINE typename Math::Weights weight(std::int64_t at, Lanes lanes) const {
    if constexpr (kExtras) {
      if (weights != nullptr) return load_weights<Math>(weights + at, lanes);
    }
    return typename Math::Weights{};
  }

  WidePair moments(const T* x, std::int64_t channel, std::int64_t chunk, double anchor) const {
    typename M::Sums sums[2];
    const MomentsBody<M, T, kExtras> body{x, weights != nullptr};
    const auto centre = M::anchor(anchor);
    const auto rest = splat(static_cast<typename M::Number>(anchor));
    slabs.over<M::kLanes>(channel, slabs.chunk(chunk),
                          [&](std::int64_t at, std::int64_t w, auto lanes, int which) BATCHNORM_LAMBDA {
                            body.at(at, lanes, centre, rest, weight<M>(w, lanes), sums[which]);
                          });
    WidePair pair = sums[0].totals();
    pair.add(sums[1].totals());
    return pair;
  }

  template <class Math, bool kPast>
  void normalize_as(const Forward& f, std::int64_t channel, std::int64_t chunk, const Constants& k) const {
    typename Math::Number numbers[Math::kConstants];
    Math::constants(k, numbers, 1);
    const auto apply = Math::splat_apply(numbers);
    const ForwardBody<Math, T, A, kExtras> body{static_cast<const T*>(f.x), static_cast<T*>(f.y),
                                                static_cast<const T*>(f.residual), f.activation, weights != nullptr};
    slabs.over<Math::kLanes>(channel, slabs.chunk(chunk),
                             [&](std::int64_t at, std::int64_t w, auto lanes, int) BATCHNORM_LAMBDA {
                               body.template at<kPast>(at, lanes, apply, weight<Math>(w, lanes));
                             });
  }

  // The steps for a channel that leaves the range of M's numbers.
  auto exactly() const { return SlabSteps<Exact, T, Act::any, true>{slabs, weights}; }

  void normalize(const Forward& f, std::int64_t channel, std::int64_t chunk, const Constants& k, bool past) const {
    if (!M::covers(k, f.training ? f.centre.m2()[channel] : 0.0)) {
      return exactly().template normalize_as<Exact, false>(f, channel, chunk, k);
    }
    if constexpr (!kExtras) {
      if (past) return normalize_as<M, true>(f, channel, chunk, k);
    }
    normalize_as<M, false>(f, channel, chunk, k);
  }

  template <class Math>
  auto gradients(const Backward& b) const {
    return GradientBody<Math, T, A, kExtras>{static_cast<const T*>(b.x),
                                             static_cast<const T*>(b.dy),
                                             static_cast<const T*>(b.residual),
                                             static_cast<T*>(b.dx),
                                             static_cast<T*>(b.dresidual),
                                             b.activation,
                                             weights != nullptr,
                                             b.training};
  }

  template <class Math>
  WidePair sum_gradients_as(const Backward& b, std::int64_t channel, std::int64_t chunk, const Constants& k) const {
    typename Math::Number numbers[Math::kConstants];
    Math::constants(k, numbers, 1);
    const auto apply = Math::splat_apply(numbers);
    const auto body = gradients<Math>(b);
    typename Math::Sums sums[2];
    slabs.over<Math::kLanes>(channel, slabs.chunk(chunk),
                             [&](std::int64_t at, std::int64_t w, auto lanes, int which) BATCHNORM_LAMBDA {
                               body.add(at, lanes, apply, weight<Math>(w, lanes), sums[which]);
                             });
    WidePair pair = sums[0].totals();
    pair.add(sums[1].totals());
    return pair;
  }

  template <class Math, bool kPast>
  void descend_as(const Backward& b, std::int64_t channel, std::int64_t chunk, const Constants& k,
                  const Slope& slope) const {
    using Number = typename Math::Number;
    Number numbers[Math::kConstants];
    Math::constants(k, numbers, 1);
    const auto apply = Math::splat_apply(numbers);
    const auto scale = splat(static_cast<Number>(slope.scale)), along = splat(static_cast<Number>(slope.along)),
               across = splat(static_cast<Number>(slope.across));
    const auto body = gradients<Math>(b);
    slabs.over<Math::kLanes>(channel, slabs.chunk(chunk),
                             [&](std::int64_t at, std::int64_t w, auto lanes, int) BATCHNORM_LAMBDA {
                               body.template at<kPast>(at, lanes, apply, scale, along, across, weight<Math>(w, lanes));
                             });
  }
};

template <class M, class T, Act A, bool kExtras>
std::int64_t forward_slabs(const Forward& f) {
  const Slabs slabs{f.shape};
  const SlabSteps<M, T, A, kExtras> steps{slabs, f.weights};
  const T* x = static_cast<const T*>(f.x);
  const std::int64_t channels = f.shape.channels, chunks = slabs.chunks();
  const long double count = f.training ? count_of(f.shape, f.weights) : 1;
  const bool past = may_store_past<T, M>(slabs, f.y), moves = f.training && f.running_mean.data != nullptr && count >= 2;
  const int threads = threads_for(channels * slabs.values());
  std::atomic<std::int64_t> refused{0};

  const auto settle = [&](std::int64_t c) {  // the channel's moments are known
    const long double variance = f.training ? f.centre.m2()[c] / (count > 0 ? count : 1) : value_of(f.running_var, c, 1);
    if (!f.training) f.centre.anchor()[c] = value_of(f.running_mean, c, 0), f.centre.shift()[c] = 0;
    if (moves && !move_running(f, c, count)) refused.fetch_add(1, std::memory_order_relaxed);
    return constants_of(f.centre, c, variance, f.eps, f.gamma, f.beta);
  };

  if (threads == 1 || channels >= 4 * threads) {
    spread(threads, [&](int thread, int all) {
      for (Range own = share(channels, thread, all); own.begin < own.end; ++own.begin) {
        const std::int64_t c = own.begin;
        double anchor = f.training ? first_value(f.shape, c, x, f.weights) : 0;
        for (int look = 0; f.training && look < (M::kTwoLooks ? 2 : 1); ++look) {
          WidePair sums;
          for (std::int64_t k = 0; k < chunks; ++k) sums.add(steps.moments(x, c, k, anchor));
          set_moments(f.centre, c, anchor, sums, count);
          anchor = f.centre.anchor()[c];
        }
        const Constants constants = settle(c);
        for (std::int64_t k = chunks; k-- > 0;) steps.normalize(f, c, k, constants, past);
      }
      finish_stores();
    });
  } else {
    std::vector<WidePair> parts(static_cast<std::size_t>(f.training ? channels * chunks : 0));
    std::vector<Constants> constants(static_cast<std::size_t>(channels));
    spread(threads, [&](int thread, int all) {
      const Range tasks = share(channels * chunks, thread, all), own = share(channels, thread, all);
      for (int look = 0; f.training && look < (M::kTwoLooks ? 2 : 1); ++look) {
        const auto anchor = [&](std::int64_t c) {
          return look == 0 ? first_value(f.shape, c, x, f.weights) : f.centre.anchor()[c];
        };
        for (std::int64_t t = tasks.begin; t < tasks.end; ++t) {
          parts[t] = steps.moments(x, t / chunks, t % chunks, anchor(t / chunks));
        }
        meet(all);
        for (std::int64_t c = own.begin; c < own.end; ++c) {
          WidePair sums;
          for (std::int64_t k = 0; k < chunks; ++k) sums.add(parts[c * chunks + k]);
          set_moments(f.centre, c, anchor(c), sums, count);
        }
        meet(all);
      }
      for (std::int64_t c = own.begin; c < own.end; ++c) constants[c] = settle(c);
      meet(all);
      for (std::int64_t t = tasks.end; t-- > tasks.begin;) {
        steps.normalize(f, t / chunks, t % chunks, constants[t / chunks], past);
      }
      finish_stores();
    });
  }
  if (moves && f.batches != nullptr) ++*f.batches;
  return refused;
}

template <class M, class T, Act A, bool kExtras>
void backward_slabs(const Backward& b) {
  const Slabs slabs{b.shape};
  const SlabSteps<M, T, A, kExtras> steps{slabs, b.weights};
  const std::int64_t channels = b.shape.channels, chunks = slabs.chunks();
  const long double counted = b.training ? count_of(b.shape, b.weights) : 1, count = counted > 0 ? counted : 1;
  const bool past = may_store_past<T, M>(slabs, b.dx);
  const bool sums_asked = b.training || b.dgamma.data != nullptr || b.dbeta.data != nullptr;
  const bool values_asked = b.dx != nullptr || b.dresidual != nullptr;
  const int threads = threads_for(channels * slabs.values());

  const auto known = [&](std::int64_t c) { return known_constants(b, c); };
  const auto covered = [&](std::int64_t c, const Constants& k) { return M::covers(k, b.training ? b.centre.m2()[c] : 0.0); };
  const auto sum = [&](std::int64_t c, std::int64_t chunk, const Constants& k) {
    return covered(c, k) ? steps.template sum_gradients_as<M>(b, c, chunk, k)
                         : steps.exactly().template sum_gradients_as<Exact>(b, c, chunk, k);
  };
  const auto slope = [&](std::int64_t c, const Constants& k, WidePair sums) {
    return slope_of(b, c, k, covered(c, k) ? M::hi(k) : Exact::hi(k), sums, count);
  };
  const auto descend = [&](std::int64_t c, std::int64_t chunk, const Constants& k, const Slope& s) {
    if (!covered(c, k)) return steps.exactly().template descend_as<Exact, false>(b, c, chunk, k, s);
    if constexpr (!kExtras) {
      if (past) return steps.template descend_as<M, true>(b, c, chunk, k, s);
    }
    steps.template descend_as<M, false>(b, c, chunk, k, s);
  };

  if (threads == 1 || channels >= 4 * threads) {
    spread(threads, [&](int thread, int all) {
      for (Range own = share(channels, thread, all); own.begin < own.end; ++own.begin) {
        const std::int64_t c = own.begin;
        const Constants k = known(c);
        WidePair sums;
        for (std::int64_t i = 0; sums_asked && i < chunks; ++i) sums.add(sum(c, i, k));
        const Slope s = slope(c, k, sums);
        for (std::int64_t i = chunks; values_asked && i-- > 0;) descend(c, i, k, s);
      }
      finish_stores();
    });
  } else {
    std::vector<WidePair> parts(static_cast<std::size_t>(channels * chunks));
    std::vector<Slope> slopes(static_cast<std::size_t>(channels));
    spread(threads, [&](int thread, int all) {
      const Range tasks = share(channels * chunks, thread, all), own = share(channels, thread, all);
      for (std::int64_t t = tasks.begin; sums_asked && t < tasks.end; ++t) {
        parts[t] = sum(t / chunks, t % chunks, known(t / chunks));
      }
      meet(all);
      for (std::int64_t c = own.begin; c < own.end; ++c) {
        WidePair sums;
        for (std::int64_t k = 0; k < chunks; ++k) sums.add(parts[c * chunks + k]);
        slopes[c] = slope(c, known(c), sums);
      }
      meet(all);
      for (std::int64_t t = tasks.end; values_asked && t-- > tasks.begin;) {
        descend(t / chunks, t % chunks, known(t / chunks), slopes[t / chunks]);
      }
      finish_stores();
    });
  }
}

}  // namespace batchnorm::BATCHNORM_VARIANT
