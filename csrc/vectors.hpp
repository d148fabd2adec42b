// Vectors of floats and of doubles as wide as the instruction set has them, and elements loaded into them.
//
// Written once, in the compilers' vector extension, and compiled per instruction set: see variant.cpp.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__SSE2__)
#include <immintrin.h>
#endif

#include "interface.hpp"

namespace batchnorm::BATCHNORM_VARIANT {

#if defined(__AVX512F__)
inline constexpr int kBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kBytes = 32;
#else
inline constexpr int kBytes = 16;
#endif
inline constexpr int kFloats = kBytes / 4;
inline constexpr int kDoubles = kBytes / 8;

typedef float VF __attribute__((vector_size(kBytes)));
typedef double VD __attribute__((vector_size(kBytes)));
typedef std::int32_t VI __attribute__((vector_size(kBytes)));
typedef std::uint32_t VU __attribute__((vector_size(kBytes)));
typedef std::int64_t VL __attribute__((vector_size(kBytes)));
typedef float HF __attribute__((vector_size(kBytes / 2)));           // half as many floats
typedef std::uint16_t VH __attribute__((vector_size(kBytes / 2)));   // as many 16-bit elements as floats
typedef std::uint16_t HH __attribute__((vector_size(kBytes / 4)));   // as many 16-bit elements as doubles
typedef std::uint32_t HU __attribute__((vector_size(kBytes / 2)));

struct bf16 { std::uint16_t bits; };
struct f16 { std::uint16_t bits; };

#define BATCHNORM_INLINE inline __attribute__((always_inline))
#define BATCHNORM_LAMBDA __attribute__((always_inline))
#define BATCHNORM_UNROLL _Pragma("GCC unroll 8")

template <class To, class From>
BATCHNORM_INLINE To reinterpret(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <class V, class E>
BATCHNORM_INLINE V unaligned(const E* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

BATCHNORM_INLINE VF splat(float value) { return value - VF{}; }
BATCHNORM_INLINE VD splat(double value) { return value - VD{}; }

// A vector of floats as two of doubles.
struct Doubles {
  VD low, high;
};

BATCHNORM_INLINE Doubles widen(VF v) {
#if defined(__AVX512F__)
  return {_mm512_cvtps_pd(_mm512_castps512_ps256(v)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1))};
#elif defined(__AVX2__)
  return {_mm256_cvtps_pd(_mm256_castps256_ps128(v)), _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1))};
#else
  HF halves[2];
  std::memcpy(halves, &v, sizeof v);
  return {__builtin_convertvector(halves[0], VD), __builtin_convertvector(halves[1], VD)};
#endif
}

BATCHNORM_INLINE VF narrow(Doubles v) {
  HF halves[2] = {__builtin_convertvector(v.low, HF), __builtin_convertvector(v.high, HF)};
  VF joined;
  std::memcpy(&joined, halves, sizeof joined);
  return joined;
}

// --- one element ---------------------------------------------------------------------------------------------------

BATCHNORM_INLINE float to_float(float v) { return v; }
BATCHNORM_INLINE float to_float(bf16 v) { return reinterpret<float>(std::uint32_t{v.bits} << 16); }
BATCHNORM_INLINE float to_float(f16 v) {
#if defined(__F16C__)
  return _cvtsh_ss(v.bits);
#else
  return static_cast<float>(reinterpret<_Float16>(v.bits));
#endif
}
BATCHNORM_INLINE double to_double(double v) { return v; }
template <class T>
BATCHNORM_INLINE double to_double(T v) { return to_float(v); }

BATCHNORM_INLINE void round_into(float& to, float v) { to = v; }
BATCHNORM_INLINE void round_into(double& to, double v) { to = v; }
BATCHNORM_INLINE void round_into(float& to, double v) { to = static_cast<float>(v); }
BATCHNORM_INLINE void round_into(bf16& to, float v) {
  const auto bits = reinterpret<std::uint32_t>(v);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  to.bits = is_nan ? 0x7fc0 : static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
BATCHNORM_INLINE void round_into(f16& to, float v) {
#if defined(__F16C__)
  to.bits = _cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT);
#else
  to.bits = reinterpret<std::uint16_t>(static_cast<_Float16>(v));
#endif
}
BATCHNORM_INLINE void round_into(bf16& to, double v) { round_into(to, static_cast<float>(v)); }
BATCHNORM_INLINE void round_into(f16& to, double v) { round_into(to, static_cast<float>(v)); }

// --- a vector of elements ------------------------------------------------------------------------------------------

BATCHNORM_INLINE void load(const float* p, VF& v) { v = unaligned<VF>(p); }
BATCHNORM_INLINE void load(const bf16* p, VF& v) {
  v = reinterpret<VF>(__builtin_convertvector(unaligned<VH>(p), VU) << 16);
}
BATCHNORM_INLINE void load(const f16* p, VF& v) {
#if defined(__AVX512F__)
  v = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__) && defined(__AVX2__)
  v = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  for (int i = 0; i < kFloats; ++i) v[i] = to_float(p[i]);
#endif
}
BATCHNORM_INLINE void load(const double* p, VD& v) { v = unaligned<VD>(p); }
BATCHNORM_INLINE void load(const float* p, VD& v) { v = __builtin_convertvector(unaligned<HF>(p), VD); }
template <class T>
BATCHNORM_INLINE void load(const T* p, VD& v) {
  for (int i = 0; i < kDoubles; ++i) v[i] = to_double(p[i]);
}

BATCHNORM_INLINE void store(float* p, VF v) { std::memcpy(p, &v, sizeof v); }
BATCHNORM_INLINE VH rounded(VF v) {
  const VU bits = reinterpret<VU>(v);
  const VU nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const VU chosen = (bits & 0x7fffffffu) > 0x7f800000u ? VU{} + 0x7fc0u : nearest;
  return __builtin_convertvector(chosen, VH);
}
BATCHNORM_INLINE void store(bf16* p, VF v) {
  const VH bits = rounded(v);
  std::memcpy(p, &bits, sizeof bits);
}
BATCHNORM_INLINE void store(f16* p, VF v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__) && defined(__AVX2__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kFloats; ++i) round_into(p[i], v[i]);
#endif
}
BATCHNORM_INLINE void store(double* p, VD v) { std::memcpy(p, &v, sizeof v); }
BATCHNORM_INLINE void store(float* p, VD v) {
  const HF narrower = __builtin_convertvector(v, HF);
  std::memcpy(p, &narrower, sizeof narrower);
}
template <class T>
BATCHNORM_INLINE void store(T* p, VD v) {
  for (int i = 0; i < kDoubles; ++i) round_into(p[i], v[i]);
}

// Past the caches: for outputs too large to be found there again. p: aligned to the size of what is written.
template <class T, class V>
BATCHNORM_INLINE void store_past_caches(T* p, V v) { store(p, v); }
#if defined(__AVX512F__)
BATCHNORM_INLINE void store_past_caches(float* p, VF v) { _mm512_stream_ps(p, v); }
BATCHNORM_INLINE void store_past_caches(bf16* p, VF v) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), reinterpret<__m256i>(rounded(v)));
}
#elif defined(__AVX2__)
BATCHNORM_INLINE void store_past_caches(float* p, VF v) { _mm256_stream_ps(p, v); }
#elif defined(__SSE2__)
BATCHNORM_INLINE void store_past_caches(float* p, VF v) { _mm_stream_ps(p, v); }
#endif

// Asks for the line `bytes` on from p, which may be past the end, before it is needed: processors guess one stream that
// is read far ahead, two of them or one that jumps not far enough. Whoever calls it must be inlined: GCC takes a function
// that does nothing else for one that does nothing.
template <class T>
BATCHNORM_INLINE void ask_to_read(const T* p, std::int64_t bytes) {
  const auto at = reinterpret_cast<std::uintptr_t>(p) + static_cast<std::uintptr_t>(bytes);
  __builtin_prefetch(reinterpret_cast<const void*>(at), 0, 2);
}
template <class T>
BATCHNORM_INLINE void ask_to_write(T* p, std::int64_t count) {
  for (std::int64_t i = 0; i < count; i += 64 / static_cast<std::int64_t>(sizeof(T))) __builtin_prefetch(p + i, 1, 3);
}

// What was stored past the caches is seen by other threads from here on.
BATCHNORM_INLINE void finish_stores() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Part of a vector at once, lane i where bit i of `lanes` is set, for whom the instruction set has it.
void load_masked();
void store_masked();
#if defined(__AVX512BW__) && defined(__AVX512VL__)
BATCHNORM_INLINE VF load_masked(const float* p, unsigned lanes, VF rest) {
  return _mm512_mask_loadu_ps(rest, static_cast<__mmask16>(lanes), p);
}
BATCHNORM_INLINE VF load_masked(const bf16* p, unsigned lanes, VF rest) {
  const __m256i bits = _mm256_maskz_loadu_epi16(static_cast<__mmask16>(lanes), p);
  const VF values = reinterpret<VF>(__builtin_convertvector(reinterpret<VH>(bits), VU) << 16);
  return _mm512_mask_mov_ps(rest, static_cast<__mmask16>(lanes), values);
}
BATCHNORM_INLINE VF load_masked(const f16* p, unsigned lanes, VF rest) {
  const auto some = static_cast<__mmask16>(lanes);
  return _mm512_mask_cvtph_ps(rest, some, _mm256_maskz_loadu_epi16(some, p));
}
BATCHNORM_INLINE VD load_masked(const double* p, unsigned lanes, VD rest) {
  return _mm512_mask_loadu_pd(rest, static_cast<__mmask8>(lanes), p);
}
BATCHNORM_INLINE VD load_masked(const float* p, unsigned lanes, VD rest) {
  const auto some = static_cast<__mmask8>(lanes);
  return _mm512_mask_cvtps_pd(rest, some, _mm256_maskz_loadu_ps(some, p));
}
BATCHNORM_INLINE void store_masked(float* p, unsigned lanes, VF v) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>(lanes), v);
}
BATCHNORM_INLINE void store_masked(bf16* p, unsigned lanes, VF v) {
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(lanes), reinterpret<__m256i>(rounded(v)));
}
BATCHNORM_INLINE void store_masked(f16* p, unsigned lanes, VF v) {
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(lanes), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
BATCHNORM_INLINE void store_masked(double* p, unsigned lanes, VD v) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>(lanes), v);
}
BATCHNORM_INLINE void store_masked(float* p, unsigned lanes, VD v) {
  _mm256_mask_storeu_ps(p, static_cast<__mmask8>(lanes), _mm512_cvtpd_ps(v));
}
#endif

template <class V, class T>
inline constexpr bool kMasksParts = requires(const T* from, T* to, V v) {
  load_masked(from, 0u, v);
  store_masked(to, 0u, v);
};

// The first `count` elements at p, the other lanes `rest`; count < lanes.
template <class V, class T>
BATCHNORM_INLINE V load_part(const T* p, int count, V rest) {
  if constexpr (kMasksParts<V, T>) {
    return load_masked(p, (1u << count) - 1, rest);
  } else {
    V v = rest;
    for (int i = 0; i < count; ++i) v[i] = static_cast<decltype(v[0] + 0)>(to_double(p[i]));
    return v;
  }
}

template <class V, class T>
BATCHNORM_INLINE void store_part(T* p, int count, V v) {
  if constexpr (kMasksParts<V, T>) {
    store_masked(p, (1u << count) - 1, v);
  } else {
    for (int i = 0; i < count; ++i) round_into(p[i], v[i]);
  }
}

BATCHNORM_INLINE double total(VD v) {
  double sum = 0;
  for (int i = 0; i < kDoubles; ++i) sum += v[i];
  return sum;
}

}  // namespace batchnorm::BATCHNORM_VARIANT
