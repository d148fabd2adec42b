// Products of matrices of the sizes that small networks have: out = left right + bias, every sum in the order of k.
//
//   for a panel of columns: copy that part of `right` side by side, then
//     for a block of rows: sums (rows x vectors, held in registers) += left[row][k] * panel[k]
//
// Each value of `out` is the same sum in the same order whatever the blocks, the threads or the other rows are: the
// same bits for any number of threads.
#pragma once

#include <utility>

#include "activations.hpp"
#include "parallel.hpp"

namespace batchnorm::BATCHNORM_VARIANT {

#if defined(__AVX512F__)
inline constexpr int kPanelVectors = 4, kBlockRows = 6;  // 24 sums in 32 registers
#elif defined(__AVX2__)
inline constexpr int kPanelVectors = 2, kBlockRows = 6;  // 12 in 16
#else
inline constexpr int kPanelVectors = 2, kBlockRows = 4;
#endif
inline constexpr std::int64_t kDepth = 512;  // values of k at a time, so that a panel stays in the second-level cache
inline constexpr std::int64_t kLargePart = 4'000'000;  // multiply-adds that one thread takes at a time, at most

template <class T>
struct LanesOf;
template <>
struct LanesOf<float> { using V = VF; static constexpr int kLanes = kFloats; };
template <>
struct LanesOf<double> { using V = VD; static constexpr int kLanes = kDoubles; };

// A matrix somewhere in memory; right matrices have columns or rows whose values are neighbours.
template <class T>
struct Matrix {
  const T* data;
  std::int64_t row, column;  // from one row, or column, to the next, in values
};

// --- the panel: panel[k][j] = right[k][j], zero where j is past the end ---------------------------------------------

template <int kHalf, class V, std::size_t... I>
BATCHNORM_INLINE V interleaved(V a, V b, std::index_sequence<I...>) {
  constexpr int lanes = sizeof...(I);
  return __builtin_shufflevector(a, b, (static_cast<int>(I) / 2 + kHalf * lanes / 2 + (I % 2 ? lanes : 0))...);
}

// lanes rows of `stride` become lanes columns: log2(lanes) times, the first half is interleaved with the second. Where
// only `rows` of them or `columns` are there, zeros stand for the other rows, and so many columns are written.
template <bool kWhole, class T>
BATCHNORM_INLINE void transpose_square(const T* from, std::int64_t stride, int rows, int columns, T* to,
                                       std::int64_t to_stride) {
  using V = typename LanesOf<T>::V;
  constexpr int lanes = LanesOf<T>::kLanes;
  using Lanes = std::make_index_sequence<lanes>;
  V now[lanes], next[lanes];
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i) {
    if constexpr (kWhole) {
      now[i] = unaligned<V>(from + i * stride);
    } else {
      const T* row = from + (i < rows ? i : 0) * stride;
      const V values = columns == lanes ? unaligned<V>(row) : load_part(row, columns, V{});
      now[i] = i < rows ? values : V{};
    }
  }
#pragma GCC unroll 4
  for (int done = 1; done < lanes; done *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < lanes / 2; ++i) {
      next[2 * i] = interleaved<0>(now[i], now[i + lanes / 2], Lanes{});
      next[2 * i + 1] = interleaved<1>(now[i], now[i + lanes / 2], Lanes{});
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) now[i] = next[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i) {
    if (kWhole || i < columns) store(to + i * to_stride, now[i]);
  }
}

template <class T>
void fill_panel(const Matrix<T>& right, Range depth, std::int64_t column, std::int64_t columns, int width, T* panel) {
  constexpr int lanes = LanesOf<T>::kLanes;
  const std::int64_t rows = depth.end - depth.begin;
  const T* from = right.data + depth.begin * right.row + column * right.column;
  if (right.column == 1) {
    for (std::int64_t k = 0; k < rows; ++k) {
      std::memcpy(panel + k * width, from + k * right.row, static_cast<std::size_t>(columns) * sizeof(T));
      for (std::int64_t j = columns; j < width; ++j) panel[k * width + j] = 0;
    }
    return;
  }
  for (std::int64_t j = 0; j < width; j += lanes) {
    const int wide = static_cast<int>(std::min<std::int64_t>(lanes, columns - j));
    for (std::int64_t k = 0; k < rows; k += lanes) {
      const int deep = static_cast<int>(std::min<std::int64_t>(lanes, rows - k));
      const T* square = from + j * right.column + k;
      T* to = panel + k * width + j;
      if (wide == lanes && deep == lanes) {
        transpose_square<true>(square, right.column, lanes, lanes, to, width);
      } else {
        transpose_square<false>(square, right.column, wide, deep, to, width);
      }
    }
  }
}

// --- the block: kRows x kVectors sums -------------------------------------------------------------------------------

template <class T, int kRows, int kVectors>
BATCHNORM_INLINE void multiply_block(const T* left, std::int64_t row, std::int64_t column, const T* panel,
                                     std::int64_t depth, T* out, std::int64_t stride, std::int64_t columns,
                                     const T* bias, bool adds) {
  using V = typename LanesOf<T>::V;
  constexpr int lanes = LanesOf<T>::kLanes;
  V sums[kRows][kVectors];
  const auto lanes_of = [&](int v) { return static_cast<int>(std::min<std::int64_t>(lanes, columns - v * lanes)); };
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const T* start = adds ? out + r * stride + v * lanes : bias + v * lanes;
      if (!adds && bias == nullptr) {
        sums[r][v] = V{};
      } else if (v + 1 < kVectors || lanes_of(v) == lanes) {
        sums[r][v] = unaligned<V>(start);
      } else {
        sums[r][v] = load_part(start, lanes_of(v), V{});
      }
    }
  }
  for (std::int64_t k = 0; k < depth; ++k) {
    V right[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) right[v] = unaligned<V>(panel + (k * kVectors + v) * lanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const V value = splat(left[r * row + k * column]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r][v] += value * right[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      T* to = out + r * stride + v * lanes;
      if (v + 1 < kVectors || lanes_of(v) == lanes) {
        store(to, sums[r][v]);
      } else {
        store_part(to, lanes_of(v), sums[r][v]);
      }
    }
  }
}

template <class T, int kVectors, int kRows = kBlockRows>
void multiply_rows(int rows, const T* left, std::int64_t row, std::int64_t column, const T* panel, std::int64_t depth,
                   T* out, std::int64_t stride, std::int64_t columns, const T* bias, bool adds) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return multiply_rows<T, kVectors, kRows - 1>(rows, left, row, column, panel, depth, out, stride, columns, bias,
                                                   adds);
    }
  }
  multiply_block<T, kRows, kVectors>(left, row, column, panel, depth, out, stride, columns, bias, adds);
}

// --- the product ----------------------------------------------------------------------------------------------------

template <class T, int kVectors>
void multiply_panel(const Matrix<T>& left, Range rows, Range depth, const T* panel, T* out, std::int64_t stride,
                    std::int64_t columns, const T* bias) {
  const std::int64_t blocks = (rows.end - rows.begin + kBlockRows - 1) / kBlockRows;
  for (std::int64_t b = 0; b < blocks; ++b) {
    const Range own = {rows.begin + (rows.end - rows.begin) * b / blocks,
                       rows.begin + (rows.end - rows.begin) * (b + 1) / blocks};
    multiply_rows<T, kVectors>(static_cast<int>(own.end - own.begin),
                               left.data + own.begin * left.row + depth.begin * left.column, left.row, left.column,
                               panel, depth.end - depth.begin, out + own.begin * stride, stride, columns, bias,
                               depth.begin > 0);
  }
}

// Into how many ranges the rows are cut: every range fills the panel anew, so there are more than threads need only where
// a range is long; then none has much more to do than another, and a thread that is kept off holds up little.
inline std::int64_t row_parts(std::int64_t rows, std::int64_t panels, std::int64_t work, int threads) {
  if (threads == 1) return 1;
  constexpr std::int64_t kLongRange = 64, kShortestRange = 4 * kBlockRows;
  const std::int64_t least = (threads + panels - 1) / panels;
  const std::int64_t wanted = std::max((2 * threads + panels - 1) / panels, work / panels / kLargePart);
  return std::max<std::int64_t>(1, std::min(std::max(least, std::min(wanted, rows / kLongRange)), rows / kShortestRange));
}

// out: (rows, columns) side by side; bias: (columns,) or null.
template <class T>
void multiply(const Matrix<T>& left, const Matrix<T>& right, const T* bias, T* out, std::int64_t rows,
              std::int64_t columns, std::int64_t inner) {
  constexpr int lanes = LanesOf<T>::kLanes;
  const std::int64_t vectors = (columns + lanes - 1) / lanes, work = rows * columns * inner;
  const std::int64_t panels = (vectors + kPanelVectors - 1) / kPanelVectors;
  const std::int64_t inner_vectors = (inner + lanes - 1) / lanes;
  const std::int64_t depths = std::max<std::int64_t>(1, (inner + kDepth - 1) / kDepth);
  const int threads = threads_for(work / 16);
  const std::int64_t cuts = row_parts(rows, panels, work, threads);
  const auto part = [&](std::int64_t number) {
    const Range own{rows * (number % cuts) / cuts, rows * (number % cuts + 1) / cuts};
    const Range held{vectors * (number / cuts) / panels, vectors * (number / cuts + 1) / panels};
    const int width = static_cast<int>(held.end - held.begin);
    const std::int64_t column = held.begin * lanes, wide = std::min(columns, held.end * lanes) - column;
    alignas(64) T panel[kDepth * kPanelVectors * lanes];
    for (std::int64_t d = 0; d < depths; ++d) {
      const Range depth{std::min(inner, inner_vectors * d / depths * lanes),
                        std::min(inner, inner_vectors * (d + 1) / depths * lanes)};
      fill_panel(right, depth, column, wide, width * lanes, panel);
      const T* start = bias == nullptr ? nullptr : bias + column;
      switch (width) {
        case 1: multiply_panel<T, 1>(left, own, depth, panel, out + column, columns, wide, start); break;
        case 2: multiply_panel<T, 2>(left, own, depth, panel, out + column, columns, wide, start); break;
        case 3: multiply_panel<T, 3>(left, own, depth, panel, out + column, columns, wide, start); break;
        default: multiply_panel<T, kPanelVectors>(left, own, depth, panel, out + column, columns, wide, start);
      }
    }
  };
  if (threads > 1 && threads_at_hand() > 0) return in_parts(panels * cuts, part);
  spread(threads, [&](int thread, int all) {
    const Range own = share(panels * cuts, thread, all);
    for (std::int64_t i = own.begin; i < own.end; ++i) part(i);
  });
}

}  // namespace batchnorm::BATCHNORM_VARIANT
