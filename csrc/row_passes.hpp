// The forward and backward passes over batches that lie as rows: which thread does which step of rows.hpp when.
#pragma once

#include "rows.hpp"

namespace batchnorm::BATCHNORM_VARIANT {

// The arrays of one pass, in one block: sums of every chunk, their total, anchors, constants and slopes per column.
template <class M>
class RowArrays {
 public:
  RowArrays(const Rows& rows, std::int64_t parts, bool wide)
      : stride_(rows.stride),
        parts_(parts),
        memory_(static_cast<std::size_t>(rows.stride) * sizeof(double) *
                static_cast<std::size_t>((parts + 1) * M::Sums::kArrays + 1 + (wide ? 8 : M::kConstants + 3))) {
    // Lanes to spare are computed with, though nobody sees the result.
    std::fill(anchors(), memory_.as<double>() + (parts + 1) * M::Sums::kArrays * stride_ +
                             (1 + (wide ? 8 : M::kConstants + 3)) * stride_, 0.0);
  }
  double* part(std::int64_t k) const { return memory_.as<double>() + k * M::Sums::kArrays * stride_; }
  double* sums() const { return part(parts_); }
  double* anchors() const { return part(parts_ + 1); }
  template <class Math>
  typename Math::Number* constants() const {
    return reinterpret_cast<typename Math::Number*>(anchors() + stride_);
  }
  template <class Math>
  typename Math::Number* slopes() const {
    return constants<Math>() + Math::kConstants * stride_;
  }

 private:
  std::int64_t stride_, parts_;
  Scratch memory_;
};

// How the threads divide a pass. Nobody waits where each has columns of its own.
struct Division {
  int threads;
  bool by_columns;
  Division(const Rows& rows, std::int64_t values)
      : threads(threads_for(values)), by_columns(threads == 1 || (rows.fold == 1 && rows.channels >= 256 * threads)) {
    if (!by_columns && threads_at_hand() > 0) threads = 1, by_columns = true;  // helpers do not meet
  }
  void meet(int all) const {
    if (!by_columns) batchnorm::BATCHNORM_VARIANT::meet(all);
  }
};

inline constexpr std::int64_t kLine = 64;  // columns that threads share begin at multiples of it

// One thread's part of a pass over sums: adds up its chunks, or its columns of all chunks, and then calls
// channel(c, sums) for each channel that falls to it.
template <class M, class Sum, class Channel>
void sum_rows(const Rows& rows, const RowArrays<M>& arrays, const Division& division, int thread, int all,
              const Sum& sum, const Channel& channel) {
  Range own{0, rows.channels};
  if (division.by_columns) {
    Range columns{0, rows.columns};
    if (all > 1) own = columns = share(rows.columns, thread, all, kLine);
    const Range padded{columns.begin, columns.end == rows.columns ? rows.stride : columns.end};
    const auto clear = [&](double* at) {
      for (int a = 0; a < M::Sums::kArrays; ++a) {
        std::fill(at + a * rows.stride + padded.begin, at + a * rows.stride + padded.end, 0.0);
      }
    };
    clear(arrays.sums());
    for (std::int64_t k = 0; k < rows.chunks; ++k) {
      clear(arrays.part(0));
      sum(k, columns, arrays.part(0));
      merge_columns<M>(arrays.sums(), arrays.part(0), columns, rows.stride);
    }
  } else {
    const Range chunks = share(rows.chunks, thread, all);
    for (std::int64_t k = chunks.begin; k < chunks.end; ++k) {
      std::memset(arrays.part(k), 0, static_cast<std::size_t>(M::Sums::kArrays * rows.stride) * sizeof(double));
      sum(k, Range{0, rows.columns}, arrays.part(k));
    }
    division.meet(all);
    Range columns = share(rows.columns, thread, all, kLine);
    if (columns.end == rows.columns) columns.end = rows.stride;
    for (int a = 0; a < M::Sums::kArrays; ++a) {
      std::fill(arrays.sums() + a * rows.stride + columns.begin, arrays.sums() + a * rows.stride + columns.end, 0.0);
    }
    for (std::int64_t k = 0; k < rows.chunks; ++k) merge_columns<M>(arrays.sums(), arrays.part(k), columns, rows.stride);
    division.meet(all);
    own = share(rows.channels, thread, all);
  }
  for (std::int64_t c = own.begin; c < own.end; ++c) {
    WidePair pair;
    for (std::int64_t j = 0; j < rows.fold; ++j) pair.add(M::Sums::totals(arrays.sums() + j * rows.channels + c, rows.stride));
    channel(c, pair);
  }
  division.meet(all);
}

// A thread's share of a pass that writes: step(chunk, columns), last chunk first, while the cache still holds it.
template <class Step>
void write_rows(const Rows& rows, const Division& division, int thread, int all, const Step& step) {
  Range chunks{0, rows.chunks}, columns{0, rows.columns};
  if (division.by_columns && all > 1) columns = share(rows.columns, thread, all, kLine);
  if (!division.by_columns) chunks = share(rows.chunks, thread, all);
  for (std::int64_t k = chunks.end; k-- > chunks.begin;) step(k, columns);
  finish_stores();
}

// Channel c's constants to every column of it.
template <class Math>
void spread_constants(const Rows& rows, std::int64_t c, const Constants& k, typename Math::Number* arrays) {
  for (std::int64_t j = 0; j < rows.fold; ++j) Math::constants(k, arrays + j * rows.channels + c, rows.stride);
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

template <class M, class T, Act A, bool kExtras>
std::int64_t forward_rows(const Forward& f) {
  const std::int64_t channels = f.shape.channels;
  const Rows rows(f.shape, M::kLanes, f.weights == nullptr);
  const Division division(rows, rows.rows * channels);
  const RowArrays<M> arrays(rows, division.by_columns ? 1 : rows.chunks, true);
  const RowSteps<M, T, A, kExtras> steps{rows, f.weights};
  const T* x = static_cast<const T*>(f.x);
  const long double count = f.training ? count_of(f.shape, f.weights) : 1;
  const bool past = may_store_past<T, M>(rows, f.y), moves = f.training && f.running_mean.data != nullptr && count >= 2;
  std::atomic<std::int64_t> refused{0};
  std::atomic<bool> leaves_range{false};

  const auto settle = [&](std::int64_t c) {
    const long double variance = f.training ? f.centre.m2()[c] / (count > 0 ? count : 1) : value_of(f.running_var, c, 1);
    if (!f.training) f.centre.anchor()[c] = value_of(f.running_mean, c, 0), f.centre.shift()[c] = 0;
    if (moves && !move_running(f, c, count)) refused.fetch_add(1, std::memory_order_relaxed);
    const Constants k = constants_of(f.centre, c, variance, f.eps, f.gamma, f.beta);
    spread_constants<M>(rows, c, k, arrays.template constants<M>());
    if (!M::covers(k, f.training ? f.centre.m2()[c] : 0.0)) leaves_range.store(true, std::memory_order_relaxed);
  };
  const auto spread_anchor = [&](std::int64_t c, double anchor) {
    for (std::int64_t j = 0; j < rows.fold; ++j) arrays.anchors()[j * channels + c] = anchor;
  };
  if (f.training) {
    for (std::int64_t c = 0; c < channels; ++c) spread_anchor(c, first_value(f.shape, c, x, f.weights));
  } else {
    for (std::int64_t c = 0; c < channels; ++c) settle(c);
  }
  const auto write = [&](auto math, int thread, int all) {
    using Math = decltype(math);
    write_rows(rows, division, thread, all, [&](std::int64_t k, Range columns) {
      const auto* constants = arrays.template constants<Math>();
      if constexpr (!std::is_same_v<Math, M>) {
        return RowSteps<Math, T, Act::any, true>{rows, f.weights}.template normalize<Math, false>(f, k, columns, constants);
      } else {
        if constexpr (!kExtras) {
          if (past) return steps.template normalize<Math, true>(f, k, columns, constants);
        }
        steps.template normalize<Math, false>(f, k, columns, constants);
      }
    });
  };
  // By columns threads do not meet, and one may write before another knows of a channel that leaves the range: every
  // thread writes what it has, and such a batch is written once more.
  spread(division.threads, [&](int thread, int all) {
    for (int look = 0; f.training && look < (M::kTwoLooks ? 2 : 1); ++look) {
      const bool last = look + 1 == (M::kTwoLooks ? 2 : 1);
      sum_rows<M>(
          rows, arrays, division, thread, all,
          [&](std::int64_t k, Range columns, double* sums) { steps.moments(x, k, columns, arrays.anchors(), sums); },
          [&](std::int64_t c, WidePair sums) {
            set_moments(f.centre, c, arrays.anchors()[c], sums, count);
            last ? settle(c) : spread_anchor(c, f.centre.anchor()[c]);
          });
    }
    write(M{}, thread, all);
  });
  if constexpr (!std::is_same_v<M, Exact>) {
    if (leaves_range) {
      for (std::int64_t c = 0; c < channels; ++c) {
        const long double variance = f.training ? f.centre.m2()[c] / (count > 0 ? count : 1) : value_of(f.running_var, c, 1);
        const Constants k = constants_of(f.centre, c, variance, f.eps, f.gamma, f.beta);
        spread_constants<Exact>(rows, c, k, arrays.template constants<Exact>());
      }
      spread(division.threads, [&](int thread, int all) { write(Exact{}, thread, all); });
    }
  }
  if (moves && f.batches != nullptr) ++*f.batches;
  return refused;
}

template <class M, class T, Act A, bool kExtras>
void backward_rows(const Backward& b) {
  const std::int64_t channels = b.shape.channels;
  if constexpr (!std::is_same_v<M, Exact>) {
    for (std::int64_t c = 0; c < channels; ++c) {
      if (!M::covers(known_constants(b, c), b.training ? b.centre.m2()[c] : 0.0)) {
        return backward_rows<Exact, T, Act::any, true>(b);
      }
    }
  }
  const Rows rows(b.shape, M::kLanes, b.weights == nullptr);
  const Division division(rows, rows.rows * channels);
  const RowArrays<M> arrays(rows, division.by_columns ? 1 : rows.chunks, false);
  const RowSteps<M, T, A, kExtras> steps{rows, b.weights};
  const long double counted = b.training ? count_of(b.shape, b.weights) : 1, count = counted > 0 ? counted : 1;
  const bool past = may_store_past<T, M>(rows, b.dx);
  const bool sums_asked = b.training || b.dgamma.data != nullptr || b.dbeta.data != nullptr;
  const bool values_asked = b.dx != nullptr || b.dresidual != nullptr;
  auto* constants = arrays.template constants<M>();
  auto* slopes = arrays.template slopes<M>();

  for (std::int64_t c = 0; c < channels; ++c) {
    const Constants k = known_constants(b, c);
    spread_constants<M>(rows, c, k, constants);
    if (!sums_asked) spread_slope(rows, c, slope_of(b, c, k, M::hi(k), WidePair{}, count), slopes);
  }
  spread(division.threads, [&](int thread, int all) {
    if (sums_asked) {
      sum_rows<M>(
          rows, arrays, division, thread, all,
          [&](std::int64_t k, Range columns, double* sums) {
            steps.template sum_gradients<M>(b, k, columns, constants, sums);
          },
          [&](std::int64_t c, WidePair sums) {
            const Constants k = known_constants(b, c);
            spread_slope(rows, c, slope_of(b, c, k, M::hi(k), sums, count), slopes);
          });
    }
    if (!values_asked) return;
    write_rows(rows, division, thread, all, [&](std::int64_t k, Range columns) {
      if constexpr (!kExtras) {
        if (past) return steps.template descend<M, true>(b, k, columns, constants, slopes);
      }
      steps.template descend<M, false>(b, k, columns, constants, slopes);
    });
  });
}

// Per-channel Moments of a matrix.
template <class M, class T>
void statistics_rows(const Statistics& s) {
  const std::int64_t channels = s.shape.channels;
  const Rows rows(s.shape, M::kLanes, true);
  const Division division(rows, rows.rows * channels);
  const RowArrays<M> arrays(rows, division.by_columns ? 1 : rows.chunks, false);
  const RowSteps<M, T, Act::none, false> steps{rows, nullptr};
  const T* x = static_cast<const T*>(s.x);
  const Centre centre{s.block, channels};
  const auto spread_anchor = [&](std::int64_t c, double anchor) {
    for (std::int64_t j = 0; j < rows.fold; ++j) arrays.anchors()[j * channels + c] = anchor;
  };
  for (std::int64_t c = 0; c < channels; ++c) spread_anchor(c, first_value(s.shape, c, x, nullptr));
  spread(division.threads, [&](int thread, int all) {
    for (int look = 0; look < (M::kTwoLooks ? 2 : 1); ++look) {
      sum_rows<M>(
          rows, arrays, division, thread, all,
          [&](std::int64_t k, Range columns, double* sums) { steps.moments(x, k, columns, arrays.anchors(), sums); },
          [&](std::int64_t c, WidePair sums) {
            set_moments(centre, c, arrays.anchors()[c], sums, s.shape.rows);
            spread_anchor(c, centre.anchor()[c]);
          });
    }
  });
}

}  // namespace batchnorm::BATCHNORM_VARIANT
