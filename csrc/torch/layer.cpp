// A layer's whole call in one step, against torch's C++ autograd: what Python would cost more than the arithmetic of a
// small batch. Optional: built where torch's headers are at hand, used only with the very torch it was built for.
//
// It takes the usual case and nothing else: plain CPU tensors in order of memory, no transformation looking inside.
// For anything unusual it returns None and the Python way runs, which computes the same with the same kernels.
#include <Python.h>

#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <c10/core/impl/COW.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/version.h>

#include "operators.hpp"
#include "results.hpp"
#include "tensors.hpp"

namespace {

using at::Tensor;
using batchnorm::element_of;
using batchnorm::laid;
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

struct FusedBatchNormBackward : public Node {
  SavedVariable x, weight, bias, residual;
  Tensor block;  // (4, C): anchor, shift, rstd, m2
  Tensor running_mean, running_var;  // as they were; test time only
  batchnorm::Shape shape;
  batchnorm::Activation activation{};
  double eps = 0;
  bool training = true;

  std::string name() const override { return "FusedBatchNormBackward"; }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    x.reset_data();
    weight.reset_data();
    bias.reset_data();
    residual.reset_data();
  }

  variable_list apply(variable_list&& grads) override {
    std::lock_guard<std::mutex> lock(mutex_);
    variable_list result(4);
    const Tensor& given = grads[0];
    if (!given.defined()) return result;
    const auto self = getptr();
    const Tensor x_ = x.unpack(self), weight_ = weight.unpack(self), bias_ = bias.unpack(self),
                 residual_ = residual.unpack(self);
    if (at::GradMode::is_enabled() || is_looked_into() || !is_plain(given) || !is_plain(x_) ||
        given.scalar_type() != x_.scalar_type()) {
      return through_python(given, x_, weight_, bias_, residual_);
    }
    Tensor dy = given;
    if (dy.strides() != x_.strides()) dy = batchnorm::result_like(x_).copy_(given);
    batchnorm::Backward b;
    b.shape = shape;
    b.element = *element_of(x_);
    b.activation = activation;
    b.x = x_.const_data_ptr();
    b.dy = dy.const_data_ptr();
    b.gamma = parameter_of(weight_);
    b.beta = parameter_of(bias_);
    b.centre = {static_cast<double*>(block.data_ptr()), shape.channels};
    b.training = training;
    const bool curved = activation != batchnorm::Activation::none;
    if (curved && residual_.defined()) b.residual = residual_.const_data_ptr();
    if (task_should_compute_output(0)) {
      result[0] = batchnorm::result_like(x_);
      b.dx = result[0].data_ptr();
    }
    if (task_should_compute_output(1)) {
      result[1] = at::detail::empty_cpu({shape.channels}, weight_.scalar_type());
      b.dgamma = parameter_of(result[1]);
    }
    if (task_should_compute_output(2)) {
      result[2] = at::detail::empty_cpu({shape.channels}, bias_element);
      b.dbeta = parameter_of(result[2]);
    }
    if (task_should_compute_output(3)) {
      if (curved) {
        result[3] = batchnorm::result_like(x_);
        b.dresidual = result[3].data_ptr();
      } else {
        result[3] = dy;
      }
    }
    batchnorm::kernels().backward(b);  // autograd holds no lock of Python's here
    return result;
  }

  at::ScalarType bias_element = at::kFloat;  // beta itself is kept only for an activation's slope

 private:
  variable_list through_python(const Tensor& dy, const Tensor& x_, const Tensor& weight_, const Tensor& bias_,
                               const Tensor& residual_) {
    PyGILState_STATE state = PyGILState_Ensure();
    variable_list result(4);
    const auto wrapped = [](const Tensor& t) { return THPVariable_Wrap(t); };  // None where undefined
    PyObject* needs = PyTuple_New(4);
    for (int i = 0; i < 4; ++i) PyTuple_SET_ITEM(needs, i, PyBool_FromLong(task_should_compute_output(i)));
    PyObject* answer = PyObject_CallFunction(
        unusual_backward, "NNNNNNNNdiOLN", wrapped(dy), wrapped(x_), wrapped(weight_), wrapped(bias_),
        wrapped(residual_), wrapped(block), wrapped(running_mean), wrapped(running_var), eps,
        static_cast<int>(activation), training ? Py_True : Py_False,
        static_cast<long long>(shape.rows * shape.positions), needs);
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
};

const Tensor* tensor_of(PyObject* object, const Tensor& none) {
  if (object == Py_None) return &none;
  return THPVariable_CheckExact(object) ? &THPVariable_Unpack(object) : nullptr;
}

// (x, weight, bias, running_mean, running_var, batches, residual, momentum, eps, activation, training, least_dim,
// most_dim) -> y; (y, block) where running statistics were refused; None where the case is not the usual one.
PyObject* batch_norm(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS  // hooks on saved tensors raise what they like
  const Tensor none;
  if (count != 13) {
    PyErr_SetString(PyExc_TypeError, "batch_norm takes 13 arguments");
    return nullptr;
  }
  const Tensor* given[7];
  for (int i = 0; i < 7; ++i) {
    given[i] = tensor_of(args[i], none);
    if (given[i] == nullptr) Py_RETURN_NONE;
  }
  const Tensor &x = *given[0], &weight = *given[1], &bias = *given[2], &mean = *given[3], &var = *given[4],
               &batches = *given[5], &residual = *given[6];
  if (!PyFloat_Check(args[7]) || !PyFloat_Check(args[8])) Py_RETURN_NONE;
  const double momentum = PyFloat_AS_DOUBLE(args[7]), eps = PyFloat_AS_DOUBLE(args[8]);
  const auto activation = static_cast<batchnorm::Activation>(PyLong_AsLong(args[9]));
  const bool training = args[10] == Py_True;
  const long least = PyLong_AsLong(args[11]), most = PyLong_AsLong(args[12]);

  if (!x.defined() || x.dim() < least || x.dim() > most || x.numel() == 0 || !(eps > 0)) Py_RETURN_NONE;
  const auto element = element_of(x);
  if (!element || is_looked_into() || !is_plain(x)) Py_RETURN_NONE;
  const auto lies = laid(x);
  if (!lies) Py_RETURN_NONE;
  const std::int64_t channels = lies->channels;
  if (training && lies->rows * lies->positions < 2) Py_RETURN_NONE;
  const auto fits = [&](const Tensor& t, at::ScalarType type) {
    return !t.defined() || (t.dim() == 1 && t.size(0) == channels && t.scalar_type() == type && t.is_contiguous() &&
                            is_plain(t));
  };
  const bool narrow = x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kHalf;
  const auto parameters = weight.defined() ? weight.scalar_type() : bias.defined() ? bias.scalar_type() : x.scalar_type();
  if (parameters != x.scalar_type() && !(narrow && parameters == at::kFloat)) Py_RETURN_NONE;
  const auto statistics = narrow ? at::kFloat : x.scalar_type();
  if (!fits(weight, parameters) || !fits(bias, parameters) || !fits(mean, statistics) || !fits(var, statistics)) {
    Py_RETURN_NONE;
  }
  if (mean.defined() != var.defined() || (!training && !mean.defined())) Py_RETURN_NONE;
  if (mean.defined() && (mean.requires_grad() || var.requires_grad())) Py_RETURN_NONE;
  // A model that was made in inference mode; torch says when what it has may change.
  if (training && mean.defined() && (mean.is_inference() || var.is_inference())) Py_RETURN_NONE;
  if (batches.defined() && (batches.scalar_type() != at::kLong || batches.numel() != 1 || !is_plain(batches))) {
    Py_RETURN_NONE;
  }
  if (residual.defined() && (residual.scalar_type() != x.scalar_type() || residual.sizes() != x.sizes() ||
                             residual.strides() != x.strides() || !is_plain(residual))) {
    Py_RETURN_NONE;
  }

  const bool differentiated = at::GradMode::is_enabled() &&
                              torch::autograd::compute_requires_grad(x, weight, bias, residual);
  Tensor y = batchnorm::result_like(x, !differentiated), block = at::detail::empty_cpu({4, channels}, at::kDouble);
  batchnorm::Forward f;
  f.shape = *lies;
  f.element = *element;
  f.activation = activation;
  f.x = x.const_data_ptr();
  f.y = y.data_ptr();
  f.residual = residual.defined() ? residual.const_data_ptr() : nullptr;
  f.gamma = parameter_of(weight);
  f.beta = parameter_of(bias);
  f.eps = eps;
  f.centre = {static_cast<double*>(block.data_ptr()), channels};
  f.training = training;
  f.momentum = momentum;
  // A forward pass inside a backward pass is a recomputation: activation checkpointing. It moves nothing.
  const bool moves = training && mean.defined() && torch::autograd::get_current_graph_task_id() == -1;
  if (moves || !training) {
    f.running_mean = parameter_of(mean);
    f.running_var = parameter_of(var);
  }
  if (moves && batches.defined()) f.batches = static_cast<std::int64_t*>(batches.data_ptr());
  const batchnorm::Kernels& kernels = batchnorm::kernels();
  std::int64_t refused = 0;
  if (x.numel() < (1 << 16)) {
    refused = kernels.forward(f);
  } else {
    Py_BEGIN_ALLOW_THREADS
    refused = kernels.forward(f);
    Py_END_ALLOW_THREADS
  }
  if (moves) {
    mean.unsafeGetTensorImpl()->bump_version();
    var.unsafeGetTensorImpl()->bump_version();
    if (batches.defined() && !batches.is_inference()) batches.unsafeGetTensorImpl()->bump_version();
  }
  if (differentiated) {
    auto node = c10::make_intrusive<FusedBatchNormBackward>();
    node->set_next_edges(torch::autograd::collect_next_edges(x, weight, bias, residual));
    const bool curved = activation != batchnorm::Activation::none;
    node->x = SavedVariable(x, false);
    node->weight = SavedVariable(weight, false);
    if (curved) {
      node->bias = SavedVariable(bias, false);
      node->residual = SavedVariable(residual, false);
    }
    node->block = block;
    if (!training) node->running_mean = mean.clone(), node->running_var = var.clone();
    node->shape = *lies;
    node->activation = activation;
    node->eps = eps;
    node->training = training;
    node->bias_element = parameters;
    torch::autograd::set_history(y, node);
  }
  PyObject* wrapped = THPVariable_Wrap(std::move(y));
  if (refused == 0 || wrapped == nullptr) return wrapped;
  return Py_BuildValue("(NN)", wrapped, THPVariable_Wrap(block));
  END_HANDLE_TH_ERRORS
}

PyObject* choose(PyObject*, PyObject* name) {
  const char* text = PyUnicode_AsUTF8(name);
  if (text == nullptr) return nullptr;
  return PyBool_FromLong(batchnorm::choose(text));
}

PyObject* result_like(PyObject*, PyObject* like) {
  HANDLE_TH_ERRORS
  return THPVariable_Wrap(batchnorm::result_like(THPVariable_Unpack(like)));
  END_HANDLE_TH_ERRORS
}

PyObject* keep_memory(PyObject*, PyObject* limit) {
  const std::size_t bytes = PyLong_AsSize_t(limit);
  if (PyErr_Occurred()) return nullptr;
  batchnorm::keep_memory(bytes);
  Py_RETURN_NONE;
}

PyObject* kept_memory(PyObject*, PyObject*) {
  const auto kept = batchnorm::kept_memory();
  return Py_BuildValue("(KKLL)", static_cast<unsigned long long>(kept.limit), static_cast<unsigned long long>(kept.held),
                       static_cast<long long>(kept.asked), static_cast<long long>(kept.again));
}

PyObject* set_unusual_backward(PyObject*, PyObject* function) {
  Py_INCREF(function);
  Py_XDECREF(unusual_backward);
  unusual_backward = function;
  Py_RETURN_NONE;
}

PyObject* register_operators(PyObject*, PyObject*) {
  HANDLE_TH_ERRORS
  batchnorm::register_operators();
  Py_RETURN_NONE;
  END_HANDLE_TH_ERRORS
}

PyMethodDef methods[] = {
    {"batch_norm", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&batch_norm)), METH_FASTCALL, nullptr},
    {"choose", &choose, METH_O, "Use the kernels of this instruction set; False where there is none of that name."},
    {"result_like", &result_like, METH_O, "An empty tensor like a plain one on the CPU, in memory that is kept."},
    {"keep_memory", &keep_memory, METH_O, "Keep at most so many bytes of results' memory for results to come."},
    {"kept_memory", &kept_memory, METH_NOARGS, "(limit, bytes held, times asked, times kept memory answered)."},
    {"register_operators", &register_operators, METH_NOARGS, "Run the operators of kernels/graph_op.py on the CPU."},
    {"set_unusual_backward", &set_unusual_backward, METH_O, "The function that unusual gradients are handed to."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_torch_layer", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__torch_layer() {
  PyObject* module = PyModule_Create(&definition);
  if (module == nullptr) return nullptr;
  PyModule_AddStringConstant(module, "built_for", TORCH_VERSION);
  return module;
}
