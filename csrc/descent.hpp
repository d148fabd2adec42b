// One update of all parameters, each rule as torch.optim has it; g is the gradient, p the parameter.
//
//   descent   p -= rate * (g + decay * p)
//   momentum  b = keep * b + g + decay * p;  p -= rate * b
//   rmsprop   g += decay * p;  s = keep * s + (1 - keep) g^2;  p -= rate * g / (sqrt(s) + eps)
//   adam      p -= rate * decay * p;  m += (1 - keep) (g - m);  s = keep_square * s + (1 - keep_square) g^2;
//             p -= rate / (1 - keep^t) * m / (sqrt(s) / sqrt(1 - keep_square^t) + eps)        (AdamW: its decay first)
//
// Value by value, so threads may share them in any way.
#pragma once

#include "parallel.hpp"
#include "steps.hpp"
#include "vectors.hpp"

namespace batchnorm::BATCHNORM_VARIANT {

// A rule's numbers at this step, in the parameters' own precision.
template <class T>
struct RuleNumbers {
  T rate, keep, rest, keep_square, rest_square, eps, decay, shrink, step, root;

  RuleNumbers(const Descent& d, const Segment& s)
      : rate(static_cast<T>(d.rate)),
        keep(static_cast<T>(d.keep)),
        rest(static_cast<T>(1 - d.keep)),
        keep_square(static_cast<T>(d.keep_square)),
        rest_square(static_cast<T>(1 - d.keep_square)),
        eps(static_cast<T>(d.eps)),
        decay(static_cast<T>(s.decay)),
        shrink(static_cast<T>(1 - d.rate * s.decay)),
        step(0),
        root(0) {
    if (d.rule == Rule::adam) {
      const double t = *s.step;
      step = static_cast<T>(d.rate / (1 - std::pow(d.keep, t)));
      root = static_cast<T>(std::sqrt(1 - std::pow(d.keep_square, t)));
    }
  }
};

template <class T, Rule kRule>
void descend_part(const RuleNumbers<T>& n, const Segment& s, Range range) {
  T* p = static_cast<T*>(s.parameter);
  const T* gradient = static_cast<const T*>(s.gradient);
  T* first = static_cast<T*>(s.first);
  T* second = static_cast<T*>(s.second);
#pragma omp simd
  for (std::int64_t i = range.begin; i < range.end; ++i) {
    if constexpr (kRule == Rule::descent) {
      p[i] -= n.rate * (gradient[i] + n.decay * p[i]);
    } else if constexpr (kRule == Rule::momentum) {
      first[i] = n.keep * first[i] + (gradient[i] + n.decay * p[i]);
      p[i] -= n.rate * first[i];
    } else if constexpr (kRule == Rule::rmsprop) {
      const T g = gradient[i] + n.decay * p[i];
      first[i] = n.keep * first[i] + n.rest * g * g;
      p[i] -= n.rate * g / (std::sqrt(first[i]) + n.eps);
    } else {
      const T g = gradient[i], shrunk = p[i] * n.shrink;
      first[i] += n.rest * (g - first[i]);
      second[i] = n.keep_square * second[i] + n.rest_square * g * g;
      p[i] = shrunk - n.step * first[i] / (std::sqrt(second[i]) / n.root + n.eps);
    }
  }
}

template <class T>
void descend_all(const Descent& d) {
  std::int64_t values = 0;
  for (const Segment& s : d.segments) {
    values += s.count;
    if (s.step != nullptr) *s.step += 1;
  }
  spread(threads_for(values), [&](int thread, int all) {
    for (const Segment& s : d.segments) {
      const RuleNumbers<T> numbers(d, s);
      const Range range = share(s.count, thread, all, 64);
      switch (d.rule) {
        case Rule::descent: descend_part<T, Rule::descent>(numbers, s, range); break;
        case Rule::momentum: descend_part<T, Rule::momentum>(numbers, s, range); break;
        case Rule::rmsprop: descend_part<T, Rule::rmsprop>(numbers, s, range); break;
        default: descend_part<T, Rule::adam>(numbers, s, range);
      }
    }
  });
}

}  // namespace batchnorm::BATCHNORM_VARIANT
