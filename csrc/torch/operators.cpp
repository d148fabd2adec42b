// What kernels/graph_op.py says in Python of the same operators, for the price of a call: a compiled graph calls them
// for every layer.
#include "operators.hpp"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/library.h>

#include <algorithm>
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

Tensor tensor_of(Maybe t) { return t.value_or(Tensor()); }
std::optional<Tensor> maybe(const Tensor& t) { return t.defined() ? std::optional(t) : std::nullopt; }

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

const double* weights_of(const Tensor& weights) {
  return weights.defined() ? weights.const_data_ptr<double>() : nullptr;
}

// Layers never ask for what is refused here, but anyone may call an operator, and the kernels read what they are told to.
void check(const Tensor& x, Maybe weight, Maybe bias, Maybe residual, Maybe weights) {
  TORCH_CHECK(x.dim() >= 2 && element_of(x), "batchnorm::normalize expected (N, C, *) of floating values, got ", x.sizes(),
              " of ", x.scalar_type());
  for (const auto* t : {&weight, &bias}) {
    TORCH_CHECK(!*t || ((*t)->dim() == 1 && (*t)->size(0) == x.size(1) && element_of(**t)),
                "batchnorm::normalize expected (", x.size(1), ",) floating parameters");
  }
  TORCH_CHECK(!weight || !bias || weight->scalar_type() == bias->scalar_type(),
              "batchnorm::normalize expected weight and bias of one dtype");
  TORCH_CHECK(!residual || residual->sizes() == x.sizes(), "batchnorm::normalize expected a residual like x");
  TORCH_CHECK(!weights || (weights->scalar_type() == at::kDouble && weights->numel() * x.size(1) == x.numel()),
              "batchnorm::normalize expected a float64 weight for each position");
}

Two normalize(const Tensor& given, Maybe weight, Maybe bias, Maybe residual, Maybe weights, Maybe running_mean,
              Maybe running_var, double eps, std::int64_t activation) {
  check(given, weight, bias, residual, weights);
  check(given, running_mean, running_var, {}, {});
  TORCH_CHECK(running_mean.has_value() == running_var.has_value(), "batchnorm::normalize expected both statistics");
  const Tensor x = laid_out(given), gamma = packed(weight), beta = packed(bias), how_often = packed(weights),
               mean = packed(running_mean), var = packed(running_var), added = residual ? like(*residual, x) : Tensor();
  const std::int64_t channels = x.size(1);
  Tensor y = result_like(x), block = at::detail::empty_cpu({4, channels}, at::kDouble);
  if (x.numel() == 0) return {y, block.zero_()};
  Forward f;
  f.shape = *laid(x);
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
  std::fill_n(f.centre.m2(), channels, 0.0);  // which nobody knows at test time; a result is the same every time
  f.training = !mean.defined();
  f.running_mean = parameter_of(mean);
  f.running_var = parameter_of(var);
  kernels().forward(f);
  return {y, block};
}

Four normalize_backward(const Tensor& given, const Tensor& given_x, Maybe weight, Maybe bias, Maybe residual,
                        Maybe weights, const Tensor& block, std::int64_t activation, bool training,
                        c10::List<bool> needs) {
  check(given_x, weight, bias, residual, weights);
  TORCH_CHECK(given.sizes() == given_x.sizes() && block.is_contiguous() && block.scalar_type() == at::kDouble &&
                  block.numel() == 4 * given_x.size(1) && needs.size() == 4,
              "batchnorm::normalize_backward expected dy like x, and what the forward pass left");
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
  b.shape = *laid(x);
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

// batchnorm::normalize where nothing is differentiated any more.
Two below_autograd(const Tensor& x, Maybe weight, Maybe bias, Maybe residual, Maybe weights, Maybe running_mean,
                   Maybe running_var, double eps, std::int64_t activation) {
  static const auto forward =
      operator_of<Two(const Tensor&, Maybe, Maybe, Maybe, Maybe, Maybe, Maybe, double, std::int64_t)>(
          "batchnorm::normalize");
  at::AutoDispatchBelowADInplaceOrView guard;
  return forward.call(x, weight, bias, residual, weights, running_mean, running_var, eps, activation);
}

struct Differentiated : torch::autograd::Function<Differentiated> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, Maybe weight, Maybe bias, Maybe residual,
                               Maybe weights, Maybe running_mean, Maybe running_var, double eps,
                               std::int64_t activation) {
    auto [y, block] = below_autograd(x, weight, bias, residual, weights, running_mean, running_var, eps, activation);
    const auto is_asked_for = [](Maybe t) { return t && t->requires_grad(); };
    ctx->save_for_backward({x, tensor_of(weight), tensor_of(bias), tensor_of(residual), tensor_of(weights), block});
    ctx->saved_data["activation"] = activation;
    ctx->saved_data["training"] = !running_mean.has_value();
    ctx->saved_data["needs"] =
        c10::List<bool>({is_asked_for(x), is_asked_for(weight), is_asked_for(bias), is_asked_for(residual)});
    ctx->mark_non_differentiable({block});
    return {y, block};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    static const auto descend =
        operator_of<Four(const Tensor&, const Tensor&, Maybe, Maybe, Maybe, Maybe, const Tensor&, std::int64_t, bool,
                         c10::List<bool>)>("batchnorm::normalize_backward");
    const variable_list kept = ctx->get_saved_variables();
    const c10::List<bool> needs = ctx->saved_data["needs"].toBoolList();
    auto [dx, dgamma, dbeta, dresidual] =
        descend.call(grads[0], kept[0], maybe(kept[1]), maybe(kept[2]), maybe(kept[3]), maybe(kept[4]), kept[5],
                     ctx->saved_data["activation"].toInt(), ctx->saved_data["training"].toBool(), needs);
    const auto asked = [&](int i, const Tensor& gradient) { return needs[i] ? gradient : Tensor(); };
    return {asked(0, dx), asked(1, dgamma), asked(2, dbeta), asked(3, dresidual), {}, {}, {}, {}, {}};
  }
};

Two differentiated(const Tensor& x, Maybe weight, Maybe bias, Maybe residual, Maybe weights, Maybe running_mean,
                   Maybe running_var, double eps, std::int64_t activation) {
  const Tensor inputs[] = {x, tensor_of(weight), tensor_of(bias), tensor_of(residual)};
  const bool backward =
      at::GradMode::is_enabled() && torch::autograd::compute_requires_grad(inputs[0], inputs[1], inputs[2], inputs[3]);
  // torch refuses to differentiate forward what has a backward rule alone; below it, a tangent would vanish.
  const bool forward = std::any_of(std::begin(inputs), std::end(inputs), [](const Tensor& t) {
    return t.defined() && t._fw_grad(0).defined();
  });
  if (!backward && !forward) {
    return below_autograd(x, weight, bias, residual, weights, running_mean, running_var, eps, activation);
  }
  const variable_list found =
      Differentiated::apply(x, weight, bias, residual, weights, running_mean, running_var, eps, activation);
  return {found[0], found[1]};
}

}  // namespace

void register_operators() {
  using c10::DispatchKey;
  static torch::Library* library = nullptr;  // for as long as the process
  if (library != nullptr) return;
  library = new torch::Library(torch::Library::IMPL, "batchnorm", std::nullopt, __FILE__, __LINE__);
  library->impl("normalize", torch::dispatch(DispatchKey::CPU, TORCH_FN(normalize)));
  library->impl("normalize_backward", torch::dispatch(DispatchKey::CPU, TORCH_FN(normalize_backward)));
  library->impl("normalize", torch::dispatch(DispatchKey::Autograd, TORCH_FN(differentiated)));
  library->impl("normalize_backward",
                torch::dispatch(DispatchKey::Autograd, torch::autograd::autogradNotImplementedFallback()));
}

}  // namespace batchnorm
