// The forward and backward passes over batches that lie as slabs: which thread does which step of slabs.hpp when.
#pragma once

#include <atomic>
#include <vector>

#include "exact_blocks.hpp"
#include "slabs.hpp"

namespace batchnorm::BATCHNORM_VARIANT {

// How the threads divide a pass: each has channels of its own, or, where those are too few to go round, all share the
// chunks and meet.
struct SlabDivision {
  int threads;
  bool by_channels;
  SlabDivision(const Shape& s, std::int64_t work_of_one)
      : threads(threads_for(s.rows * s.channels * s.positions * work_of_one)),
        by_channels(threads == 1 || s.channels >= 4 * threads) {}
};

template <class M, class T, Act A, bool kExtras>
std::int64_t train_slabs(const Forward& f) {
  using Real = typename M::Real;
  const bool past = !kExtras && may_store_past<T, M>(f.shape, f.y);
  const Slabs slabs{f.shape, !past && is_scattered<T>(f.shape)};
  const SlabSteps<M, T, A, kExtras> steps{slabs, f.weights};
  const SlabSteps<M, T, Act::any, true> surely{slabs, f.weights};
  const SlabSteps<Exact, T, Act::any, true> exactly{slabs, f.weights};
  const T* x = static_cast<const T*>(f.x);
  const std::int64_t channels = f.shape.channels, chunks = slabs.chunks();
  const Count<Real> count = count_of<M>(f.shape, f.weights);
  const bool moves = f.running_mean.data != nullptr && count.values >= 2;
  const bool in_short = f.weights == nullptr && worth_short_sums(slabs.values());
  const SlabDivision division(f.shape, M::kWork);
  std::atomic<std::int64_t> refused{0};

  const auto first_look = [&](std::int64_t c, std::int64_t k, double anchor) {
    return in_short ? steps.template moments<typename M::Sums>(x, c, k, anchor)
                    : surely.template moments<typename M::SureSums>(x, c, k, anchor);
  };
  const auto second_look = [&](std::int64_t c, std::int64_t k, double anchor) {
    return surely.template moments<typename M::SureSums>(x, c, k, anchor);
  };
  const auto are_settled = [&](Pair<Real> sums) {
    return in_short ? M::template settled<typename M::Sums>(sums, count, f.eps)
                    : M::template settled<typename M::SureSums>(sums, count, f.eps);
  };
  const auto settle = [&](std::int64_t c) {  // the channel's moments are known
    if (moves && !move_running(f, c, count)) refused.fetch_add(1, std::memory_order_relaxed);
    return constants_of<M>(f, c, count);
  };
  const auto write = [&](std::int64_t c, std::int64_t chunk, const Constants<Real>& k) {
    if (!M::covers(k, f.centre.m2()[c])) {
      return exactly.template normalize<Exact, false>(f, c, chunk, constants_of<Exact>(f, c, Count<long double>(count.values)));
    }
    if constexpr (!kExtras) {
      if (past) return steps.template normalize<M, true>(f, c, chunk, k);
    }
    steps.template normalize<M, false>(f, c, chunk, k);
  };

  if (division.by_channels) {
    spread(division.threads, [&](int thread, int all) {
      for (Range own = share(channels, thread, all); own.begin < own.end; ++own.begin) {
        const std::int64_t c = own.begin;
        double anchor = first_guess<M>(f.shape, c, x, f.weights, in_short);
        Pair<Real> sums;
        for (std::int64_t k = 0; k < chunks; ++k) sums.add(first_look(c, k, anchor));
        set_moments(f.centre, c, anchor, sums, count);
        if (!are_settled(sums)) {
          anchor = second_guess(f.centre, c, anchor);
          sums = {};
          for (std::int64_t k = 0; k < chunks; ++k) sums.add(second_look(c, k, anchor));
          set_moments(f.centre, c, anchor, sums, count);
        }
        const Constants<Real> constants = settle(c);
        for (std::int64_t k = chunks; k-- > 0;) write(c, k, constants);
      }
      finish_stores();
    });
  } else {
    std::vector<Pair<Real>> parts(static_cast<std::size_t>(channels * chunks));
    std::vector<double> anchors(static_cast<std::size_t>(channels));
    std::vector<char> settled(static_cast<std::size_t>(channels));
    std::vector<Constants<Real>> constants(static_cast<std::size_t>(channels));
    for (std::int64_t c = 0; c < channels; ++c) anchors[c] = first_guess<M>(f.shape, c, x, f.weights, in_short);
    spread(division.threads, [&](int thread, int all) {
      const Range tasks = share(channels * chunks, thread, all), own = share(channels, thread, all);
      const auto gather = [&](std::int64_t c) {
        Pair<Real> sums;
        for (std::int64_t k = 0; k < chunks; ++k) sums.add(parts[c * chunks + k]);
        set_moments(f.centre, c, anchors[c], sums, count);
        return sums;
      };
      for (std::int64_t t = tasks.begin; t < tasks.end; ++t) {
        parts[t] = first_look(t / chunks, t % chunks, anchors[t / chunks]);
      }
      meet(all);
      for (std::int64_t c = own.begin; c < own.end; ++c) {
        settled[c] = are_settled(gather(c));
        if (!settled[c]) anchors[c] = second_guess(f.centre, c, anchors[c]);
      }
      meet(all);
      for (std::int64_t t = tasks.begin; t < tasks.end; ++t) {
        if (!settled[t / chunks]) parts[t] = second_look(t / chunks, t % chunks, anchors[t / chunks]);
      }
      meet(all);
      for (std::int64_t c = own.begin; c < own.end; ++c) {
        if (!settled[c]) gather(c);
        constants[c] = settle(c);
      }
      meet(all);
      for (std::int64_t t = tasks.end; t-- > tasks.begin;) write(t / chunks, t % chunks, constants[t / chunks]);
      finish_stores();
    });
  }
  if (moves && f.batches != nullptr) ++*f.batches;
  return refused;
}

template <class M, class T, Act A, bool kExtras>
void evaluate_slabs(const Forward& f) {
  const Slabs slabs{f.shape};
  const Shape& s = f.shape;
  std::vector<typename M::Number> numbers(static_cast<std::size_t>(s.channels * M::kConstants));
  const Count<typename M::Real> one(1);
  for (std::int64_t c = 0; c < s.channels; c += kBlock) {
    const std::int64_t length = std::min(kBlock, s.channels - c);
    typename M::Number apart[M::kConstants * kBlock];
    bool found = true;
    if constexpr (kInBlocks<M>) {
      ConstantsBlock k;
      constants_of(f, c, length, one, k);
      if (k.uncovered(length, kNone, kAll) > 0) return evaluate_slabs<Exact, T, Act::any, true>(f);
      k.split(length, apart, kBlock);
    } else {
      found = evaluation_constants(f, c, length, apart, kBlock);
    }
    for (std::int64_t i = 0; i < length; ++i) {
      typename M::Number* to = &numbers[(c + i) * M::kConstants];
      if (!found) M::constants(constants_of<M>(f, c + i, one), to, 1);
      for (int a = 0; found && a < M::kConstants; ++a) to[a] = apart[a * kBlock + i];
    }
  }
  const SlabSteps<M, T, A, kExtras> steps{slabs, f.weights};
  const bool past = !kExtras && may_store_past<T, M>(s, f.y);
  const std::int64_t values = s.rows * s.channels * s.positions;
  const auto write = [&]<bool kPast>(std::bool_constant<kPast>, Range own) {
    const ForwardBody<M, T, A, kExtras, false> body(f);
    std::int64_t slab = own.begin / s.positions, position = own.begin % s.positions;
    for (std::int64_t x = own.begin; x < own.end;) {
      const std::int64_t run = std::min(own.end - x, s.positions - position);
      const std::int64_t row = slab / s.channels, channel = slab - row * s.channels;
      steps.template evaluate<kPast>(body, x, row * s.positions + position, run, &numbers[channel * M::kConstants]);
      x += run, ++slab, position = 0;
    }
  };
  spread(threads_for(values * M::kWork), [&](int thread, int all) {
    const Range own = share(values, thread, all, 64);
    past ? write(std::true_type{}, own) : write(std::false_type{}, own);
    finish_stores();
  });
}

template <class M, class T, Act A, bool kExtras>
void backward_slabs(const Backward& b) {
  using Real = typename M::Real;
  const bool past = !kExtras && may_store_past<T, M>(b.shape, b.dx);
  const Slabs slabs{b.shape, !past && b.dx != nullptr && is_scattered<T>(b.shape)};
  const SlabSteps<M, T, A, kExtras> steps{slabs, b.weights};
  const SlabSteps<M, T, Act::any, true> surely{slabs, b.weights};
  const SlabSteps<Exact, T, Act::any, true> exactly{slabs, b.weights};
  const std::int64_t channels = b.shape.channels, chunks = slabs.chunks();
  const Count<Real> count = b.training ? count_of<M>(b.shape, b.weights) : Count<Real>(1);
  const bool sums_asked = b.training || b.dgamma.data != nullptr || b.dbeta.data != nullptr;
  const bool values_asked = b.dx != nullptr || b.dresidual != nullptr;
  const bool in_short = worth_short_sums(slabs.values());
  const SlabDivision division(b.shape, M::kWork);

  const auto known = [&](std::int64_t c) { return known_constants<M>(b, c); };
  const auto covered = [&](std::int64_t c, const Constants<Real>& k) {
    return M::covers(k, spread_of(b.centre, b.training, c));
  };
  const auto first_look = [&](std::int64_t c, std::int64_t chunk, const Constants<Real>& k) {
    return in_short ? steps.template sum_gradients<M, typename M::Sums>(b, c, chunk, k)
                    : surely.template sum_gradients<M, typename M::SureSums>(b, c, chunk, k);
  };
  const auto second_look = [&](std::int64_t c, std::int64_t chunk, const Constants<Real>& k) {
    return surely.template sum_gradients<M, typename M::SureSums>(b, c, chunk, k);
  };
  const auto are_settled = [&](Pair<Real> sums) {
    return !in_short || M::template settled<typename M::Sums>(sums);
  };
  const auto descend = [&](std::int64_t c, std::int64_t chunk, const Constants<Real>& k, const Slope& s) {
    if constexpr (!kExtras) {
      if (past) return steps.template descend<M, true>(b, c, chunk, k, s);
    }
    steps.template descend<M, false>(b, c, chunk, k, s);
  };
  // A channel that leaves the range of M's numbers, by one thread.
  const auto whole_channel = [&](std::int64_t c) {
    const auto k = known_constants<Exact>(b, c);
    Pair<long double> sums;
    for (std::int64_t i = 0; sums_asked && i < chunks; ++i) {
      sums.add(exactly.template sum_gradients<Exact, KeepingSums>(b, c, i, k));
    }
    const Slope slope = slope_of<Exact>(b, c, k, sums, Count<long double>(count.values));
    for (std::int64_t i = chunks; values_asked && i-- > 0;) exactly.template descend<Exact, false>(b, c, i, k, slope);
  };

  if (division.by_channels) {
    spread(division.threads, [&](int thread, int all) {
      for (Range own = share(channels, thread, all); own.begin < own.end; ++own.begin) {
        const std::int64_t c = own.begin;
        const Constants<Real> k = known(c);
        if (!covered(c, k)) {
          whole_channel(c);
          continue;
        }
        Pair<Real> sums;
        for (std::int64_t i = 0; sums_asked && i < chunks; ++i) sums.add(first_look(c, i, k));
        if (!are_settled(sums)) {
          sums = {};
          for (std::int64_t i = 0; i < chunks; ++i) sums.add(second_look(c, i, k));
        }
        const Slope s = slope_of<M>(b, c, k, sums, count);
        for (std::int64_t i = chunks; values_asked && i-- > 0;) descend(c, i, k, s);
      }
      finish_stores();
    });
  } else {
    std::vector<Pair<Real>> parts(static_cast<std::size_t>(channels * chunks));
    std::vector<Slope> slopes(static_cast<std::size_t>(channels));
    std::vector<char> settled(static_cast<std::size_t>(channels));
    spread(division.threads, [&](int thread, int all) {
      const Range tasks = share(channels * chunks, thread, all), own = share(channels, thread, all);
      const auto gathered = [&](std::int64_t c) {
        Pair<Real> sums;
        for (std::int64_t k = 0; k < chunks; ++k) sums.add(parts[c * chunks + k]);
        return sums;
      };
      for (std::int64_t t = tasks.begin; sums_asked && t < tasks.end; ++t) {
        const Constants<Real> k = known(t / chunks);
        if (covered(t / chunks, k)) parts[t] = first_look(t / chunks, t % chunks, k);
      }
      meet(all);
      for (std::int64_t c = own.begin; c < own.end; ++c) settled[c] = are_settled(gathered(c));
      meet(all);
      for (std::int64_t t = tasks.begin; t < tasks.end; ++t) {
        if (!settled[t / chunks]) parts[t] = second_look(t / chunks, t % chunks, known(t / chunks));
      }
      meet(all);
      for (std::int64_t c = own.begin; c < own.end; ++c) {
        const Constants<Real> k = known(c);
        if (covered(c, k)) slopes[c] = slope_of<M>(b, c, k, gathered(c), count);
        else whole_channel(c);
      }
      meet(all);
      for (std::int64_t t = tasks.end; values_asked && t-- > tasks.begin;) {
        const Constants<Real> k = known(t / chunks);
        if (covered(t / chunks, k)) descend(t / chunks, t % chunks, k, slopes[t / chunks]);
      }
      finish_stores();
    });
  }
}

}  // namespace batchnorm::BATCHNORM_VARIANT
