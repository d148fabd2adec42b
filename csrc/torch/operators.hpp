// The kernels as operators of torch's, for graphs of torch.compile's: kernels/graph_op.py defines them.
#pragma once

namespace batchnorm {

// Let torch run them on the CPU from here instead of through Python; once in a process.
void register_operators();

}  // namespace batchnorm
