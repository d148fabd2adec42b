// What is done to one vector of values, whichever way the batch lies in memory.
//
// A body is called with the offset of its first element, how many lanes there are, the constants of the lanes'
// channels, and how often each lane counts. Extras (a residual, weights) are looked for only where kExtras is set.
#pragma once

#include "channels.hpp"

namespace batchnorm::BATCHNORM_VARIANT {

struct Full {};  // every lane holds a value
struct Part {    // the first `count` lanes do
  int count;
};

template <class M, class T>
BATCHNORM_INLINE typename M::V load_lanes(const T* p, Full, typename M::V) {
  typename M::V v;
  load(p, v);
  return v;
}
template <class M, class T>
BATCHNORM_INLINE typename M::V load_lanes(const T* p, Part part, typename M::V rest) {
  return load_part<typename M::V>(p, part.count, rest);
}
template <class T, class V>
BATCHNORM_INLINE void store_lanes(T* p, Full, V v) { store(p, v); }
template <class T, class V>
BATCHNORM_INLINE void store_lanes(T* p, Part part, V v) { store_part(p, part.count, v); }

template <class M>
BATCHNORM_INLINE typename M::Weights load_weights(const double* p, Full) { return M::weights(p); }
template <class M>
BATCHNORM_INLINE typename M::Weights load_weights(const double* p, Part part) {
  double lanes[M::kLanes] = {};
  for (int i = 0; i < part.count; ++i) lanes[i] = p[i];
  return M::weights(lanes);
}

// y = activation((x - hi) * scale + start + residual)
template <class M, class T, Act A, bool kExtras, bool kTraining>
struct ForwardBody {
  const T* x;
  T* y;
  const T* residual;
  Activation activation;
  bool weighted;

  explicit ForwardBody(const Forward& f)
      : x(static_cast<const T*>(f.x)),
        y(static_cast<T*>(f.y)),
        residual(static_cast<const T*>(f.residual)),
        activation(f.activation),
        weighted(f.weights != nullptr) {}

  template <bool kPast, class Lanes>
  BATCHNORM_INLINE void at(std::int64_t offset, Lanes lanes, const typename M::Apply& apply,
                           typename M::Weights w) const {
    using V = typename M::V;
    const V given = load_lanes<M>(x + offset, lanes, V{});
    // What rounding took is far below what 16 bits round.
    V z = sizeof(T) == 2 && std::is_same_v<M, Fast> ? apply.value(apply.deviation(given))
                                                    : apply.template exact_value<!kTraining>(given);
    if constexpr (kExtras) {
      if (residual != nullptr) z += load_lanes<M>(residual + offset, lanes, V{});
    }
    V v = activate<A>(activation, z);
    if constexpr (kExtras) {
      if (weighted) v = M::where_counted(w, v, V{});
    }
    if constexpr (kPast && std::is_same_v<Lanes, Full>) {
      store_past_caches(y + offset, v);
    } else {
      store_lanes(y + offset, lanes, v);
    }
  }
};

// sums of x - anchor and of its square
template <class M, class Sums, class T>
struct MomentsBody {
  static constexpr bool kMayWeigh = std::is_same_v<Sums, typename M::SureSums>;
  const T* x;
  bool weighted;

  template <class Lanes>
  BATCHNORM_INLINE void at(std::int64_t offset, Lanes lanes, typename Sums::Anchor anchor, typename M::Weights w,
                           Sums& sums) const {
    const auto rest = Sums::as_numbers(anchor);
    typename M::V v = load_lanes<M>(x + offset, lanes, rest);
    if constexpr (kMayWeigh) {
      if (weighted) {
        v = M::where_counted(w, v, rest);  // what does not count may be anything, NaN included
        return sums.add_weighted_moments(v, anchor, w);
      }
    }
    sums.add_moments(v, anchor);
  }
};

// g = dy * slope(z), from which every gradient comes
template <class M, class T, Act A, bool kExtras>
struct GradientBody {
  const T* x;
  const T* dy;
  const T* residual;
  T* dx;
  T* dresidual;
  Activation activation;
  bool weighted;
  bool training;  // by constants, x itself is in no gradient, and may be anything

  explicit GradientBody(const Backward& b)
      : x(static_cast<const T*>(b.x)),
        dy(static_cast<const T*>(b.dy)),
        residual(static_cast<const T*>(b.residual)),
        dx(static_cast<T*>(b.dx)),
        dresidual(static_cast<T*>(b.dresidual)),
        activation(b.activation),
        weighted(b.weights != nullptr),
        training(b.training) {}

  struct Both {
    typename M::V g, d;
  };

  template <class Lanes>
  BATCHNORM_INLINE Both both(std::int64_t offset, Lanes lanes, const typename M::Apply& apply,
                             typename M::Weights w) const {
    using V = typename M::V;
    V d = apply.deviation(load_lanes<M>(x + offset, lanes, apply.hi));
    V g = load_lanes<M>(dy + offset, lanes, V{});
    if constexpr (kExtras) {
      if (weighted) d = M::where_counted(w, d, V{}), g = M::where_counted(w, g, V{});
    }
    if (A != Act::none && activation != Activation::none) {
      V z = apply.value(d);
      if constexpr (kExtras) {
        if (residual != nullptr) {
          V r = load_lanes<M>(residual + offset, lanes, V{});
          if (weighted) r = M::where_counted(w, r, V{});
          z += r;
        }
      }
      g = slope<A>(activation, z, g);
    }
    return {g, d};
  }

  // sums of g and of g * d
  template <class Sums, class Lanes>
  BATCHNORM_INLINE void add(std::int64_t offset, Lanes lanes, const typename M::Apply& apply, typename M::Weights w,
                            Sums& sums) const {
    const Both v = both(offset, lanes, apply, w);
    sums.add_gradients(v.g, v.d);
  }

  // dx = g * scale + w * (d * along + across)
  template <bool kPast, class Lanes>
  BATCHNORM_INLINE void at(std::int64_t offset, Lanes lanes, const typename M::Apply& apply, typename M::V scale,
                           typename M::V along, typename M::V across, typename M::Weights w) const {
    using V = typename M::V;
    const Both v = both(offset, lanes, apply, w);
    if constexpr (kExtras) {
      if (dresidual != nullptr) store_lanes(dresidual + offset, lanes, v.g);
      if (dx == nullptr) return;
      if (weighted && training) {
        const V towards = v.d * along + across;
        return store_lanes(dx + offset, lanes, v.g * scale + M::as_numbers(w) * towards);
      }
    }
    const V result = training ? v.g * scale + (v.d * along + across) : v.g * scale;
    if constexpr (kPast && std::is_same_v<Lanes, Full>) {
      store_past_caches(dx + offset, result);
    } else {
      store_lanes(dx + offset, lanes, result);
    }
  }
};

}  // namespace batchnorm::BATCHNORM_VARIANT
