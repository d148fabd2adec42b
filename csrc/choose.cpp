// Which of the compiled instruction sets this processor has.
#include <atomic>
#include <cstring>

#include "interface.hpp"

namespace batchnorm {

#if defined(__x86_64__)
namespace x86_64_v2 { extern const Kernels kernels; }
namespace x86_64_v3 { extern const Kernels kernels; }
namespace x86_64_v4 { extern const Kernels kernels; }

const Kernels* const* available() {
  static const Kernels* found[4] = {};
  if (found[0] == nullptr) {
    int n = 0;
    if (__builtin_cpu_supports("x86-64-v4")) found[n++] = &x86_64_v4::kernels;
    if (__builtin_cpu_supports("x86-64-v3")) found[n++] = &x86_64_v3::kernels;
    if (__builtin_cpu_supports("x86-64-v2")) found[n++] = &x86_64_v2::kernels;
  }
  return found;
}
#else
namespace plain { extern const Kernels kernels; }

const Kernels* const* available() {
  static const Kernels* const found[] = {&plain::kernels, nullptr};
  return found;
}
#endif

namespace {
std::atomic<const Kernels*> in_use{nullptr};
}

const Kernels& chosen() {
  const Kernels* kernels = in_use.load(std::memory_order_relaxed);
  return kernels != nullptr ? *kernels : *available()[0];
}

bool choose(const char* name) {
  for (const Kernels* const* k = available(); *k != nullptr; ++k) {
    if (std::strcmp(name, (*k)->name) == 0) {
      in_use.store(*k, std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

}  // namespace batchnorm
