// How the threads divide a pass over batches that lie as rows, the memory that they share, and their two ways through it:
// sums of every channel, and values written.
#pragma once

#include <algorithm>
#include <atomic>
#include <vector>

#include "exact_blocks.hpp"
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
                static_cast<std::size_t>((parts + 1) * M::SureSums::kArrays + 1 + (wide ? 8 : M::kConstants + 3))) {
    // Lanes to spare are computed with, though nobody sees the result.
    std::fill(anchors(), memory_.as<double>() + (parts + 1) * M::SureSums::kArrays * stride_ +
                             (1 + (wide ? 8 : M::kConstants + 3)) * stride_, 0.0);
  }
  double* part(std::int64_t k) const { return memory_.as<double>() + k * M::SureSums::kArrays * stride_; }
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

// Which channels' first sums said enough. A channel's results depend on its own values alone: the second look that one of
// them needs changes nothing for the others.
class Settled {
 public:
  explicit Settled(std::int64_t channels) : settled_(static_cast<std::size_t>(channels)) {}
  char operator[](std::int64_t c) const { return settled_[static_cast<std::size_t>(c)]; }
  void set(std::int64_t c, bool settled) {
    settled_[static_cast<std::size_t>(c)] = settled;
    if (!settled) any_left_.store(true, std::memory_order_relaxed);
  }
  void set(std::int64_t begin, std::int64_t length, const double* settled, bool all) {
    for (std::int64_t i = 0; i < length; ++i) settled_[static_cast<std::size_t>(begin + i)] = settled[i] != 0;
    if (!all) any_left_.store(true, std::memory_order_relaxed);
  }
  // For threads that have met; and for one that has channels of its own.
  bool any_left() const { return any_left_.load(std::memory_order_relaxed); }
  bool any_left(Range own) const {
    const char* const end = settled_.data() + own.end;
    return std::find(settled_.data() + own.begin, end, 0) != end;
  }

 private:
  std::vector<char> settled_;
  std::atomic<bool> any_left_{false};
};

inline constexpr std::int64_t kLine = 64;  // columns that threads share begin at multiples of it

// How the threads divide a pass: chunks of rows, as torch's operations before and after do, so that a core finds what it
// wrote itself; or, of few rows, columns, where nobody waits.
struct Division {
  int threads;
  bool by_columns;
  Division(const Rows& rows, std::int64_t work)
      : threads(threads_for(work)),
        by_columns(threads == 1 || (rows.fold == 1 && rows.channels >= 256 * threads && rows.chunks < 2 * threads)) {
    if (!by_columns && (threads_at_hand() > 0 || rows.chunks == 1)) {  // helpers do not meet; a chunk is not divided
      by_columns = true;
      threads = rows.fold == 1 ? static_cast<int>(std::clamp<std::int64_t>(rows.channels / 128, 1, threads)) : 1;
    }
  }
  void meet(int all) const {
    if (!by_columns) batchnorm::BATCHNORM_VARIANT::meet(all);
  }
  // The channels whose constants fall to a thread.
  Range own(const Rows& rows, int thread, int all) const {
    return share(rows.channels, thread, all, by_columns ? kLine : 1);
  }
};

// Calls channel(c, sums) for each channel of a range, once sums are there.
template <class M, class Channel>
void each_channel(const Rows& rows, const RowArrays<M>& arrays, Range own, const Channel& channel) {
  for (std::int64_t c = own.begin; c < own.end; ++c) {
    Pair<typename M::Real> pair;
    for (std::int64_t j = 0; j < rows.fold; ++j) {
      pair.add(M::SureSums::totals(arrays.sums() + j * rows.channels + c, rows.stride));
    }
    channel(c, pair);
  }
}

// Calls block(begin, length, first, second), the sums as arrays, for all of a range. For Fast alone.
template <class M, class OfBlock>
void each_block(const Rows& rows, const RowArrays<M>& arrays, Range own, const OfBlock& block) {
  for (std::int64_t c = own.begin; c < own.end; c += kBlock) {
    const std::int64_t length = std::min(kBlock, own.end - c);
    Block first{}, second{};
    for (std::int64_t j = 0; j < rows.fold; ++j) {
      const double* sums = arrays.sums() + j * rows.channels + c;
#pragma omp simd
      for (std::int64_t i = 0; i < length; ++i) first[i] += sums[i], second[i] += sums[rows.stride + i];
    }
    block(c, length, first, second);
  }
}

// One thread's part of a pass over sums: adds up its chunks, or its columns of all chunks, and then calls finish(own) with
// the channels that fall to it.
template <class M, class Sum, class Finish>
void sum_rows(const Rows& rows, const RowArrays<M>& arrays, const Division& division, int thread, int all,
              const Sum& sum, const Finish& finish) {
  const Range own = division.own(rows, thread, all);
  if (division.by_columns) {
    const Range columns = all > 1 ? own : Range{0, rows.columns};
    const Range padded{columns.begin, columns.end == rows.columns ? rows.stride : columns.end};
    const auto clear = [&](double* at) {
      for (int a = 0; a < M::SureSums::kArrays; ++a) {
        std::fill(at + a * rows.stride + padded.begin, at + a * rows.stride + padded.end, 0.0);
      }
    };
    clear(arrays.sums());
    for (std::int64_t k = 0; k < rows.chunks; ++k) {
      clear(arrays.part(0));
      sum(k, columns, arrays.part(0));
      merge_columns<typename M::SureSums>(arrays.sums(), arrays.part(0), columns, M::kLanes, rows.stride);
    }
  } else {
    const Range chunks = share(rows.chunks, thread, all);
    for (std::int64_t k = chunks.begin; k < chunks.end; ++k) {
      std::memset(arrays.part(k), 0, static_cast<std::size_t>(M::SureSums::kArrays * rows.stride) * sizeof(double));
      sum(k, Range{0, rows.columns}, arrays.part(k));
    }
    division.meet(all);
    Range columns = share(rows.columns, thread, all, kLine);
    if (columns.end == rows.columns) columns.end = rows.stride;
    for (int a = 0; a < M::SureSums::kArrays; ++a) {
      std::fill(arrays.sums() + a * rows.stride + columns.begin, arrays.sums() + a * rows.stride + columns.end, 0.0);
    }
    for (std::int64_t k = 0; k < rows.chunks; ++k) {
      merge_columns<typename M::SureSums>(arrays.sums(), arrays.part(k), columns, M::kLanes, rows.stride);
    }
    division.meet(all);
  }
  finish(own);
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

}  // namespace batchnorm::BATCHNORM_VARIANT
