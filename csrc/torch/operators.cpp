// What kernels/graph_op.py says in Python of the same operators, for the price of a call: a compiled graph calls them for
// every layer.
#include "operators.hpp"

#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/library.h>

#include <tuple>

#include "results.hpp"
#include "tensors.hpp"

namespace batchnorm {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Maybe = const std::optional<Tensor>&;
using Two = std::tuple<Tensor, Tensor>;
using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// x, or a copy in the nearer of the two orders: kernels/layout.py.
Tensor laid_out(const Tensor& x) {
  return x.is_contiguous() || laid(x) ? x : x.contiguous(x.suggest_memory_format());
}

// t with x's element and order.
Tensor like(const Tensor& t, const Tensor& x) {
  if (t.scalar_type() == x.scalar_type() && t.strides() == x.strides()) return t;
  return at::empty_like(x).copy_(t);
}

Tensor packed(Maybe t) { return t ? t->contiguous() : Tensor(); }

const double* weights_of(const Tensor& weights) { return weights.defined() ? weights.const_data_ptr<double>() : nullptr; }

// Asking is what makes torch's number of threads known to a thread that torch has not seen before.
const Kernels& kernels() {
  at::get_num_threads();
  return chosen();
}

Two normalize(const Tensor& given, Maybe weight, Maybe bias, Maybe residual, Maybe weights, Maybe running_mean,
              Maybe running_var, double eps, std::int64_t activation) {
  const Tensor x = laid_out(given), gamma = packed(weight), beta = packed(bias), how_often = packed(weights),
               mean = packed(running_mean), var = packed(running_var), added = residual ? like(*residual, x) : Tensor();
  const std::int64_t channels = x.size(1);
  Tensor y = result_like(x), block = at::detail::empty_cpu({4, channels}, at::kDouble);
  if (x.numel() == 0) return {y, block.zero_()};
  Forward f;
  f.shape = laid(x)->shape;
  f.element = *element_of(x);
  f.activation = static_cast<Activation>(activation);
  f.x = x.const_data_ptr();
  f.y = y.data_ptr();
  f.residual = added.defined() ? added.const_data_ptr() : nullptr;
  f.weights = weights_of(how_often);
  f.gamma = parameter_of(gamma);
  f.beta = parameter_of(beta);
  f.eps = eps;
  f.centre = {static_cast<double*>(block.data_ptr()), channels};
  f.training = !mean.defined();
  f.running_mean = parameter_of(mean);
  f.running_var = parameter_of(var);
  kernels().forward(f);
  return {y, block};
}

Four normalize_backward(const Tensor& given, const Tensor& given_x, Maybe weight, Maybe bias, Maybe residual,
                        Maybe weights, const Tensor& block, std::int64_t activation, bool training,
                        c10::List<bool> needs) {
  const Tensor x = laid_out(given_x), dy = like(given, x), gamma = packed(weight), beta = packed(bias),
               how_often = packed(weights);
  const bool curved = activation != 0, same = !curved && !how_often.defined();  // dresidual is dy
  const Tensor added = residual && curved ? like(*residual, x) : Tensor();
  const auto nothing = [&] { return at::detail::empty_cpu({0}, x.scalar_type()); };
  const auto gradient = [&](int which, const Tensor& of) {
    return needs[which] && of.defined() ? at::detail::empty_cpu({of.size(0)}, of.scalar_type()) : nothing();
  };
  const Tensor dx = needs[0] ? result_like(x) : nothing(), dgamma = gradient(1, gamma), dbeta = gradient(2, beta);
  // An operator may not give back what it was given.
  const Tensor dresidual = !needs[3] ? nothing() : same ? dy.clone() : result_like(x);
  if (x.numel() == 0) return {dx, dgamma.zero_(), dbeta.zero_(), dresidual};
  Backward b;
  b.shape = laid(x)->shape;
  b.element = *element_of(x);
  b.activation = static_cast<Activation>(activation);
  b.x = x.const_data_ptr();
  b.dy = dy.const_data_ptr();
  b.residual = added.defined() ? added.const_data_ptr() : nullptr;
  b.weights = weights_of(how_often);
  b.gamma = parameter_of(gamma);
  b.beta = parameter_of(beta);
  b.centre = {const_cast<double*>(block.const_data_ptr<double>()), x.size(1)};
  b.training = training;
  if (needs[0]) b.dx = dx.data_ptr();
  if (needs[1] && gamma.defined()) b.dgamma = parameter_of(dgamma);
  if (needs[2] && beta.defined()) b.dbeta = parameter_of(dbeta);
  if (needs[3] && !same) b.dresidual = dresidual.data_ptr();
  kernels().backward(b);
  return {dx, dgamma, dbeta, dresidual};
}

template <class Signature>
c10::TypedOperatorHandle<Signature> operator_of(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

struct Differentiated : torch::autograd::Function<Differentiated> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, Maybe weight, Maybe bias, Maybe residual,
                               Maybe weights, Maybe running_mean, Maybe running_var, double eps,
                               std::int64_t activation) {
    auto [y, block] = below(x, weight, bias, residual, weights, running_mean, running_var, eps, activation);
    const auto one = [](Maybe t) { return t.value_or(Tensor()); };
    ctx->save_for_backward({x, one(weight), one(bias), one(residual), one(weights), block});
    ctx->saved_data["activation"] = activation;
    ctx->saved_data["training"] = !running_mean.has_value();
    ctx->saved_data["needs"] = c10::List<bool>({needs(x), needs(weight), needs(bias), needs(residual)});
    ctx->mark_non_differentiable({block});
    return {y, block};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    static const auto descend = operator_of<Four(const Tensor&, const Tensor&, Maybe, Maybe, Maybe, Maybe, const Tensor&,
                                                 std::int64_t, bool, c10::List<bool>)>("batchnorm::normalize_backward");
    const variable_list saved = ctx->get_saved_variables();
    const auto maybe = [&](int i) { return saved[i].defined() ? std::optional(saved[i]) : std::nullopt; };
    const c10::List<bool> needs = ctx->saved_data["needs"].toBoolList();
    auto [dx, dgamma, dbeta, dresidual] =
        descend.call(grads[0], saved[0], maybe(1), maybe(2), maybe(3), maybe(4), saved[5],
                     ctx->saved_data["activation"].toInt(), ctx->saved_data["training"].toBool(), needs);
    const auto asked = [&](int i, const Tensor& gradient) { return needs[i] ? gradient : Tensor(); };
    return {asked(0, dx), asked(1, dgamma), asked(2, dbeta), asked(3, dresidual), {}, {}, {}, {}, {}};
  }

  // The operator where nothing is differentiated any more.
  static Two below(const Tensor& x, Maybe weight, Maybe bias, Maybe residual, Maybe weights, Maybe running_mean,
                   Maybe running_var, double eps, std::int64_t activation) {
    static const auto forward = operator_of<Two(const Tensor&, Maybe, Maybe, Maybe, Maybe, Maybe, Maybe, double,
                                                std::int64_t)>("batchnorm::normalize");
    at::AutoDispatchBelowADInplaceOrView guard;
    return forward.call(x, weight, bias, residual, weights, running_mean, running_var, eps, activation);
  }

 private:
  static bool needs(Maybe t) { return t && t->requires_grad(); }
};

Two differentiated(const Tensor& x, Maybe weight, Maybe bias, Maybe residual, Maybe weights, Maybe running_mean,
                   Maybe running_var, double eps, std::int64_t activation) {
  const auto one = [](Maybe t) { return t.value_or(Tensor()); };
  if (!at::GradMode::is_enabled() ||
      !torch::autograd::compute_requires_grad(x, one(weight), one(bias), one(residual))) {
    return Differentiated::below(x, weight, bias, residual, weights, running_mean, running_var, eps, activation);
  }
  const variable_list found =
      Differentiated::apply(x, weight, bias, residual, weights, running_mean, running_var, eps, activation);
  return {found[0], found[1]};
}

}  // namespace

void register_operators() {
  static torch::Library* library = nullptr;  // for as long as the process
  if (library != nullptr) return;
  library = new torch::Library(torch::Library::IMPL, "batchnorm", std::nullopt, __FILE__, __LINE__);
  library->impl("normalize", torch::dispatch(c10::DispatchKey::CPU, TORCH_FN(normalize)));
  library->impl("normalize_backward", torch::dispatch(c10::DispatchKey::CPU, TORCH_FN(normalize_backward)));
  library->impl("normalize", torch::dispatch(c10::DispatchKey::Autograd, TORCH_FN(differentiated)));
}

}  // namespace batchnorm
