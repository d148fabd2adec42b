// Threads that help where they can and are never waited for where they cannot: for a training step, whose operations
// take microseconds, on machines that have other work, too.
//
// Work is cut into parts, and whoever is awake takes the next: the caller, who takes all of them where nobody comes, and
// helpers. The caller waits only for parts that have been begun. A pool whose threads each own a share must wait until
// the last of them has been given a processor, at every operation.
//
// Between two steps helpers stay awake for a moment, then sleep. A forked child has none and does its work alone.
#pragma once

#include <cstdint>

#include "interface.hpp"

namespace batchnorm {

// For as long as it lives this thread's work may be taken by `threads` - 1 helpers. Another thread that holds them
// already keeps them: this one then works alone.
class BATCHNORM_PUBLIC Helped {
 public:
  explicit Helped(int threads);
  ~Helped();
  Helped(const Helped&) = delete;
  Helped& operator=(const Helped&) = delete;

 private:
  bool holds_ = false;
  int before_ = 0;
};

// How many threads may take this thread's parts: 0 outside of any Helped, else 1 and its helpers.
BATCHNORM_PUBLIC int threads_at_hand();

using Part = void (*)(const void* work, std::int64_t part);

// part(work, i) for every i of `parts`, in any order, on this thread and its helpers; all are done when it returns.
BATCHNORM_PUBLIC void take_parts(Part part, const void* work, std::int64_t parts);

template <class Work>
void in_parts(std::int64_t parts, const Work& work) {
  take_parts([](const void* w, std::int64_t i) { (*static_cast<const Work*>(w))(i); }, &work, parts);
}

}  // namespace batchnorm
