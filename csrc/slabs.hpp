// Batches that lie as slabs: x[row][channel][position], a channel's values in `rows` runs of `positions`.
//
// A slab that fits in the second-level cache is read from memory once: its statistics are taken, and it is normalized
// from the cache, last chunk first, by the same thread. Larger slabs, and channels too few to go round, are cut into
// chunks that threads share, with one meeting between the statistics and what follows. At test time, where nothing has to
// be known first, values are taken in the order of memory.
#pragma once

#include "bodies.hpp"
#include "parallel.hpp"

namespace batchnorm::BATCHNORM_VARIANT {

inline constexpr std::int64_t kChunk = 16384;               // values of one channel that are summed together
inline constexpr std::int64_t kCache = 1 << 19;             // half of the second-level cache, in bytes
inline constexpr std::int64_t kAhead = 2048;                 // bytes that are asked for before they are read
inline constexpr std::int64_t kPastCaches = 12 << 20;       // outputs from this size on are not found in a cache again

struct Slabs {
  Shape shape;
  bool scattered = false;  // see is_scattered
  std::int64_t values() const { return shape.rows * shape.positions; }
  std::int64_t chunks() const { return (values() + kChunk - 1) / kChunk; }
  Range chunk(std::int64_t k) const { return {k * kChunk, std::min(values(), (k + 1) * kChunk)}; }

  // Calls vector(offset in x, offset in weights, lanes, which of two sums) over consecutive values.
  template <int kLanes, class Vector>
  static BATCHNORM_INLINE void along(std::int64_t x, std::int64_t w, std::int64_t values, const Vector& vector) {
    std::int64_t i = 0;
    for (; i + 2 * kLanes <= values; i += 2 * kLanes) {
      vector(x + i, w + i, Full{}, 0);
      vector(x + i + kLanes, w + i + kLanes, Full{}, 1);
    }
    if (i + kLanes <= values) vector(x + i, w + i, Full{}, 0), i += kLanes;
    if (i < values) vector(x + i, w + i, Part{static_cast<int>(values - i)}, 1);
  }

  // The same over a range of one channel's values; pause() after at most `longest` vectors for each sum, and at the end.
  // begin(row, offset) before each whole run.
  template <int kLanes, class Vector, class Pause, class Begin>
  BATCHNORM_INLINE void over(std::int64_t channel, Range range, std::int64_t longest, const Vector& vector,
                             const Pause& pause, const Begin& begin) const {
    const std::int64_t positions = shape.positions, a_row = shape.channels * positions;
    const std::int64_t longest_run = std::max<std::int64_t>(1, longest - 1) * 2 * kLanes;
    const std::int64_t rows_at_once = std::max<std::int64_t>(1, longest / (positions / (2 * kLanes) + 1));
    for (std::int64_t at = range.begin; at < range.end; pause()) {
      const std::int64_t row = at / positions, position = at - row * positions, left = range.end - at;
      const std::int64_t x = row * a_row + channel * positions + position;
      if (position > 0 || left < positions || positions > longest_run) {
        const std::int64_t run = std::min({left, positions - position, longest_run});
        along<kLanes>(x, at, run, vector);
        at += run;
      } else {
        const std::int64_t rows = std::min(rows_at_once, left / positions);
        for (std::int64_t r = 0; r < rows; ++r) {
          begin(row + r, x + r * a_row);
          along<kLanes>(x + r * a_row, at + r * positions, positions, vector);
        }
        at += rows * positions;
      }
    }
  }

  // Asks for the run two rows on where the processor does not.
  template <class T>
  BATCHNORM_INLINE void ask_to_write_on(T* p, std::int64_t row, std::int64_t at) const {
    if (scattered && row + 2 < shape.rows) ask_to_write(p + at + 2 * shape.channels * shape.positions, shape.positions);
  }
};

// Whether runs are so short and far apart that the processor does not guess the next, in a batch that no near cache holds.
template <class T>
bool is_scattered(const Shape& s) {
  const std::int64_t run = s.positions * static_cast<std::int64_t>(sizeof(T));
  return run >= 256 && run <= 4096 && run * s.rows * s.channels >= 4 * kCache;
}

// Whether every full vector that is written starts at a multiple of its size: what storing past the caches asks.
template <class T, class M>
bool may_store_past(const Shape& s, const void* y) {
  const std::int64_t bytes = M::kLanes * static_cast<std::int64_t>(sizeof(T));
  return s.rows * s.channels * s.positions * static_cast<std::int64_t>(sizeof(T)) >= kPastCaches &&
         reinterpret_cast<std::uintptr_t>(y) % bytes == 0 && s.positions * static_cast<std::int64_t>(sizeof(T)) % bytes == 0;
}

// A first guess at a channel's mean: of a few of its values the one nearest to their mean, or the first that counts. One
// of the values themselves, because differences of values are exact more often: of whole numbers, of 16-bit ones.
template <class M, class T>
double first_guess(const Shape& s, std::int64_t channel, const T* x, const double* weights, bool in_short) {
  const std::int64_t values = s.rows * s.positions;
  const auto value = [&](std::int64_t i) {
    return to_double(x[(i / s.positions * s.channels + channel) * s.positions + i % s.positions]);
  };
  if (weights != nullptr) {
    for (std::int64_t i = 0; i < values; ++i) {
      if (weights[i] > 0) return value(i);
    }
    return 0;
  }
  const std::int64_t samples = in_short ? std::min<std::int64_t>(M::kSamples, values) : 1;
  double sample[M::kSamples], sum = 0;
  for (std::int64_t i = 0; i < samples; ++i) sum += sample[i] = value(i * (values / samples));
  return *std::min_element(sample, sample + samples, [&](double a, double b) {
    return std::abs(a * samples - sum) < std::abs(b * samples - sum);
  });
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

  // add(offset, weight's offset, lanes, sums) over one chunk.
  template <class Sums, int kLanes, class Add>
  BATCHNORM_INLINE auto summed(std::int64_t channel, std::int64_t chunk, const Add& add) const {
    typename Sums::Total all;
    Sums parts[2];
    slabs.over<kLanes>(
        channel, slabs.chunk(chunk), Sums::kLongest,
        [&](std::int64_t at, std::int64_t w, auto lanes, int which) BATCHNORM_LAMBDA { add(at, w, lanes, parts[which]); },
        [&]() BATCHNORM_LAMBDA {
          take_in(all, parts[0]);
          take_in(all, parts[1]);
          parts[0] = parts[1] = Sums{};
        },
        [](std::int64_t, std::int64_t) {});
    return all.totals();
  }

  template <class Sums>
  auto moments(const T* x, std::int64_t channel, std::int64_t chunk, double anchor) const {
    const MomentsBody<M, Sums, T> body{x, weights != nullptr};
    const auto centre = Sums::anchor(anchor);
    return summed<Sums, M::kLanes>(channel, chunk,
                                   [&](std::int64_t at, std::int64_t w, auto lanes, Sums& sums) BATCHNORM_LAMBDA {
                                     ask_to_read(x + at, kAhead);
                                     body.at(at, lanes, centre, weight<M>(w, lanes), sums);
                                   });
  }

  template <class Math, bool kPast>
  void normalize(const Forward& f, std::int64_t channel, std::int64_t chunk,
                 const Constants<typename Math::Real>& k) const {
    typename Math::Number numbers[Math::kConstants];
    Math::constants(k, numbers, 1);
    const auto apply = Math::splat_apply(numbers);
    const ForwardBody<Math, T, A, kExtras, true> body(f);
    slabs.over<Math::kLanes>(
        channel, slabs.chunk(chunk), kChunk,
        [&](std::int64_t at, std::int64_t w, auto lanes, int) BATCHNORM_LAMBDA {
          body.template at<kPast>(at, lanes, apply, weight<Math>(w, lanes));
        },
        [] {},
        [&](std::int64_t row, std::int64_t at) BATCHNORM_LAMBDA { slabs.ask_to_write_on(body.y, row, at); });
  }

  // At test time: `values` consecutive ones of one channel.
  template <bool kPast>
  BATCHNORM_INLINE void evaluate(const ForwardBody<M, T, A, kExtras, false>& body, std::int64_t x, std::int64_t w,
                                 std::int64_t values, const typename M::Number* numbers) const {
    const auto apply = M::splat_apply(numbers);
    Slabs::along<M::kLanes>(x, w, values, [&](std::int64_t at, std::int64_t w_at, auto lanes, int) BATCHNORM_LAMBDA {
      body.template at<kPast>(at, lanes, apply, weight<M>(w_at, lanes));
    });
  }

  template <class Math, class Sums>
  auto sum_gradients(const Backward& b, std::int64_t channel, std::int64_t chunk,
                     const Constants<typename Math::Real>& k) const {
    typename Math::Number numbers[Math::kConstants];
    Math::constants(k, numbers, 1);
    const auto apply = Math::splat_apply(numbers);
    const GradientBody<Math, T, A, kExtras> body(b);
    return summed<Sums, Math::kLanes>(channel, chunk,
                                      [&](std::int64_t at, std::int64_t w, auto lanes, Sums& sums) BATCHNORM_LAMBDA {
                                        ask_to_read(body.x + at, kAhead);
                                        ask_to_read(body.dy + at, kAhead);
                                        body.add(at, lanes, apply, weight<Math>(w, lanes), sums);
                                      });
  }

  template <class Math, bool kPast>
  void descend(const Backward& b, std::int64_t channel, std::int64_t chunk, const Constants<typename Math::Real>& k,
               const Slope& slope) const {
    using Number = typename Math::Number;
    Number numbers[Math::kConstants];
    Math::constants(k, numbers, 1);
    const auto apply = Math::splat_apply(numbers);
    const auto scale = splat(static_cast<Number>(slope.scale)), along = splat(static_cast<Number>(slope.along)),
               across = splat(static_cast<Number>(slope.across));
    const GradientBody<Math, T, A, kExtras> body(b);
    slabs.over<Math::kLanes>(
        channel, slabs.chunk(chunk), kChunk,
        [&](std::int64_t at, std::int64_t w, auto lanes, int) BATCHNORM_LAMBDA {
          body.template at<kPast>(at, lanes, apply, scale, along, across, weight<Math>(w, lanes));
        },
        [] {},
        [&](std::int64_t row, std::int64_t at) BATCHNORM_LAMBDA { slabs.ask_to_write_on(body.dx, row, at); });
  }
};

}  // namespace batchnorm::BATCHNORM_VARIANT
