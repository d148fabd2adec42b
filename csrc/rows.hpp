// Batches that lie as rows: x[row][channel], (N, C) and channels-last.
//
// Rows of few channels are taken several at a time, so that a vector has no idle lanes: k rows of C channels are one
// row of k * C columns, and column j belongs to channel j % C. Columns are taken in blocks whose sums and constants stay
// in registers, over as many rows as the first-level cache holds.
//
// Threads share chunks of rows, whose sums meet once, or the columns where rows are few.
#pragma once

#include <numeric>

#include "slabs.hpp"

namespace batchnorm::BATCHNORM_VARIANT {

template <int kVectors>
struct Many {};

// Rows of many columns are taken so few at once: what is loaded for a block of columns pays over more of them, but rows
// whose length is a power of two share a first-level cache's ways, and written ones theirs with those that are read.
// At test time nothing was read just before, and longer runs of rows are better.
inline constexpr std::int64_t kRowsToSum = 8, kRowsToWrite = 4, kRowsToEvaluate = 8;

struct Rows {
  std::int64_t rows, channels;       // as they lie
  std::int64_t fold = 1;             // rows taken as one
  std::int64_t columns, folded;      // fold * channels, and how many whole folded rows there are
  std::int64_t stride;               // of per-column arrays: columns, and lanes to spare
  std::int64_t rows_a_chunk, chunks;
  bool far;                          // no near cache holds the batch

  // parts_are_cheap: whether a vector of which a row fills a part takes no longer than a whole one.
  Rows(const Shape& s, int lanes, bool may_fold, bool parts_are_cheap) : rows(s.rows), channels(s.channels) {
    const std::int64_t whole = lanes / std::gcd<std::int64_t>(lanes, channels);
    // Folded, each channel has `whole` sums to add up and as many copies of its constants; not folded, each row has idle
    // lanes. Measured: it is worth it from a dozen idle lanes on for each copy.
    const std::int64_t idle = (channels + lanes - 1) / lanes * lanes - channels;
    const bool is_worth_it = !parts_are_cheap || (rows * idle >= 12 * whole * channels && 10 * idle >= channels);
    if (may_fold && channels < 512 && whole * channels <= 2048 && rows >= 4 * whole && is_worth_it) fold = whole;
    while (may_fold && fold > 0 && columns_at(2 * fold) <= 64 && rows >= 8 * fold) fold *= 2;
    columns = fold * channels;
    folded = rows / fold;
    stride = (columns + 2 * lanes - 1) / lanes * lanes;
    rows_a_chunk = std::max<std::int64_t>(128, 65536 / columns);
    chunks = std::max<std::int64_t>(1, folded / rows_a_chunk);
    far = rows * channels >= (1 << 19);
  }

  std::int64_t columns_at(std::int64_t f) const { return f * channels; }
  // The last chunk has what is left over, too.
  Range chunk(std::int64_t k) const { return {k * rows_a_chunk, k + 1 == chunks ? folded : (k + 1) * rows_a_chunk}; }

  // Calls block(vectors, lanes, rows, column) over a chunk's rows, at most `longest` at once, and a range of columns.
  template <int kBlock, int kLanes, std::int64_t kFewest, class Block>
  BATCHNORM_INLINE void over(std::int64_t k, Range columns_wanted, std::int64_t longest, const Block& block) const {
    const Range range = chunk(k);
    const std::int64_t at_once = std::min(longest, std::max<std::int64_t>(kFewest, 8192 / columns));
    for (std::int64_t r = range.begin; r < range.end; r += at_once) {
      across<kBlock, kLanes>({r, std::min(range.end, r + at_once)}, columns_wanted, block);
    }
    const std::int64_t left = (rows - folded * fold) * channels;
    if (k + 1 == chunks && left > 0) {
      across<kBlock, kLanes>({folded, folded + 1}, {columns_wanted.begin, std::min(columns_wanted.end, left)}, block);
    }
  }

 private:
  template <int kBlock, int kLanes, class Block>
  BATCHNORM_INLINE void across(Range r, Range c, const Block& block) const {
    std::int64_t column = c.begin;
    for (; column + kBlock * kLanes <= c.end; column += kBlock * kLanes) block(Many<kBlock>{}, Full{}, r, column);
    for (; column + kLanes <= c.end; column += kLanes) block(Many<1>{}, Full{}, r, column);
    if (column < c.end) block(Many<1>{}, Part{static_cast<int>(c.end - column)}, r, column);
  }
};

#if defined(__AVX512F__)
inline constexpr int kLightBlock = 4, kHeavyBlock = 2;  // vectors whose state fits in the registers
#else
inline constexpr int kLightBlock = 2, kHeavyBlock = 1;
#endif

// Asks for what the next rows will need in the columns at hand.
struct NextRows {
  bool wanted;
  std::int64_t values;  // from a row to the same one of the next
  template <class T>
  BATCHNORM_INLINE void ask(const T* p) const {
    if (wanted) ask_to_read(p, values * static_cast<std::int64_t>(sizeof(T)));
  }
};

inline constexpr std::int64_t kAnyLength = std::int64_t{1} << 40;

template <class M, class T, Act A, bool kExtras>
struct RowSteps {
  const Rows& rows;
  const double* weights;
  using Number = typename M::Number;

  BATCHNORM_INLINE typename M::Weights weight(std::int64_t row) const {
    if constexpr (kExtras) {
      if (weights != nullptr) return M::weights(weights[row]);
    }
    return typename M::Weights{};
  }

  // Of one stream that is read in the order of memory the processor asks by itself.
  BATCHNORM_INLINE NextRows next_of_one(Range now) const { return next(now, rows.columns > 64); }
  BATCHNORM_INLINE NextRows next_of_two(Range now) const { return next(now, true); }
  BATCHNORM_INLINE NextRows next(Range now, bool wanted) const {
    return {rows.far && wanted, (now.end - now.begin) * rows.columns};
  }

  // sums: arrays of columns, added to. anchors: one array.
  template <class Sums>
  void moments(const T* x, std::int64_t chunk, Range columns, const double* anchors, double* sums) const {
    const MomentsBody<M, Sums, T> body{x, weights != nullptr};
    rows.template over<kLightBlock, M::kLanes, kRowsToSum>(
        chunk, columns, Sums::kLongest,
        [&]<int kVectors, class Lanes>(Many<kVectors>, Lanes lanes, Range range, std::int64_t column) BATCHNORM_LAMBDA {
          Sums held[kVectors];
          typename Sums::Anchor anchor[kVectors];
          BATCHNORM_UNROLL for (int v = 0; v < kVectors; ++v) {
            held[v].load(sums + column + v * M::kLanes, rows.stride);
            anchor[v] = Sums::anchors(anchors + column + v * M::kLanes);
          }
          const NextRows next = next_of_one(range);
          for (std::int64_t r = range.begin; r < range.end; ++r) {
            const std::int64_t at = r * rows.columns + column;
            BATCHNORM_UNROLL for (int v = 0; v < kVectors; ++v) {
              next.ask(x + at + v * M::kLanes);
              body.at(at + v * M::kLanes, lanes, anchor[v], weight(r), held[v]);
            }
          }
          BATCHNORM_UNROLL for (int v = 0; v < kVectors; ++v) held[v].store(sums + column + v * M::kLanes, rows.stride);
        });
  }

  template <bool kTraining, bool kPast>
  void normalize(const Forward& f, std::int64_t chunk, Range columns, const Number* constants) const {
    const ForwardBody<M, T, A, kExtras, kTraining> body(f);
    rows.template over<kLightBlock, M::kLanes, kTraining ? kRowsToWrite : kRowsToEvaluate>(
        chunk, columns, kAnyLength,
        [&]<int kVectors, class Lanes>(Many<kVectors>, Lanes lanes, Range range, std::int64_t column) BATCHNORM_LAMBDA {
          typename M::Apply apply[kVectors];
          BATCHNORM_UNROLL for (int v = 0; v < kVectors; ++v) {
            apply[v] = M::apply(constants + column + v * M::kLanes, rows.stride);
          }
          const NextRows next = next_of_one(range);
          for (std::int64_t r = range.begin; r < range.end; ++r) {
            const std::int64_t at = r * rows.columns + column;
            BATCHNORM_UNROLL for (int v = 0; v < kVectors; ++v) {
              next.ask(body.x + at + v * M::kLanes);
              body.template at<kPast>(at + v * M::kLanes, lanes, apply[v], weight(r));
            }
          }
        });
  }

  template <class Sums>
  void sum_gradients(const Backward& b, std::int64_t chunk, Range columns, const Number* constants, double* sums) const {
    const GradientBody<M, T, A, kExtras> body(b);
    rows.template over<kHeavyBlock, M::kLanes, kRowsToSum>(
        chunk, columns, Sums::kLongest,
        [&]<int kVectors, class Lanes>(Many<kVectors>, Lanes lanes, Range range, std::int64_t column) BATCHNORM_LAMBDA {
          Sums held[kVectors];
          typename M::Apply apply[kVectors];
          BATCHNORM_UNROLL for (int v = 0; v < kVectors; ++v) {
            held[v].load(sums + column + v * M::kLanes, rows.stride);
            apply[v] = M::apply(constants + column + v * M::kLanes, rows.stride);
          }
          const NextRows next = next_of_two(range);
          for (std::int64_t r = range.begin; r < range.end; ++r) {
            const std::int64_t at = r * rows.columns + column;
            BATCHNORM_UNROLL for (int v = 0; v < kVectors; ++v) {
              next.ask(body.x + at + v * M::kLanes);
              next.ask(body.dy + at + v * M::kLanes);
              body.add(at + v * M::kLanes, lanes, apply[v], weight(r), held[v]);
            }
          }
          BATCHNORM_UNROLL for (int v = 0; v < kVectors; ++v) held[v].store(sums + column + v * M::kLanes, rows.stride);
        });
  }

  // slopes: three arrays of columns, scale, along, across.
  template <bool kPast>
  void descend(const Backward& b, std::int64_t chunk, Range columns, const Number* constants, const Number* slopes) const {
    using V = typename M::V;
    const GradientBody<M, T, A, kExtras> body(b);
    rows.template over<kHeavyBlock, M::kLanes, kRowsToWrite>(
        chunk, columns, kAnyLength,
        [&]<int kVectors, class Lanes>(Many<kVectors>, Lanes lanes, Range range, std::int64_t column) BATCHNORM_LAMBDA {
          typename M::Apply apply[kVectors];
          V scale[kVectors], along[kVectors], across[kVectors];
          BATCHNORM_UNROLL for (int v = 0; v < kVectors; ++v) {
            const std::int64_t at = column + v * M::kLanes;
            apply[v] = M::apply(constants + at, rows.stride);
            scale[v] = unaligned<V>(slopes + at);
            along[v] = unaligned<V>(slopes + rows.stride + at);
            across[v] = unaligned<V>(slopes + 2 * rows.stride + at);
          }
          const NextRows next = next_of_two(range);
          for (std::int64_t r = range.begin; r < range.end; ++r) {
            const std::int64_t at = r * rows.columns + column;
            BATCHNORM_UNROLL for (int v = 0; v < kVectors; ++v) {
              next.ask(body.x + at + v * M::kLanes);
              next.ask(body.dy + at + v * M::kLanes);
              body.template at<kPast>(at + v * M::kLanes, lanes, apply[v], scale[v], along[v], across[v],
                                      weight(r));
            }
          }
        });
  }
};

// Adds one chunk's sums to the total's, in the order of the chunks.
template <class Sums>
void merge_columns(double* total, const double* part, Range columns, std::int64_t lanes, std::int64_t stride) {
  for (std::int64_t c = columns.begin; c < columns.end; c += lanes) {
    Sums all, more;
    all.load(total + c, stride);
    more.load(part + c, stride);
    all.merge(more);
    all.store(total + c, stride);
  }
}

}  // namespace batchnorm::BATCHNORM_VARIANT
