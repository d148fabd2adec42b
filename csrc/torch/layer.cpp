// A layer's whole call in one step, against torch's C++ autograd: what Python would cost more than the arithmetic of a
// small batch. Optional: built where torch's headers are at hand, used only with the very torch it was built for.
//
// It takes the usual case and nothing else: plain CPU tensors in order of memory, no transformation looking inside.
// For anything unusual it returns None and the Python way runs, which computes the same with the same kernels.
#include "node.hpp"

#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/version.h>

#include "operators.hpp"

namespace {

using batchnorm::laid;

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
    node->left = {block, {}, {}, *lies, activation, eps, training, parameters};
    if (!training) node->left.running_mean = mean.clone(), node->left.running_var = var.clone();
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
