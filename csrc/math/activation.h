// Activation functions of gated MLPs and their slopes, in forms that compilers turn into vectors.
#pragma once

#include <cmath>

#include "math/simd.h"
#include "math/softmax.h"

namespace greater_fast {

template <typename T>
GREATER_FAST_INLINE T sigmoid(T x) {
  const T small = exponential(-std::abs(x));
  const T share = 1 / (1 + small);
  return share * (x < 0 ? small : T{1});
}

// x sigmoid(x)
struct Silu {
  template <typename T>
  static GREATER_FAST_INLINE T value(T x) {
    return x * sigmoid(x);
  }
  template <typename T>
  static GREATER_FAST_INLINE T slope(T x) {
    const T share = sigmoid(x);
    return share * (1 + x * (1 - share));
  }
};

// x (1 + tanh(u)) / 2 = x sigmoid(2u) with u = sqrt(2 / pi) (x + 0.044715 x^3)
struct GeluTanh {
  template <typename T>
  static GREATER_FAST_INLINE T value(T x) {
    return x * sigmoid(bent(x));
  }
  template <typename T>
  static GREATER_FAST_INLINE T slope(T x) {
    const T share = sigmoid(bent(x));
    const T bend = kFactor<T> * (1 + 3 * kCubic<T> * x * x);
    return share + x * share * (1 - share) * bend;
  }

 private:
  template <typename T>
  static constexpr T kFactor = T(1.5957691216057308);  // 2 sqrt(2 / pi)
  template <typename T>
  static constexpr T kCubic = T(0.044715);
  template <typename T>
  static GREATER_FAST_INLINE T bent(T x) {
    return kFactor<T> * x * (1 + kCubic<T> * x * x);
  }
};

}  // namespace greater_fast
