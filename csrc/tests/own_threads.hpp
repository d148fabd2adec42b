// Plain threads in place of OpenMP's, for the thread sanitizer: it sees what these wait for. libgomp it cannot see into,
// and would take every barrier for none.
//
// The work, its division and its meetings are the same; the pool is not what is tested.
#pragma once

#include <barrier>
#include <thread>
#include <vector>

namespace batchnorm::own_threads {

inline constexpr int kThreads = 3;
inline thread_local std::barrier<>* together = nullptr;  // those of this thread's work

template <class Work>
void run(int threads, const Work& work) {
  std::barrier<> all(threads);
  const auto one = [&](int thread) {
    together = &all;
    work(thread, threads);
    together = nullptr;
  };
  std::vector<std::thread> others;
  for (int thread = 1; thread < threads; ++thread) others.emplace_back(one, thread);
  one(0);
  for (std::thread& other : others) other.join();
}

inline void meet() { together->arrive_and_wait(); }

}  // namespace batchnorm::own_threads
