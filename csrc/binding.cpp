// Raw addresses in, kernels run, nothing kept: the whole of what Python sees. The caller vouches for every address.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "interface.hpp"

namespace nb = nanobind;
using namespace batchnorm;

namespace {

using Address = std::uintptr_t;  // 0 where there is none

// Other Python threads may run meanwhile, where that is worth the switch.
constexpr std::int64_t kWorthReleasing = 1 << 16;

Parameter parameter(Address address, int element) {
  return {reinterpret_cast<void*>(address), static_cast<Element>(element)};
}

template <class Work>
auto run(const Shape& shape, const Work& work) {
  if (shape.rows * shape.channels * shape.positions < kWorthReleasing) return work();
  nb::gil_scoped_release released;
  return work();
}

std::int64_t forward(std::int64_t rows, std::int64_t channels, std::int64_t positions, int element, int activation,
                     Address x, Address y, Address residual, Address weights, Address gamma, Address beta,
                     int parameter_element, double eps, Address centre, bool training, Address running_mean,
                     Address running_var, int running_element, double momentum, Address batches) {
  Forward f;
  f.shape = {rows, channels, positions};
  f.element = static_cast<Element>(element);
  f.activation = static_cast<Activation>(activation);
  f.x = reinterpret_cast<const void*>(x);
  f.y = reinterpret_cast<void*>(y);
  f.residual = reinterpret_cast<const void*>(residual);
  f.weights = reinterpret_cast<const double*>(weights);
  f.gamma = parameter(gamma, parameter_element);
  f.beta = parameter(beta, parameter_element);
  f.eps = eps;
  f.centre = {reinterpret_cast<double*>(centre), channels};
  f.training = training;
  f.running_mean = parameter(running_mean, running_element);
  f.running_var = parameter(running_var, running_element);
  f.momentum = momentum;
  f.batches = reinterpret_cast<std::int64_t*>(batches);
  return run(f.shape, [&] { return chosen().forward(f); });
}

void backward(std::int64_t rows, std::int64_t channels, std::int64_t positions, int element, int activation, Address x,
              Address dy, Address residual, Address weights, Address gamma, Address beta, int parameter_element,
              Address centre, bool training, Address dx, Address dresidual, Address dgamma, Address dbeta) {
  Backward b;
  b.shape = {rows, channels, positions};
  b.element = static_cast<Element>(element);
  b.activation = static_cast<Activation>(activation);
  b.x = reinterpret_cast<const void*>(x);
  b.dy = reinterpret_cast<const void*>(dy);
  b.residual = reinterpret_cast<const void*>(residual);
  b.weights = reinterpret_cast<const double*>(weights);
  b.gamma = parameter(gamma, parameter_element);
  b.beta = parameter(beta, parameter_element);
  b.centre = {reinterpret_cast<double*>(centre), channels};
  b.training = training;
  b.dx = reinterpret_cast<void*>(dx);
  b.dresidual = reinterpret_cast<void*>(dresidual);
  b.dgamma = parameter(dgamma, parameter_element);
  b.dbeta = parameter(dbeta, parameter_element);
  run(b.shape, [&] {
    chosen().backward(b);
    return 0;
  });
}

void statistics(std::int64_t rows, std::int64_t channels, int element, Address x, Address block) {
  const Statistics s{{rows, channels, 1},
                     static_cast<Element>(element),
                     reinterpret_cast<const void*>(x),
                     reinterpret_cast<double*>(block)};
  run(s.shape, [&] {
    chosen().statistics(s);
    return 0;
  });
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels* const* k = available(); *k != nullptr; ++k) names.emplace_back((*k)->name);
  return names;
}

}  // namespace

void bind_program(nb::module_& m);  // program_binding.cpp

NB_MODULE(_native, m) {
  m.def("forward", &forward);
  m.def("backward", &backward);
  m.def("statistics", &statistics);
  m.def("instruction_sets", &instruction_sets, "The compiled instruction sets that this processor has, best first.");
  m.def("choose", &batchnorm::choose, "Use one of them from now on; False where there is none of that name.");
  bind_program(m);
}
