// Memory for a layer's results, kept from one call to the next: what glibc gives back to the system and gets again,
// page by page and zeroed, costs more than the arithmetic on it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>

namespace batchnorm {

// An empty tensor like t. A brief one is soon gone: unless it is large, the heap's own memory, which a neighbour has just
// used, is the best there is.
at::Tensor result_like(const at::Tensor& t, bool brief = false);

struct KeptMemory {
  std::size_t limit;   // bytes that may be kept at once; 0 keeps nothing
  std::size_t held;    // bytes kept now, in no tensor's use
  std::int64_t asked;  // how often memory was asked for
  std::int64_t again;  // how often kept memory answered
};
KeptMemory kept_memory();

// Keep at most so many bytes from now on; what is above is freed at once. Memory in use is not touched.
void keep_memory(std::size_t limit);

}  // namespace batchnorm
