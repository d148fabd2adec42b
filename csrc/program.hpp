// A training step as a list of what is to be computed, over memory that stays where it is: put together once, run at
// every step, without a word of Python in between.
#pragma once

#include <algorithm>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <type_traits>
#include <variant>

#include "helpers.hpp"
#include "steps.hpp"

namespace batchnorm {

// Batch norm's forward pass in a step. With `starting`, the k-th batch weighs at least 1 / k in the running statistics.
struct Normalize {
  Forward forward;
  bool starting = false;
};

class Program {
 public:
  explicit Program(const Kernels& kernels) : kernels_(kernels) {}

  template <class Operation>
  void add(Operation operation) {
    operations_.emplace_back(std::move(operation));
  }

  // rows: which of all rows are gathered; null: they have been put in place already.
  // threads: this one and its helpers; 0: operations use the process's pool.
  // Returns how many channels kept their running statistics because the batch's are not finite.
  std::int64_t run(const std::int64_t* rows, int threads) const {
    std::optional<Helped> helped;
    if (threads > 0) helped.emplace(threads);
    std::int64_t refused = 0;
    for (const Operation& operation : operations_) {
      std::visit([&](const auto& o) { perform(o, rows, refused); }, operation);
    }
    return refused;
  }

 private:
  static constexpr std::int64_t kRowsAPart = 16, kFetchedAhead = 4096, kWorthParts = 65536;
  using Operation = std::variant<Gather, Product, Pointwise, ColumnSums, Loss, Normalize, Backward, Descent>;

  void perform(const Gather& g, const std::int64_t* rows, std::int64_t&) const {
    if (rows == nullptr) return;
    const auto part = [&](std::int64_t number) {
      const std::int64_t end = std::min(g.count, (number + 1) * kRowsAPart);
      for (std::int64_t i = number * kRowsAPart; i < end; ++i) {
        // Rows lie anywhere: the next one is on its way from memory while this one is copied.
        const char* next = static_cast<const char*>(g.from) + rows[std::min(i + 1, end - 1)] * g.bytes;
        for (std::int64_t b = 0; b < std::min(g.bytes, kFetchedAhead); b += 64) __builtin_prefetch(next + b);
        std::memcpy(static_cast<char*>(g.to) + i * g.bytes, static_cast<const char*>(g.from) + rows[i] * g.bytes,
                    static_cast<std::size_t>(g.bytes));
      }
    };
    const std::int64_t parts = (g.count + kRowsAPart - 1) / kRowsAPart;
    if (g.count * g.bytes >= kWorthParts) return in_parts(parts, part);
    for (std::int64_t i = 0; i < parts; ++i) part(i);
  }
  void perform(const Product& p, const std::int64_t*, std::int64_t&) const { kernels_.steps->product(p); }
  void perform(const Pointwise& p, const std::int64_t*, std::int64_t&) const { kernels_.steps->pointwise(p); }
  void perform(const ColumnSums& s, const std::int64_t*, std::int64_t&) const { kernels_.steps->column_sums(s); }
  void perform(const Loss& l, const std::int64_t*, std::int64_t&) const {
    if (!kernels_.steps->loss(l)) {
      throw std::out_of_range("class numbers expected from 0 to " + std::to_string(l.columns - 1) + ", got another");
    }
  }
  void perform(const Normalize& n, const std::int64_t*, std::int64_t& refused) const {
    if (!n.starting) {
      refused += kernels_.forward(n.forward);
      return;
    }
    Forward forward = n.forward;
    forward.momentum = std::max(forward.momentum, 1.0 / static_cast<double>(*forward.batches + 1));
    refused += kernels_.forward(forward);
  }
  void perform(const Backward& b, const std::int64_t*, std::int64_t&) const { kernels_.backward(b); }
  void perform(const Descent& d, const std::int64_t*, std::int64_t&) const { kernels_.steps->descend(d); }

  const Kernels& kernels_;
  std::vector<Operation> operations_;
};

}  // namespace batchnorm
