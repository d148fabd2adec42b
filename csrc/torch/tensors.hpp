// torch's tensors as the kernels see them: addresses, elements, and how values lie.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <optional>

#include "../interface.hpp"

namespace batchnorm {

inline std::optional<Element> element_of(const at::Tensor& t) {
  switch (t.scalar_type()) {
    case at::kFloat: return Element::f32;
    case at::kBFloat16: return Element::bf16;
    case at::kHalf: return Element::f16;
    case at::kDouble: return Element::f64;
    default: return std::nullopt;
  }
}

// Nothing where t is undefined; t is of an element and contiguous.
inline Parameter parameter_of(const at::Tensor& t) {
  if (!t.defined()) return {};
  return {const_cast<void*>(t.const_data_ptr()), *element_of(t)};
}

// How x lies, where it has values and lies in one of the two orders: rows, channels, positions, see interface.hpp.
inline std::optional<Shape> laid(const at::Tensor& x) {
  const std::int64_t channels = x.size(1), values = x.numel();
  if (values == 0) return std::nullopt;
  if (x.is_contiguous()) return Shape{x.size(0), channels, values / (x.size(0) * channels)};
  const bool last = x.dim() == 4   ? x.is_contiguous(at::MemoryFormat::ChannelsLast)
                    : x.dim() == 5 ? x.is_contiguous(at::MemoryFormat::ChannelsLast3d)
                                   : false;
  if (!last) return std::nullopt;
  return Shape{values / channels, channels, 1};
}

// The kernels that were chosen, on a thread that knows torch's number of threads: asking for it makes it known.
inline const Kernels& kernels() {
  at::get_num_threads();
  return chosen();
}

}  // namespace batchnorm
