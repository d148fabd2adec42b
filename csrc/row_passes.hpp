// The forward and backward passes over batches that lie as rows: what is computed when.
#pragma once

#include "row_division.hpp"

namespace batchnorm::BATCHNORM_VARIANT {

// Channel c's constants to every column of it.
template <class Math>
void spread_constants(const Rows& rows, std::int64_t c, const Constants<typename Math::Real>& k,
                      typename Math::Number* arrays) {
  for (std::int64_t j = 0; j < rows.fold; ++j) Math::constants(k, arrays + j * rows.channels + c, rows.stride);
}

inline void spread_constants(const Rows& rows, std::int64_t begin, std::int64_t length, const ConstantsBlock& k,
                             float* arrays) {
  for (std::int64_t j = 0; j < rows.fold; ++j) k.split(length, arrays + j * rows.channels + begin, rows.stride);
}

template <class Number>
void spread_slope(const Rows& rows, std::int64_t c, const Slope& slope, Number* arrays) {
  for (std::int64_t j = 0; j < rows.fold; ++j) {
    Number* at = arrays + j * rows.channels + c;
    at[0] = static_cast<Number>(slope.scale);
    at[rows.stride] = static_cast<Number>(slope.along);
    at[2 * rows.stride] = static_cast<Number>(slope.across);
  }
}

template <class T, class M>
bool may_store_past(const Rows& rows, const void* y) {
  const std::int64_t bytes = M::kLanes * static_cast<std::int64_t>(sizeof(T));
  return rows.rows * rows.channels * static_cast<std::int64_t>(sizeof(T)) >= kPastCaches &&
         reinterpret_cast<std::uintptr_t>(y) % bytes == 0 && rows.columns % M::kLanes == 0;
}

// A first guess at every channel's mean, see first_guess, to every column of it. sums: (C,) to work in.
template <class M, class T>
void spread_first_guesses(const Rows& rows, const T* x, const double* weights, bool in_short, double* anchors,
                          double* sums) {
  const std::int64_t channels = rows.channels, samples = in_short ? std::min<std::int64_t>(M::kSamples, rows.rows) : 1;
  if (weights != nullptr) {
    for (std::int64_t c = 0; c < channels; ++c) {
      anchors[c] = first_guess<M>(Shape{rows.rows, channels, 1}, c, x, weights, in_short);
    }
  } else {
    const auto row = [&](std::int64_t i) { return x + i * (rows.rows / samples) * channels; };
    for (std::int64_t c = 0; c < channels; ++c) sums[c] = anchors[c] = to_double(x[c]);
    for (std::int64_t i = 1; i < samples; ++i) {
#pragma omp simd
      for (std::int64_t c = 0; c < channels; ++c) sums[c] += to_double(row(i)[c]);
    }
    for (std::int64_t i = 1; i < samples; ++i) {
#pragma omp simd
      for (std::int64_t c = 0; c < channels; ++c) {
        const double other = to_double(row(i)[c]);
        anchors[c] = std::abs(other * samples - sums[c]) < std::abs(anchors[c] * samples - sums[c]) ? other : anchors[c];
      }
    }
  }
  for (std::int64_t j = 1; j < rows.fold; ++j) std::copy(anchors, anchors + channels, anchors + j * channels);
}

// The batch once more in Exact, where a channel leaves the range of the arithmetic that it was written in.
template <class T, bool kTraining>
void write_exactly(const Rows& rows, const Division& division, const Forward& f, double* constants,
                   const Count<long double>& count) {
  for (std::int64_t c = 0; c < rows.channels; ++c) {
    spread_constants<Exact>(rows, c, constants_of<Exact>(f, c, count), constants);
  }
  const RowSteps<Exact, T, Act::any, true> steps{rows, f.weights};
  spread(division.threads, [&](int thread, int all) {
    write_rows(rows, division, thread, all, [&](std::int64_t k, Range columns) {
      steps.template normalize<kTraining, false>(f, k, columns, constants);
    });
  });
}

// Nobody asks what becomes of a channel once its moments are known.
struct Unasked {
  void operator()(std::int64_t) const {}
  void operator()(std::int64_t, std::int64_t, const double*) const {}
};

// One thread's part of taking every channel's moments: a look, and where that did not settle a channel, another.
// Calls known(c), or known(begin, length, which of them), for the channels that fall to the thread.
template <class M, class FirstSums, class T, class Known>
void take_moments(const Rows& rows, const RowArrays<M>& arrays, const Division& division, int thread, int all, const T* x,
                  const double* weights, Centre centre, const Count<typename M::Real>& count, double eps, Settled& settled,
                  const Known& known) {
  constexpr bool kSure = std::is_same_v<FirstSums, typename M::SureSums>;
  const RowSteps<M, T, Act::none, kSure> steps{rows, weights};
  const RowSteps<M, T, Act::none, true> surely{rows, weights};
  const Range own = division.own(rows, thread, all);
  sum_rows<M>(
      rows, arrays, division, thread, all,
      [&](std::int64_t k, Range columns, double* sums) {
        steps.template moments<FirstSums>(x, k, columns, arrays.anchors(), sums);
      },
      [&](Range channels) {
        if constexpr (kInBlocks<M>) {
          each_block(rows, arrays, channels, [&](std::int64_t c, std::int64_t length, const double* first, const double* second) {
            Block on;
            const double left = set_moments<FirstSums>(centre, c, length, arrays.anchors() + c, first, second, count, eps, on);
            settled.set(c, length, on, left == 0);
            known(c, length, on);
          });
        } else {
          each_channel(rows, arrays, channels, [&](std::int64_t c, Pair<typename M::Real> sums) {
            set_moments(centre, c, arrays.anchors()[c], sums, count);
            settled.set(c, M::template settled<FirstSums>(sums, count, eps));
            if (settled[c]) known(c);
          });
        }
        for (std::int64_t c = channels.begin; c < channels.end; ++c) {
          if (settled[c]) continue;
          const double anchor = second_guess(centre, c, arrays.anchors()[c]);
          for (std::int64_t j = 0; j < rows.fold; ++j) arrays.anchors()[j * rows.channels + c] = anchor;
        }
      });
  if (division.by_columns ? !settled.any_left(own) : !settled.any_left()) return;
  sum_rows<M>(
      rows, arrays, division, thread, all,
      [&](std::int64_t k, Range columns, double* sums) {
        surely.template moments<typename M::SureSums>(x, k, columns, arrays.anchors(), sums);
      },
      [&](Range channels) {
        each_channel(rows, arrays, channels, [&](std::int64_t c, Pair<typename M::Real> sums) {
          if (settled[c]) return;
          set_moments(centre, c, arrays.anchors()[c], sums, count);
          known(c);
        });
      });
}

// What is known of a channel, or of a block of them, in training: running statistics move, constants are spread.
template <class M>
struct Settling {
  const Rows& rows;
  const Forward& f;
  const Count<typename M::Real>& count;
  typename M::Number* constants;
  bool moves;
  std::atomic<std::int64_t>& refused;
  std::atomic<bool>& leaves_range;

  void operator()(std::int64_t c) const {
    if (moves && !move_running(f, c, count)) refused.fetch_add(1, std::memory_order_relaxed);
    const auto k = constants_of<M>(f, c, count);
    spread_constants<M>(rows, c, k, constants);
    if (!M::covers(k, f.centre.m2()[c])) leaves_range.store(true, std::memory_order_relaxed);
  }
  // on: 1 for those that are known.
  void operator()(std::int64_t begin, std::int64_t length, const double* on) const {
    const double stayed = moves ? move_running(f, begin, length, count, on) : 0;
    if (stayed > 0) refused.fetch_add(static_cast<std::int64_t>(stayed), std::memory_order_relaxed);
    ConstantsBlock k;
    constants_of(f, begin, length, count, k);
    spread_constants(rows, begin, length, k, constants);
    if (k.uncovered(length, f.centre.m2() + begin, on) > 0) leaves_range.store(true, std::memory_order_relaxed);
  }
};

template <class M, class T, Act A, bool kExtras>
std::int64_t train_rows(const Forward& f) {
  const std::int64_t channels = f.shape.channels;
  const Rows rows(f.shape, M::kLanes, f.weights == nullptr, kMasksParts<typename M::V, T>);
  const Division division(rows, rows.rows * channels * M::kWork);
  const RowArrays<M> arrays(rows, division.by_columns ? 1 : rows.chunks, true);
  const T* x = static_cast<const T*>(f.x);
  const Count<typename M::Real> count = count_of<M>(f.shape, f.weights);
  const bool past = !kExtras && may_store_past<T, M>(rows, f.y), moves = f.running_mean.data != nullptr && count.values >= 2;
  const bool in_short = f.weights == nullptr && worth_short_sums(rows.rows);
  std::atomic<std::int64_t> refused{0};
  std::atomic<bool> leaves_range{false};
  Settled settled(channels);

  const Settling<M> settle{rows, f, count, arrays.template constants<M>(), moves, refused, leaves_range};
  // By columns threads do not meet, and one may write before another knows of a channel that leaves the range: every
  // thread writes what it has, and such a batch is written once more.
  spread_first_guesses<M>(rows, x, f.weights, in_short, arrays.anchors(), arrays.sums());
  spread(division.threads, [&](int thread, int all) {
    const auto take = [&]<class FirstSums>(const FirstSums&) {
      take_moments<M, FirstSums>(rows, arrays, division, thread, all, x, f.weights, f.centre, count, f.eps, settled,
                                 settle);
    };
    in_short ? take(typename M::Sums{}) : take(typename M::SureSums{});
    const RowSteps<M, T, A, kExtras> steps{rows, f.weights};
    const auto* constants = arrays.template constants<M>();
    write_rows(rows, division, thread, all, [&](std::int64_t k, Range columns) {
      if constexpr (!kExtras) {
        if (past) return steps.template normalize<true, true>(f, k, columns, constants);
      }
      steps.template normalize<true, false>(f, k, columns, constants);
    });
  });
  if (leaves_range) {
    write_exactly<T, true>(rows, division, f, arrays.template constants<Exact>(), Count<long double>(count.values));
  }
  if (moves && f.batches != nullptr) ++*f.batches;
  return refused;
}

template <class M, class T, Act A, bool kExtras>
void evaluate_rows(const Forward& f) {
  const Rows rows(f.shape, M::kLanes, f.weights == nullptr, kMasksParts<typename M::V, T>);
  const Division division(rows, rows.rows * rows.channels * M::kWork);
  const RowArrays<M> arrays(rows, 0, true);
  auto* constants = arrays.template constants<M>();
  const Count<typename M::Real> one(1);
  bool covers = true;
  for (std::int64_t c = 0; c < rows.channels; c += kBlock) {
    const std::int64_t length = std::min(kBlock, rows.channels - c);
    if constexpr (kInBlocks<M>) {
      ConstantsBlock k;
      constants_of(f, c, length, one, k);
      spread_constants(rows, c, length, k, constants);
      covers = covers && k.uncovered(length, kNone, kAll) == 0;
    } else {
      bool found = true;
      for (std::int64_t j = 0; found && j < rows.fold; ++j) {
        found = evaluation_constants(f, c, length, constants + j * rows.channels + c, rows.stride);
      }
      for (std::int64_t i = c; !found && i < c + length; ++i) {
        spread_constants<M>(rows, i, constants_of<M>(f, i, one), constants);
      }
    }
  }
  if (!covers) {
    return write_exactly<T, false>(rows, division, f, arrays.template constants<Exact>(), Count<long double>(1));
  }
  const RowSteps<M, T, A, kExtras> steps{rows, f.weights};
  const bool past = !kExtras && may_store_past<T, M>(rows, f.y);
  spread(division.threads, [&](int thread, int all) {
    write_rows(rows, division, thread, all, [&](std::int64_t k, Range columns) {
      if constexpr (!kExtras) {
        if (past) return steps.template normalize<false, true>(f, k, columns, constants);
      }
      steps.template normalize<false, false>(f, k, columns, constants);
    });
  });
}

template <class M, class T, Act A, bool kExtras>
void backward_rows(const Backward& b) {
  const std::int64_t channels = b.shape.channels;
  const Rows rows(b.shape, M::kLanes, b.weights == nullptr, kMasksParts<typename M::V, T>);
  const Division division(rows, rows.rows * channels * M::kWork);
  const RowArrays<M> arrays(rows, division.by_columns ? 1 : rows.chunks, false);
  const RowSteps<M, T, A, kExtras> steps{rows, b.weights};
  const RowSteps<M, T, Act::any, true> surely{rows, b.weights};
  const auto count = b.training ? count_of<M>(b.shape, b.weights) : Count<typename M::Real>(1);
  const bool past = !kExtras && may_store_past<T, M>(rows, b.dx);
  const bool sums_asked = b.training || b.dgamma.data != nullptr || b.dbeta.data != nullptr;
  const bool values_asked = b.dx != nullptr || b.dresidual != nullptr;
  const bool in_short = worth_short_sums(rows.rows);
  auto* constants = arrays.template constants<M>();
  auto* slopes = arrays.template slopes<M>();
  Settled settled(channels);

  // Before anything is written: dx may be dy itself.
  for (std::int64_t c = 0; c < channels; c += kBlock) {
    const std::int64_t length = std::min(kBlock, channels - c);
    if constexpr (kInBlocks<M>) {
      ConstantsBlock k;
      known_constants(b, c, length, k);
      if (k.uncovered(length, b.training ? b.centre.m2() + c : kNone, kAll) > 0) {
        return backward_rows<Exact, T, Act::any, true>(b);
      }
      spread_constants(rows, c, length, k, constants);
    } else {
      for (std::int64_t i = c; i < c + length; ++i) spread_constants<M>(rows, i, known_constants<M>(b, i), constants);
    }
    if (sums_asked) continue;
    for (std::int64_t i = c; i < c + length; ++i) {
      spread_slope(rows, i, slope_of<M>(b, i, known_constants<M>(b, i), {}, count), slopes);
    }
  }
  spread(division.threads, [&](int thread, int all) {
    const Range own = division.own(rows, thread, all);
    if (sums_asked) {
      const auto known = [&](std::int64_t c, Pair<typename M::Real> sums) {
        spread_slope(rows, c, slope_of<M>(b, c, known_constants<M>(b, c), sums, count), slopes);
      };
      sum_rows<M>(
          rows, arrays, division, thread, all,
          [&](std::int64_t k, Range columns, double* sums) {
            in_short ? steps.template sum_gradients<typename M::Sums>(b, k, columns, constants, sums)
                     : steps.template sum_gradients<typename M::SureSums>(b, k, columns, constants, sums);
          },
          [&](Range own_channels) {
            if constexpr (kInBlocks<M>) {
              each_block(rows, arrays, own_channels, [&](std::int64_t c, std::int64_t length, const double* first,
                                                         const double* second) {
                ConstantsBlock k;
                known_constants(b, c, length, k);
                slopes_of(b, c, length, k, first, second, count, slopes + c, rows.stride);
                for (std::int64_t j = 1; j < rows.fold; ++j) {
                  for (int a = 0; a < 3; ++a) {
                    const float* from = slopes + a * rows.stride + c;
                    std::copy(from, from + length, slopes + a * rows.stride + j * channels + c);
                  }
                }
                Block on;
                const double left = in_short ? settled_gradients(length, first, second, on) : 0;
                settled.set(c, length, in_short ? on : kAll, left == 0);
              });
            } else {
              each_channel(rows, arrays, own_channels, [&](std::int64_t c, Pair<typename M::Real> sums) {
                known(c, sums);
                settled.set(c, true);
              });
            }
          });
      if (division.by_columns ? settled.any_left(own) : settled.any_left()) {
        sum_rows<M>(
            rows, arrays, division, thread, all,
            [&](std::int64_t k, Range columns, double* sums) {
              surely.template sum_gradients<typename M::SureSums>(b, k, columns, constants, sums);
            },
            [&](Range own_channels) {
              each_channel(rows, arrays, own_channels, [&](std::int64_t c, Pair<typename M::Real> sums) {
                if (!settled[c]) known(c, sums);
              });
            });
      }
    }
    if (!values_asked) return;
    write_rows(rows, division, thread, all, [&](std::int64_t k, Range columns) {
      if constexpr (!kExtras) {
        if (past) return steps.template descend<true>(b, k, columns, constants, slopes);
      }
      steps.template descend<false>(b, k, columns, constants, slopes);
    });
  });
}

// Per-channel Moments of a matrix.
template <class M, class T>
void statistics_rows(const Statistics& s) {
  const Rows rows(s.shape, M::kLanes, true, kMasksParts<typename M::V, T>);
  const Division division(rows, rows.rows * rows.channels * M::kWork);
  const RowArrays<M> arrays(rows, division.by_columns ? 1 : rows.chunks, false);
  const T* x = static_cast<const T*>(s.x);
  Settled settled(rows.channels);
  spread_first_guesses<M>(rows, x, nullptr, false, arrays.anchors(), arrays.sums());
  spread(division.threads, [&](int thread, int all) {
    const Count<typename M::Real> count(static_cast<typename M::Real>(rows.rows));
    take_moments<M, typename M::SureSums>(rows, arrays, division, thread, all, x, nullptr,
                                          Centre{s.block, rows.channels}, count, 0.0, settled, Unasked{});
  });
}

}  // namespace batchnorm::BATCHNORM_VARIANT
