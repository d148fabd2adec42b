// Work spread over the threads of the process's OpenMP pool, which is torch's where torch was imported first; within a
// training step over its helpers, see helpers.hpp, whose parts must not `meet`.
//
// What is summed is cut into chunks by the batch's shape alone; threads take chunks, and a channel's chunks are added
// in their order: the same bits whatever the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "helpers.hpp"

#if defined(BATCHNORM_OWN_THREADS)
#include "tests/own_threads.hpp"
#elif defined(_OPENMP)
#include <omp.h>
#endif

namespace batchnorm::BATCHNORM_VARIANT {

struct Range {
  std::int64_t begin = 0, end = 0;
};

// The share of `items` that falls to one of `threads`, each share a whole number of `grain`.
inline Range share(std::int64_t items, int thread, int threads, std::int64_t grain = 1) {
  const std::int64_t grains = (items + grain - 1) / grain;
  const auto at = [&](int t) { return std::min(items, grains * t / threads * grain); };
  return {at(thread), at(thread + 1)};
}

// How many threads are worth waking for the work of `values` float32 values. OpenMP's sleep where nobody called them for
// a while, and one that has to be woken comes fifty to a hundred microseconds late, with everybody waiting for it at the
// end: as long as one thread takes for a quarter of a million values. Helpers are not waited for.
inline int threads_for(std::int64_t values) {
  constexpr std::int64_t kWorthAThread = 16384;
  [[maybe_unused]] constexpr std::int64_t kWorthWaking = 1 << 18;
  if (threads_at_hand() > 0) {
    return static_cast<int>(std::max<std::int64_t>(1, std::min<std::int64_t>(threads_at_hand(), values / kWorthAThread)));
  }
#if defined(BATCHNORM_OWN_THREADS)
  return static_cast<int>(std::clamp<std::int64_t>(values / kWorthAThread, 1, own_threads::kThreads));
#elif defined(_OPENMP)
  if (values < kWorthWaking || omp_in_parallel()) return 1;
  return static_cast<int>(std::min<std::int64_t>(omp_get_max_threads(), values / kWorthAThread));
#else
  (void)values;
  return 1;
#endif
}

// work(thread, threads) on each; threads wait for one another only through `meet`.
template <class Work>
void spread(int threads, const Work& work) {
  if (threads > 1 && threads_at_hand() > 0) {
    const auto part = [&](std::int64_t thread) { work(static_cast<int>(thread), threads); };
    return in_parts(threads, part);
  }
#if defined(BATCHNORM_OWN_THREADS)
  if (threads > 1) return own_threads::run(threads, work);
#elif defined(_OPENMP)
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    work(omp_get_thread_num(), omp_get_num_threads());
    return;
  }
#endif
  work(0, 1);
}

inline void meet(int threads) {
#if defined(BATCHNORM_OWN_THREADS)
  if (threads > 1) own_threads::meet();
#elif defined(_OPENMP)
  if (threads > 1) {
#pragma omp barrier
  }
#endif
}

}  // namespace batchnorm::BATCHNORM_VARIANT
