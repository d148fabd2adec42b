// One instruction set's kernels: the same source, compiled once for each with BATCHNORM_VARIANT naming it.
#include "row_passes.hpp"
#include "slab_passes.hpp"

#define BATCHNORM_TEXT_OF(name) #name
#define BATCHNORM_TEXT(name) BATCHNORM_TEXT_OF(name)

namespace batchnorm::BATCHNORM_VARIANT {
namespace {

template <class M, class T, Act A, bool kExtras>
std::int64_t train(const Forward& f) {
  return f.shape.positions == 1 ? train_rows<M, T, A, kExtras>(f) : train_slabs<M, T, A, kExtras>(f);
}

template <class M, class T, Act A, bool kExtras>
std::int64_t evaluate(const Forward& f) {
  f.shape.positions == 1 ? evaluate_rows<M, T, A, kExtras>(f) : evaluate_slabs<M, T, A, kExtras>(f);
  return 0;
}

template <class M, class T, Act A, bool kExtras>
void backward_laid_out(const Backward& b) {
  b.shape.positions == 1 ? backward_rows<M, T, A, kExtras>(b) : backward_slabs<M, T, A, kExtras>(b);
}

// The plain cases are compiled by themselves, in training those of the elements that matter most for speed; one general
// body has the rest.
template <class M, class T>
std::int64_t forward_of(const Forward& f) {
  const bool plain = f.residual == nullptr && f.weights == nullptr;
  if (!f.training) {
    if (plain && f.activation == Activation::none) return evaluate<M, T, Act::none, false>(f);
    if (plain && f.activation == Activation::relu) return evaluate<M, T, Act::relu, false>(f);
    return evaluate<M, T, Act::any, true>(f);
  }
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, bf16>) {
    if (plain && f.activation == Activation::none) return train<M, T, Act::none, false>(f);
    if (plain && f.activation == Activation::relu) return train<M, T, Act::relu, false>(f);
  }
  return train<M, T, Act::any, true>(f);
}

template <class M, class T>
void backward_of(const Backward& b) {
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, bf16>) {
    if (b.residual == nullptr && b.weights == nullptr && b.dresidual == nullptr && b.dx != nullptr) {
      if (b.activation == Activation::none) return backward_laid_out<M, T, Act::none, false>(b);
      if (b.activation == Activation::relu) return backward_laid_out<M, T, Act::relu, false>(b);
    }
  }
  backward_laid_out<M, T, Act::any, true>(b);
}

std::int64_t forward(const Forward& f) {
  switch (f.element) {
    case Element::f32: return forward_of<Fast, float>(f);
    case Element::bf16: return forward_of<Fast, bf16>(f);
    case Element::f16: return forward_of<Fast, f16>(f);
    default: return forward_of<Exact, double>(f);
  }
}

void backward(const Backward& b) {
  switch (b.element) {
    case Element::f32: return backward_of<Fast, float>(b);
    case Element::bf16: return backward_of<Fast, bf16>(b);
    case Element::f16: return backward_of<Fast, f16>(b);
    default: return backward_of<Exact, double>(b);
  }
}

void statistics(const Statistics& s) {
  switch (s.element) {
    case Element::f32: return statistics_rows<Fast, float>(s);
    case Element::bf16: return statistics_rows<Fast, bf16>(s);
    case Element::f16: return statistics_rows<Fast, f16>(s);
    default: return statistics_rows<Exact, double>(s);
  }
}

}  // namespace

extern const StepKernels step_kernels;
extern const Kernels kernels;
const Kernels kernels{BATCHNORM_TEXT(BATCHNORM_VARIANT), &forward, &backward, &statistics, &step_kernels};

}  // namespace batchnorm::BATCHNORM_VARIANT
