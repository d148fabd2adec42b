#include "helpers.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <sched.h>
#endif

namespace batchnorm {
namespace {

constexpr auto kStaysAwake = std::chrono::microseconds(100);
// A helper that did not run for so long in the midst of its waiting steps back for a while, longer each time.
constexpr auto kKeptOff = std::chrono::microseconds(60);
constexpr auto kStepsBack = std::chrono::microseconds(2000), kStepsBackFor = std::chrono::microseconds(64000);
constexpr int kPatience = 256;  // pauses, some microseconds, before a waiting thread offers its processor to others

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void give_way() {
#if defined(__unix__) || defined(__APPLE__)
  sched_yield();
#endif
}

// What all threads see. A ticket is the job's number, 32 bits, and how many of its parts nobody has begun, 32 bits:
// whoever lowers that by one in a ticket that still has the job's number has read that job's work and owns the part.
struct Shared {
  std::atomic<std::uint64_t> ticket{0};
  std::atomic<Part> part{nullptr};
  std::atomic<const void*> work{nullptr};
  std::atomic<std::int64_t> done{0};
  std::atomic<std::uint32_t> wakings{0};
  std::atomic<bool> is_held{false};  // a Helped lives
  std::atomic<int> wanted{0};        // helpers that the holder asks for
};

// Never destroyed: helpers may outlive everything else of the process.
Shared& shared() {
  static Shared* const one = new Shared;
  return *one;
}

std::mutex holding;
int started = 0;  // helpers of this process, under `holding`
thread_local int at_hand = 0;

// Takes parts of the present job until all are begun.
void take(Shared& s) {
  for (;;) {
    std::uint64_t ticket = s.ticket.load(std::memory_order_acquire);
    const std::uint64_t left = ticket & 0xffffffffu;
    if (left == 0) return;
    const Part part = s.part.load(std::memory_order_acquire);
    const void* const work = s.work.load(std::memory_order_acquire);
    if (!s.ticket.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) continue;
    part(work, static_cast<std::int64_t>(left - 1));
    s.done.fetch_add(1, std::memory_order_acq_rel);
  }
}

enum class Stay { whole, short_of_a_processor, at_once_short };

// Helps while a Helped lives, and for a moment longer; or until this thread finds that it was kept off the processor:
// then it has one only at somebody's expense, the caller's own perhaps.
Stay stay_awake(Shared& s, int number) {
  const auto began = std::chrono::steady_clock::now();
  auto idle_since = began, last = began;
  for (int pauses = 0;; ++pauses) {
    if ((s.ticket.load(std::memory_order_acquire) & 0xffffffffu) != 0 && number < s.wanted.load()) {
      take(s);
      pauses = 0;
      last = std::chrono::steady_clock::now();
    }
    pause();
    if (pauses % 128 != 127) continue;
    if (pauses > kPatience) give_way();
    const auto now = std::chrono::steady_clock::now();
    if (now - last > kKeptOff) return last - began > kStepsBack ? Stay::short_of_a_processor : Stay::at_once_short;
    last = now;
    if (s.is_held.load(std::memory_order_acquire)) idle_since = now;
    if (now - idle_since > kStaysAwake) return Stay::whole;
  }
}

void help(int number) {
  Shared& s = shared();
  at_hand = 1;  // what a part itself divides is done where it is
  auto away = kStepsBack;
  for (;;) {
    const std::uint32_t seen = s.wakings.load(std::memory_order_acquire);
    const Stay stay = number < s.wanted.load() ? stay_awake(s, number) : Stay::whole;
    if (stay != Stay::whole) {
      away = stay == Stay::at_once_short ? std::min(2 * away, kStepsBackFor) : kStepsBack;
      std::this_thread::sleep_for(away);
      continue;
    }
    s.wakings.wait(seen, std::memory_order_acquire);
  }
}

void start_helpers(int wanted) {
#if defined(__unix__) || defined(__APPLE__)
  static const bool watches_forks = [] {
    pthread_atfork([] { holding.lock(); }, [] { holding.unlock(); }, [] {
      new (&holding) std::mutex;
      started = 0;
      shared().is_held.store(false);
      shared().wanted.store(0);
    });
    return true;
  }();
  (void)watches_forks;
#endif
  try {
    for (; started < wanted; ++started) std::thread(help, started).detach();
  } catch (const std::system_error&) {
    // No more threads to be had: those that there are help.
  }
}

}  // namespace

Helped::Helped(int threads) : before_(at_hand) {
  if (threads > 1 && at_hand == 0) {
    Shared& s = shared();
    const std::lock_guard lock(holding);
    if (!s.is_held.load(std::memory_order_relaxed)) {
      holds_ = true;
      start_helpers(threads - 1);
      s.wanted.store(started < threads - 1 ? started : threads - 1, std::memory_order_release);
      s.is_held.store(true, std::memory_order_release);
      s.wakings.fetch_add(1, std::memory_order_acq_rel);
      s.wakings.notify_all();
    }
  }
  at_hand = holds_ ? threads : 1;
}

Helped::~Helped() {
  at_hand = before_;
  if (holds_) shared().is_held.store(false, std::memory_order_release);
}

int threads_at_hand() { return at_hand; }

void take_parts(Part part, const void* work, std::int64_t parts) {
  if (at_hand <= 1 || parts <= 1) {
    for (std::int64_t i = 0; i < parts; ++i) part(work, i);
    return;
  }
  Shared& s = shared();
  const int before = at_hand;
  at_hand = 1;
  // Every part of the job before is done, so nobody reads or takes: the new one is written, then shown by its ticket.
  s.part.store(part, std::memory_order_release);
  s.work.store(work, std::memory_order_release);
  s.done.store(0, std::memory_order_release);
  const std::uint64_t job = (s.ticket.load(std::memory_order_relaxed) >> 32) + 1;
  s.ticket.store(job << 32 | static_cast<std::uint64_t>(parts), std::memory_order_release);
  take(s);
  for (int pauses = 0; s.done.load(std::memory_order_acquire) < parts; ++pauses) {
    pause();
    if (pauses > kPatience) give_way();
  }
  at_hand = before;
}

}  // namespace batchnorm
