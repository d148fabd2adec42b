// What the drivers share: memory of exactly the size asked for, numbers to fill it with, and a count of what is wrong.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "interface.hpp"

namespace batchnorm::tests {

inline std::size_t size_of(Element e) { return e == Element::f64 ? 8 : e == Element::f32 ? 4 : 2; }

// The spacing of an element's numbers from 1 on, and of those that the last steps are computed in.
inline double eps_of(Element e) {
  switch (e) {
    case Element::f64: return 0x1p-52;
    case Element::f32: return 0x1p-23;
    case Element::bf16: return 0x1p-7;
    default: return 0x1p-10;
  }
}
inline double working_eps_of(Element e) { return e == Element::f64 ? 0x1p-52 : 0x1p-23; }

// `count` elements in a block of their own that ends where they end. Unless told otherwise they hold NaN, so that what
// is not written shows.
class Values {
 public:
  Values(Element element, std::int64_t count, std::size_t alignment = 0)
      : element_(element), count_(count), bytes_(static_cast<std::size_t>(count) * size_of(element)) {
    memory_ = alignment == 0 ? std::malloc(bytes_) : std::aligned_alloc(alignment, bytes_);
    for (std::int64_t i = 0; i < count; ++i) set(i, std::numeric_limits<double>::quiet_NaN());
  }
  ~Values() { std::free(memory_); }
  Values(const Values&) = delete;
  Values& operator=(const Values&) = delete;

  void* data() const { return memory_; }
  Element element() const { return element_; }
  std::int64_t count() const { return count_; }
  Parameter parameter() const { return {memory_, element_}; }

  double operator[](std::int64_t i) const {
    switch (element_) {
      case Element::f64: return static_cast<const double*>(memory_)[i];
      case Element::f32: return static_cast<const float*>(memory_)[i];
      case Element::f16: return static_cast<float>(static_cast<const _Float16*>(memory_)[i]);
      default: {
        const std::uint32_t bits = std::uint32_t{static_cast<const std::uint16_t*>(memory_)[i]} << 16;
        float value;
        std::memcpy(&value, &bits, sizeof value);
        return value;
      }
    }
  }
  void set(std::int64_t i, double value) {
    switch (element_) {
      case Element::f64: static_cast<double*>(memory_)[i] = value; return;
      case Element::f32: static_cast<float*>(memory_)[i] = static_cast<float>(value); return;
      case Element::f16: static_cast<_Float16*>(memory_)[i] = static_cast<_Float16>(value); return;
      default: {
        const float narrow = static_cast<float>(value);
        std::uint32_t bits;
        std::memcpy(&bits, &narrow, sizeof bits);
        if (!std::isnan(narrow)) bits += 0x7fff + ((bits >> 16) & 1);
        static_cast<std::uint16_t*>(memory_)[i] = static_cast<std::uint16_t>(bits >> 16);
      }
    }
  }

 private:
  Element element_;
  std::int64_t count_;
  std::size_t bytes_;
  void* memory_;
};

// Numbers between two ends, the same in every run (Knuth's MMIX generator).
class Random {
 public:
  double operator()(double low, double high) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return low + (high - low) * static_cast<double>(state_ >> 11) * 0x1p-53;
  }
  void fill(Values& values, double low, double high) {
    for (std::int64_t i = 0; i < values.count(); ++i) values.set(i, (*this)(low, high));
  }

 private:
  std::uint64_t state_ = 1;
};

// Compares, counts, and prints the first of what is wrong.
struct Findings {
  std::int64_t compared = 0, wrong = 0;

  // NaN is never near.
  void near(const std::string& where, const char* what, double found, double expected, double tolerance) {
    ++compared;
    if (std::abs(found - expected) <= tolerance || ++wrong > 20) return;
    std::printf("WRONG %s %s: %.17g instead of %.17g +- %.3g\n", where.c_str(), what, found, expected, tolerance);
  }
};

double plain_activation(Activation activation, double z);
double plain_slope(Activation activation, double z);

void drive_normalization(const Kernels& kernels, Findings& findings);
void drive_large_normalization(const Kernels& kernels, Findings& findings);
void drive_normalization_with_helpers(const Kernels& kernels, Findings& findings);
void drive_steps(const Kernels& kernels, Findings& findings);

}  // namespace batchnorm::tests
