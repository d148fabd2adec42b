// One instruction set's part of a training step: the same source, compiled once for each, as variant.cpp is.
#include "descent.hpp"
#include "loss.hpp"
#include "pointwise.hpp"
#include "products.hpp"

namespace batchnorm::BATCHNORM_VARIANT {
namespace {

template <class T>
void multiply_as(const Product& p) {
  multiply<T>({static_cast<const T*>(p.left), p.left_row, p.left_column},
              {static_cast<const T*>(p.right), p.right_row, p.right_column}, static_cast<const T*>(p.bias),
              static_cast<T*>(p.out), p.rows, p.columns, p.inner);
}

void product(const Product& p) { p.element == Element::f64 ? multiply_as<double>(p) : multiply_as<float>(p); }

void pointwise(const Pointwise& p) {
  p.element == Element::f64 ? pointwise_of<double, VD>(p) : pointwise_of<float, VF>(p);
}

void column_sums(const ColumnSums& s) { s.element == Element::f64 ? column_sums_of<double>(s) : column_sums_of<float>(s); }

bool loss(const Loss& l) { return l.element == Element::f64 ? loss_of<double>(l) : loss_of<float>(l); }

void descend(const Descent& d) { d.element == Element::f64 ? descend_all<double>(d) : descend_all<float>(d); }

}  // namespace

extern const StepKernels step_kernels;
const StepKernels step_kernels{&product, &pointwise, &column_sums, &loss, &descend};

}  // namespace batchnorm::BATCHNORM_VARIANT
