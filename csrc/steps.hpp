// What a training step consists of beside batch norm, in plain pointers: products of matrices, activations, losses, the
// update of the parameters. Every matrix is (rows, columns) with its rows side by side unless strides say otherwise.
#pragma once

#include <vector>

#include "interface.hpp"

namespace batchnorm {

// to[i] = from[rows[i]]: `count` rows of `bytes` bytes.
struct Gather {
  std::int64_t count = 0, bytes = 0;
  const void* from = nullptr;
  void* to = nullptr;
};

// out = left right + bias: (rows, columns) from (rows, inner) and (inner, columns).
struct Product {
  Element element = Element::f32;
  std::int64_t rows = 0, columns = 0, inner = 0;
  const void* left = nullptr;
  std::int64_t left_row = 0, left_column = 0;    // from one row, or column, to the next, in values
  const void* right = nullptr;
  std::int64_t right_row = 0, right_column = 0;  // one of them is 1
  const void* bias = nullptr;                    // (columns,) or null
  void* out = nullptr;
};

// to = activation(z); or, given dy, dy times the slope at z; or, given a factor, z * factor. Each (count,).
struct Pointwise {
  Element element = Element::f32;
  Activation activation = Activation::none;
  std::int64_t count = 0;
  const void* z = nullptr;
  const void* dy = nullptr;
  const void* factor = nullptr;
  void* to = nullptr;
};

// to[j] = sum of x[i][j] over i.
struct ColumnSums {
  Element element = Element::f32;
  std::int64_t rows = 0, columns = 0;
  const void* x = nullptr;
  void* to = nullptr;
};

// The mean loss of a batch and its gradient in the scores: cross-entropy where there are classes, else squared error.
struct Loss {
  Element element = Element::f32;
  std::int64_t rows = 0, columns = 0;
  const void* scores = nullptr;           // (rows, columns)
  const std::int64_t* classes = nullptr;  // (rows,), or
  const void* targets = nullptr;          // (rows,), columns = 1
  const void* weights = nullptr;          // (rows,): how much each row weighs; null is the same
  void* gradient = nullptr;               // (rows, columns)
  double* value = nullptr;
};

enum class Rule : int { descent = 0, momentum = 1, rmsprop = 2, adam = 3 };

// One parameter and what its rule remembers of it, (count,) each; null where the rule remembers nothing.
struct Segment {
  std::int64_t count = 0;
  void* parameter = nullptr;
  const void* gradient = nullptr;
  void* first = nullptr;   // momentum: the buffer; rmsprop: mean square; adam: mean
  void* second = nullptr;  // adam: mean square
  float* step = nullptr;   // updates so far
  double decay = 0;
};

struct Descent {
  Element element = Element::f32;
  Rule rule = Rule::descent;
  double rate = 0;
  double keep = 0;         // momentum, rmsprop's alpha, adam's beta 1
  double keep_square = 0;  // adam's beta 2
  double eps = 0;
  std::vector<Segment> segments;
};

// One instruction set's; float32 and float64.
struct StepKernels {
  void (*product)(const Product&);
  void (*pointwise)(const Pointwise&);
  void (*column_sums)(const ColumnSums&);
  bool (*loss)(const Loss&);  // false: a class number that is none
  void (*descend)(const Descent&);
};

}  // namespace batchnorm
