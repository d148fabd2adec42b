// What the kernels compute, in plain pointers: no Python and no torch beyond this line.
//
// A batch lies in memory in one of two ways, and both are one shape (rows, channels, positions):
//   slabs  x[row][channel][position], contiguous (N, C, *); a channel's slab is `rows` runs of `positions` values
//   rows   x[row][channel], positions = 1: (N, C), and channels-last, whose rows are all N * S positions
//
// Legend: N batch, C channels, S positions, M = rows * positions values per channel.
#pragma once

#include <cstdint>

namespace batchnorm {

enum class Element : int { f32 = 0, bf16 = 1, f16 = 2, f64 = 3 };
enum class Activation : int { none = 0, relu = 1, leaky_relu = 2, sigmoid = 3, tanh = 4, silu = 5, gelu = 6 };

// A per-channel tensor of whatever width; null where there is none.
struct Parameter {
  void* data = nullptr;  // (C,)
  Element element = Element::f32;
};

struct Shape {
  std::int64_t rows = 0;
  std::int64_t channels = 0;
  std::int64_t positions = 1;
};

// What each channel is centred and scaled by; z_norm = (z - anchor - shift) * rstd.
// One block of 4 * C doubles: anchor, shift, rstd, m2, each (C,).
struct Centre {
  double* block = nullptr;
  std::int64_t channels = 0;
  double* anchor() const { return block; }
  double* shift() const { return block + channels; }
  double* rstd() const { return block + 2 * channels; }
  double* m2() const { return block + 3 * channels; }
};

// y = activation(gamma * (x - mu) / sqrt(sigma2 + eps) + beta + residual), 0 where weights are 0.
struct Forward {
  Shape shape;
  Element element = Element::f32;
  Activation activation = Activation::none;
  const void* x = nullptr;
  void* y = nullptr;
  const void* residual = nullptr;   // like x, or null
  const double* weights = nullptr;  // (rows * positions,): how often each position counts; null is once
  Parameter gamma, beta;
  double eps = 0;
  Centre centre;         // training: filled; test time: only scratch
  bool training = true;  // by the batch's own statistics, else by the running ones
  // Training: moved towards the batch's by `momentum`, the weight of the new batch; null: nobody keeps them.
  // Test time: what x is normalized by.
  Parameter running_mean, running_var;
  double momentum = 0;
  std::int64_t* batches = nullptr;  // counts the batches that moved the running statistics
};

// The loss's gradients, given that in y; null where nobody asks.
struct Backward {
  Shape shape;
  Element element = Element::f32;
  Activation activation = Activation::none;
  const void* x = nullptr;
  const void* dy = nullptr;         // in the memory order of x
  const void* residual = nullptr;   // needed only with an activation
  const double* weights = nullptr;  // as in Forward
  Parameter gamma, beta;            // beta is needed only with an activation
  Centre centre;                    // from the forward pass
  bool training = true;
  void* dx = nullptr;               // may be dy itself, as the trainer's is
  void* dresidual = nullptr;
  Parameter dgamma, dbeta;
};

// Per-channel Moments of x: block holds mean, what it lost to rounding, m2; each (C,).
struct Statistics {
  Shape shape;
  Element element = Element::f32;
  const void* x = nullptr;
  double* block = nullptr;
};

struct StepKernels;  // steps.hpp

// One instruction set's kernels.
struct Kernels {
  const char* name;
  // Returns how many channels kept their running statistics because the batch's are not finite.
  std::int64_t (*forward)(const Forward&);
  void (*backward)(const Backward&);
  void (*statistics)(const Statistics&);
  const StepKernels* steps;
};

#if defined(__GNUC__)
#define BATCHNORM_PUBLIC __attribute__((visibility("default")))
#else
#define BATCHNORM_PUBLIC
#endif

// The instruction sets compiled in that this processor has, best first; null-terminated.
BATCHNORM_PUBLIC const Kernels* const* available();

// The one that the process uses: the best, until another is chosen. False where there is none of that name.
BATCHNORM_PUBLIC const Kernels& chosen();
BATCHNORM_PUBLIC bool choose(const char* name);

}  // namespace batchnorm
