// The softmax of a row of scores, in forms that compilers turn into vectors.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "math/simd.h"

namespace greater_fast {

// exp(x) for x <= 0, to 2 units in the last place: 2^n e^r with |r| <= ln(2) / 2. Where n would be
// -127, below -87.7, it is 0: the bits of that power are. NaN stays.
GREATER_FAST_INLINE float exponential(float x) {
  x = x < -88.0f ? -88.0f : x;
  const float shifted = x * 1.44269504f + 12582912.0f;  // rounds to n in the low bits
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 23) + 0x3f800000u;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

GREATER_FAST_INLINE double exponential(double x) { return std::exp(x); }

// tanh(x), to 4 units in the last place: near 0 a polynomial, which is exact there.
GREATER_FAST_INLINE float bounded(float x) {
  const float size = std::abs(x);
  const float small = exponential(-2 * size);
  const float far = (1 - small) / (1 + small);
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  return std::copysign(size < 0.625f ? p * z * size + size : far, x);
}

GREATER_FAST_INLINE double bounded(double x) { return std::tanh(x); }

// The sum of `term(i)` over i < count, in parts that make vectors.
template <typename Term>
GREATER_FAST_INLINE auto sum_in_parts(int64_t count, const Term& term) {
  using T = std::decay_t<decltype(term(0))>;
  constexpr int64_t kParts = 16;
  T parts[kParts] = {};
  int64_t i = 0;
  for (; i + kParts <= count; i += kParts) {
    for (int64_t j = 0; j < kParts; ++j) parts[j] += term(i + j);
  }
  for (int64_t j = 0; i < count; ++i, ++j) parts[j] += term(i);
  T total = 0;
  for (const T part : parts) total += part;
  return total;
}

// The highest of some numbers, one at least, in parts that make vectors.
template <typename T>
GREATER_FAST_INLINE T highest_in_parts(const T* row, int64_t count) {
  constexpr int64_t kParts = 32;
  T parts[kParts];
  for (int64_t j = 0; j < kParts; ++j) parts[j] = row[0];
  int64_t i = 0;
  for (; i + kParts <= count; i += kParts) {
    for (int64_t j = 0; j < kParts; ++j) parts[j] = row[i + j] > parts[j] ? row[i + j] : parts[j];
  }
  for (int64_t j = 0; i < count; ++i, ++j) parts[j] = row[i] > parts[j] ? row[i] : parts[j];
  return *std::max_element(parts, parts + kParts);
}

// Scores to be softened: scale x, or cap tanh(scale x / cap).
template <typename T>
struct ScoreOptions {
  T scale;
  T soft_cap;  // 0 for none
};

// Of a row's keys, those that are seen: [first, stop) of all.
struct Seen {
  int64_t first, stop, num_keys;
};

// A row's weights, which sum to 1, from its products with the keys; 0 where it sees none. `slopes`
// takes the derivative of each capped score by its scaled product, where there is a cap and it is
// not null.
template <typename T>
GREATER_FAST_INLINE void softmax(const ScoreOptions<T>& options, T* row, const Seen& seen,
                                 T* slopes = nullptr) {
  T* const begin = row + seen.first;
  const int64_t count = seen.stop - seen.first;
  for (int64_t i = 0; i < count; ++i) begin[i] *= options.scale;
  if (options.soft_cap > 0) {
    for (int64_t i = 0; i < count; ++i) {
      const T bent = bounded(begin[i] / options.soft_cap);
      begin[i] = options.soft_cap * bent;
      if (slopes) slopes[seen.first + i] = 1 - bent * bent;
    }
  }
  const T highest = count > 0 ? highest_in_parts(begin, count) : T{0};
  for (int64_t i = 0; i < count; ++i) begin[i] = exponential(begin[i] - highest);
  const T inverse = 1 / sum_in_parts(count, [&](int64_t i) { return begin[i]; });
  for (int64_t i = 0; i < count; ++i) begin[i] *= inverse;
  std::fill(row, begin, T{0});
  std::fill(begin + count, row + seen.num_keys, T{0});
}

}  // namespace greater_fast
