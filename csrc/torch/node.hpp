// The way back through a layer as one node of torch's C++ autograd: what layer.cpp leaves, and the gradients from it.
#pragma once

#include <Python.h>

#include <ATen/EmptyTensor.h>
#include <c10/core/impl/COW.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <array>
#include <vector>

#include "results.hpp"
#include "tensors.hpp"

namespace {

using at::Tensor;
using batchnorm::element_of;
using batchnorm::parameter_of;
using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// Python's way back, for gradients that are themselves differentiated, batched or of another kind.
PyObject* unusual_backward = nullptr;

// Values that lie in this process's memory as they are, with nothing between them and their address.
bool is_plain(const Tensor& t) {
  static const c10::DispatchKeySet usual = c10::DispatchKeySet(
      {c10::DispatchKey::CPU, c10::DispatchKey::AutogradCPU, c10::DispatchKey::ADInplaceOrView,
       c10::DispatchKey::AutocastCPU});
  const auto* impl = t.unsafeGetTensorImpl();
  return (impl->key_set() | usual) == usual && impl->has_storage() &&
         !c10::impl::cow::is_cow_data_ptr(t.storage().data_ptr()) && !t._fw_grad(0).defined();
}

// Whether a mode or a transformation of torch's wants to see the operations one by one.
bool is_looked_into() {
  static const c10::DispatchKeySet lookers = c10::DispatchKeySet(
      {c10::DispatchKey::FuncTorchDynamicLayerFrontMode, c10::DispatchKey::FuncTorchDynamicLayerBackMode,
       c10::DispatchKey::Python, c10::DispatchKey::Functionalize, c10::DispatchKey::Tracer,
       c10::DispatchKey::PythonDispatcher, c10::DispatchKey::VmapMode, c10::DispatchKey::FuncTorchVmapMode});
  return !(c10::impl::tls_local_dispatch_key_set().included_ & lookers).empty();
}

using Needs = std::vector<bool>;  // which gradients are asked for: x, weight, bias, residual

// What a forward pass leaves for the way back, beside what torch saves for it.
struct Left {
  Tensor block;  // (4, C): anchor, shift, rstd, m2
  Tensor running_mean, running_var;  // as they were; test time only
  batchnorm::Shape shape;
  batchnorm::Activation activation{};
  double eps = 0;
  bool training = true;
  at::ScalarType bias_element = at::kFloat;  // beta itself is kept only for an activation's slope
};

variable_list through_python(const Left& left, const Tensor& dy, const Tensor& x, const Tensor& weight,
                             const Tensor& bias, const Tensor& residual, const Needs& needs) {
  PyGILState_STATE state = PyGILState_Ensure();
  variable_list result(4);
  const auto wrapped = [](const Tensor& t) { return THPVariable_Wrap(t); };  // None where undefined
  PyObject* asked = PyTuple_New(4);
  for (int i = 0; i < 4; ++i) PyTuple_SET_ITEM(asked, i, PyBool_FromLong(needs[i]));
  PyObject* answer = PyObject_CallFunction(
      unusual_backward, "NNNNNNNNdiOLN", wrapped(dy), wrapped(x), wrapped(weight), wrapped(bias), wrapped(residual),
      wrapped(left.block), wrapped(left.running_mean), wrapped(left.running_var), left.eps,
      static_cast<int>(left.activation), left.training ? Py_True : Py_False,
      static_cast<long long>(left.shape.rows * left.shape.positions), asked);
  if (answer == nullptr) {
    python_error error;
    error.persist();
    PyGILState_Release(state);
    throw std::move(error);
  }
  for (int i = 0; i < 4; ++i) {
    PyObject* item = PyTuple_GET_ITEM(answer, i);
    if (item != Py_None) result[i] = THPVariable_Unpack(item);
  }
  Py_DECREF(answer);
  PyGILState_Release(state);
  return result;
}

// The gradients of x, weight, bias and residual, given the loss's in y.
variable_list gradients(const Left& left, const Tensor& given, const Tensor& x, const Tensor& weight, const Tensor& bias,
                        const Tensor& residual, const Needs& needs) {
  if (at::GradMode::is_enabled() || is_looked_into() || !is_plain(given) || !is_plain(x) ||
      given.scalar_type() != x.scalar_type()) {
    return through_python(left, given, x, weight, bias, residual, needs);
  }
  variable_list result(4);
  Tensor dy = given;
  if (dy.strides() != x.strides()) dy = batchnorm::result_like(x).copy_(given);
  batchnorm::Backward b;
  b.shape = left.shape;
  b.element = *element_of(x);
  b.activation = left.activation;
  b.x = x.const_data_ptr();
  b.dy = dy.const_data_ptr();
  b.gamma = parameter_of(weight);
  b.beta = parameter_of(bias);
  b.centre = {const_cast<double*>(left.block.const_data_ptr<double>()), left.shape.channels};
  b.training = left.training;
  const bool curved = left.activation != batchnorm::Activation::none;
  if (curved && residual.defined()) b.residual = residual.const_data_ptr();
  if (needs[0]) {
    result[0] = batchnorm::result_like(x);
    b.dx = result[0].data_ptr();
  }
  if (needs[1]) {
    result[1] = at::detail::empty_cpu({left.shape.channels}, weight.scalar_type());
    b.dgamma = parameter_of(result[1]);
  }
  if (needs[2]) {
    result[2] = at::detail::empty_cpu({left.shape.channels}, left.bias_element);
    b.dbeta = parameter_of(result[2]);
  }
  if (needs[3]) {
    if (curved) {
      result[3] = batchnorm::result_like(x);
      b.dresidual = result[3].data_ptr();
    } else {
      result[3] = dy;
    }
  }
  batchnorm::kernels().backward(b);  // autograd holds no lock of Python's here
  return result;
}

struct FusedBatchNormBackward : public Node {
  SavedVariable x, weight, bias, residual;
  Left left;

  std::string name() const override { return "FusedBatchNormBackward"; }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (SavedVariable* saved : saved_variables()) saved->reset_data();
  }

  variable_list apply(variable_list&& grads) override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!grads[0].defined()) return variable_list(4);
    const variable_list t = unpacked();
    return gradients(left, grads[0], t[0], t[1], t[2], t[3], needs());
  }

  // For torch's compiled autograd, which writes a backward pass down before it runs: this node is one call in it.
  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    for (const SavedVariable* saved : {&x, &weight, &bias, &residual}) args.collect(*saved, false);
    for (const Tensor* t : {&left.block, &left.running_mean, &left.running_var}) args.collect(*t);
    for (const std::int64_t n : {left.shape.rows, left.shape.channels, left.shape.positions}) args.collect(n);
    args.collect(static_cast<std::int64_t>(left.activation));
    args.collect(left.eps);
    args.collect(left.training);
    args.collect(left.bias_element);
  }

  variable_list apply_with_saved(const variable_list& grads, torch::dynamo::autograd::SwapSavedVariables& saved) override {
    using torch::dynamo::autograd::PackedArgs;
    for (SavedVariable* one : saved_variables()) saved.before(*one);
    for (Tensor* t : left_tensors()) saved.before(*t);
    PackedArgs packed;
    for (const Tensor& t : unpacked()) packed.pack(t);
    for (const Tensor* t : left_tensors()) packed.pack(*t);
    for (const std::int64_t n : {left.shape.rows, left.shape.channels, left.shape.positions}) packed.pack(n);
    packed.pack(static_cast<std::int64_t>(left.activation));
    packed.pack(left.eps);
    packed.pack(left.training);
    packed.pack(static_cast<std::int64_t>(left.bias_element));
    packed.pack(needs());
    const auto arguments = std::move(packed).vec();
    std::vector<at::TypePtr> kinds;
    for (const auto& argument : arguments) {
      kinds.push_back(argument.isTensor() ? at::TypePtr(at::TensorType::get()) : argument.type());
    }
    const auto& compiler = torch::dynamo::autograd::getPyCompilerInterface();
    const auto called = compiler->bind_function(saved.get_py_compiler(), name(), from_arguments, kinds,
                                                /*is_custom_function=*/true, /*is_traceable=*/false);
    const auto metadata =
        torch::dynamo::autograd::IValuePacker<std::vector<std::optional<torch::autograd::InputMetadata>>>::pack(
            torch::dynamo::autograd::get_input_metadata(next_edges()));
    variable_list result =
        compiler->call_function(saved.get_py_compiler(), "apply_functional", called, grads, arguments, metadata);
    for (SavedVariable* one : saved_variables()) saved.after(*one);
    for (Tensor* t : left_tensors()) saved.after(*t);
    return result;
  }

 private:
  // The same as apply, of what compiled_args and apply_with_saved have taken down.
  static variable_list from_arguments(const variable_list& grads, const std::vector<c10::IValue>& arguments) {
    torch::dynamo::autograd::PackedArgs packed(arguments);
    Tensor t[4];
    for (Tensor& one : t) one = packed.unpack<Tensor>();
    Left left;
    for (Tensor* one : {&left.block, &left.running_mean, &left.running_var}) *one = packed.unpack<Tensor>();
    for (std::int64_t* n : {&left.shape.rows, &left.shape.channels, &left.shape.positions}) {
      *n = packed.unpack<std::int64_t>();
    }
    left.activation = static_cast<batchnorm::Activation>(packed.unpack<std::int64_t>());
    left.eps = packed.unpack<double>();
    left.training = packed.unpack<bool>();
    left.bias_element = static_cast<at::ScalarType>(packed.unpack<std::int64_t>());
    const Needs needs = packed.unpack<Needs>();
    if (!grads[0].defined()) return variable_list(4);
    return gradients(left, grads[0], t[0], t[1], t[2], t[3], needs);
  }

  std::array<SavedVariable*, 4> saved_variables() { return {&x, &weight, &bias, &residual}; }
  std::array<Tensor*, 3> left_tensors() { return {&left.block, &left.running_mean, &left.running_var}; }
  variable_list unpacked() {
    variable_list found;
    for (SavedVariable* saved : saved_variables()) found.push_back(saved->unpack(getptr()));
    return found;
  }
  Needs needs() const {
    Needs found;
    for (int i = 0; i < 4; ++i) found.push_back(task_should_compute_output(i));
    return found;
  }
};

}  // namespace
