// `Program` as Python sees it: every method adds one operation over raw addresses, which the caller keeps alive.
#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>

#include "program.hpp"

namespace nb = nanobind;
using namespace batchnorm;

namespace {

using Address = std::uintptr_t;  // 0 where there is none

template <class T = void>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

Parameter parameter(Address address, Element element) { return {at(address), element}; }

void gather(Program& program, std::int64_t count, std::int64_t bytes, Address from, Address to) {
  program.add(Gather{count, bytes, at(from), at(to)});
}

// A matrix as (address, from one row to the next, from one column to the next).
using Strided = std::tuple<Address, std::int64_t, std::int64_t>;

void product(Program& program, int element, std::int64_t rows, std::int64_t columns, std::int64_t inner,
             const Strided& left, const Strided& right, Address bias, Address out) {
  program.add(Product{static_cast<Element>(element), rows, columns, inner, at(std::get<0>(left)), std::get<1>(left),
                      std::get<2>(left), at(std::get<0>(right)), std::get<1>(right), std::get<2>(right), at(bias),
                      at(out)});
}

void pointwise(Program& program, int element, int activation, std::int64_t count, Address z, Address dy, Address factor,
               Address to) {
  program.add(Pointwise{static_cast<Element>(element), static_cast<Activation>(activation), count, at(z), at(dy),
                        at(factor), at(to)});
}

void column_sums(Program& program, int element, std::int64_t rows, std::int64_t columns, Address x, Address to) {
  program.add(ColumnSums{static_cast<Element>(element), rows, columns, at(x), at(to)});
}

void loss(Program& program, int element, std::int64_t rows, std::int64_t columns, Address scores, Address classes,
          Address targets, Address weights, Address gradient, Address value) {
  program.add(Loss{static_cast<Element>(element), rows, columns, at(scores), at<std::int64_t>(classes), at(targets),
                   at(weights), at(gradient), at<double>(value)});
}

void normalize(Program& program, int element, std::int64_t rows, std::int64_t channels, int activation, Address x,
               Address y, Address weights, Address gamma, Address beta, double eps, Address centre,
               Address running_mean, Address running_var, int running_element, double momentum, Address batches,
               bool starting) {
  Normalize n;
  Forward& f = n.forward;
  f.shape = {rows, channels, 1};
  f.element = static_cast<Element>(element);
  f.activation = static_cast<Activation>(activation);
  f.x = at(x);
  f.y = at(y);
  f.weights = at<double>(weights);
  f.gamma = parameter(gamma, f.element);
  f.beta = parameter(beta, f.element);
  f.eps = eps;
  f.centre = {at<double>(centre), channels};
  f.running_mean = parameter(running_mean, static_cast<Element>(running_element));
  f.running_var = parameter(running_var, static_cast<Element>(running_element));
  f.momentum = momentum;
  f.batches = at<std::int64_t>(batches);
  n.starting = starting;
  program.add(n);
}

void denormalize(Program& program, int element, std::int64_t rows, std::int64_t channels, int activation, Address x,
                 Address dy, Address weights, Address gamma, Address beta, Address centre, Address dx, Address dgamma,
                 Address dbeta) {
  Backward b;
  b.shape = {rows, channels, 1};
  b.element = static_cast<Element>(element);
  b.activation = static_cast<Activation>(activation);
  b.x = at(x);
  b.dy = at(dy);
  b.weights = at<double>(weights);
  b.gamma = parameter(gamma, b.element);
  b.beta = parameter(beta, b.element);
  b.centre = {at<double>(centre), channels};
  b.dx = at(dx);
  b.dgamma = parameter(dgamma, b.element);
  b.dbeta = parameter(dbeta, b.element);
  program.add(b);
}

// A parameter as (values, address, gradient, first, second, step, decay).
using Tracked = std::tuple<std::int64_t, Address, Address, Address, Address, Address, double>;

void descend(Program& program, int element, int rule, double rate, double keep, double keep_square, double eps,
             const std::vector<Tracked>& parameters) {
  Descent d{static_cast<Element>(element), static_cast<Rule>(rule), rate, keep, keep_square, eps, {}};
  for (const auto& [count, address, gradient, first, second, step, decay] : parameters) {
    d.segments.push_back({count, at(address), at(gradient), at(first), at(second), at<float>(step), decay});
  }
  program.add(std::move(d));
}

std::int64_t run(const Program& program, Address rows, int threads) {
  nb::gil_scoped_release released;
  return program.run(at<std::int64_t>(rows), threads);
}

}  // namespace

void bind_program(nb::module_& m) {
  nb::class_<Program>(m, "Program", "Operations over memory that stays where it is, for the kernels chosen now.")
      .def("__init__", [](Program* self) { new (self) Program(chosen()); })
      .def("gather", &gather)
      .def("product", &product)
      .def("pointwise", &pointwise)
      .def("column_sums", &column_sums)
      .def("loss", &loss)
      .def("normalize", &normalize)
      .def("denormalize", &denormalize)
      .def("descend", &descend)
      .def("run", &run);
}
