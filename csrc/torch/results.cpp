// Memory is kept when the last tensor that uses it is gone, and never before: a block comes back through its storage's
// deleter alone, which torch calls once, after every view, saved tensor and exported buffer has let go.
#include "results.hpp"

#include <ATen/EmptyTensor.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <mutex>
#include <vector>

namespace batchnorm {
namespace {

// Smaller ones the heap answers without the system, and with memory that a neighbour has just used.
constexpr std::size_t kLeast = std::size_t{1} << 23, kLeastOfBrief = std::size_t{1} << 24;
constexpr std::size_t kHugePage = std::size_t{1} << 21;
constexpr std::size_t kPage = std::size_t{1} << 16, kLine = 64;  // no system has larger pages
constexpr std::ptrdiff_t kMostBlocks = 1024;  // looked through one by one

// Written into the line before the first value, so that an address is all that its owner needs to know.
struct Block {
  void* start;
  std::size_t bytes;
};
static_assert(sizeof(Block) <= kLine);

// Sizes in steps of an eighth, so that a batch somewhat smaller than the last finds a block too.
std::size_t rounded(std::size_t bytes) {
  const std::size_t step = std::bit_floor(bytes) / 8;
  return (bytes + step - 1) / step * step;
}

// Straight from the system, so that nothing of the heap's is marked for huge pages. bytes: a multiple of kPage.
void* taken_from_system(std::size_t bytes) {
  void* const mapped =
      mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* const from = static_cast<char*>(mapped);
  const std::size_t before = (kHugePage - reinterpret_cast<std::uintptr_t>(from) % kHugePage) % kHugePage;
  char* const start = from + before;
  if (before > 0) munmap(from, before);
  munmap(start + bytes, kHugePage - before);
#ifdef MADV_HUGEPAGE
  madvise(start, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  return start;
}

void give_back(void* data);

class Keeper final : public c10::Allocator {
 public:
  Keeper() {
    kept_.reserve(kMostBlocks + 1);  // giving back must not fail
    // A child must not inherit the lock from a thread that it does not have.
    pthread_atfork([] { keeper().mutex_.lock(); }, [] { keeper().mutex_.unlock(); }, [] { keeper().mutex_.unlock(); });
  }

  static Keeper& keeper() {
    static Keeper& one = *new Keeper;  // never destroyed: tensors may outlive everything static
    return one;
  }

  c10::DataPtr allocate(std::size_t bytes) override {
    if (bytes < kLeast) return c10::GetCPUAllocator()->allocate(bytes);
    Block block{nullptr, rounded(bytes) + kPage};
    if (block.bytes > limit_.load(std::memory_order_relaxed)) return c10::GetCPUAllocator()->allocate(bytes);
    block.start = taken_from_kept(block.bytes);
    if (block.start == nullptr) block.start = taken_from_system(block.bytes);
    if (block.start == nullptr) {  // what is kept may be what is missing; torch says what is left to say
      free_all();
      return c10::GetCPUAllocator()->allocate(bytes);
    }
    char* data = static_cast<char*>(block.start) + kLine;
    std::memcpy(data - kLine, &block, sizeof block);
    c10::profiledCPUMemoryReporter().New(data, bytes);
    return {data, data, &give_back, c10::Device(c10::DeviceType::CPU)};
  }

  void take_back(void* data) {
    Block block;
    std::memcpy(&block, static_cast<char*>(data) - kLine, sizeof block);
    c10::profiledCPUMemoryReporter().Delete(data);
    std::lock_guard lock(mutex_);
    kept_.push_back(block);
    held_ += block.bytes;
    free_above(limit_);
  }

  void keep(std::size_t limit) {
    std::lock_guard lock(mutex_);
    limit_ = limit;
    free_above(limit);
  }

  KeptMemory said() {
    std::lock_guard lock(mutex_);
    return {limit_, held_, asked_, again_};
  }

  void copy_data(void* to, const void* from, std::size_t count) const override { default_copy_data(to, from, count); }

 private:
  void* taken_from_kept(std::size_t bytes) {
    std::lock_guard lock(mutex_);
    ++asked_;
    // The newest first: it may still be in a cache.
    const auto found = std::find_if(kept_.rbegin(), kept_.rend(), [&](const Block& b) { return b.bytes == bytes; });
    if (found == kept_.rend()) return nullptr;
    void* start = found->start;
    held_ -= bytes;
    ++again_;
    kept_.erase(std::next(found).base());
    return start;
  }

  void free_all() {
    std::lock_guard lock(mutex_);
    free_above(0);
  }

  // The oldest first; whoever calls holds the lock.
  void free_above(std::size_t limit) {
    auto first = kept_.begin();
    for (; held_ > limit || kept_.end() - first > kMostBlocks; ++first) {
      munmap(first->start, first->bytes);
      held_ -= first->bytes;
    }
    kept_.erase(kept_.begin(), first);
  }

  std::mutex mutex_;
  std::vector<Block> kept_;  // by the time of their return
  std::atomic<std::size_t> limit_ = 0;
  std::size_t held_ = 0;
  std::int64_t asked_ = 0, again_ = 0;
};

void give_back(void* data) { Keeper::keeper().take_back(data); }

}  // namespace

at::Tensor result_like(const at::Tensor& t, bool brief) {
  if (brief && t.nbytes() < kLeastOfBrief) {
    return at::detail::empty_strided_cpu(t.sizes(), t.strides(), t.scalar_type());
  }
  constexpr c10::DispatchKeySet cpu(c10::DispatchKey::CPU);
  return at::detail::empty_strided_generic(t.sizes(), t.strides(), &Keeper::keeper(), cpu, t.scalar_type());
}

KeptMemory kept_memory() { return Keeper::keeper().said(); }

void keep_memory(std::size_t limit) { Keeper::keeper().keep(limit); }

}  // namespace batchnorm
