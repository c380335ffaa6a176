#include "math/logits.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "math/simd.h"
#include "math/softmax.h"

namespace greater_fast {

namespace {

constexpr int64_t kChunk = 1024;  // numbers whose sum is made in T

// Where the highest of a row's numbers is, or its first NaN.
template <typename T>
GREATER_FAST_INLINE int64_t highest_of(const T* row, int64_t count) {
  constexpr int64_t kParts = 32;
  T highest[kParts];
  T marks[kParts] = {};  // NaN where one was seen
  for (int64_t j = 0; j < kParts; ++j) highest[j] = -std::numeric_limits<T>::infinity();
  int64_t i = 0;
  for (; i + kParts <= count; i += kParts) {
    for (int64_t j = 0; j < kParts; ++j) {
      const T x = row[i + j];
      highest[j] = x > highest[j] ? x : highest[j];
      marks[j] = x == x ? marks[j] : x;
    }
  }
  for (int64_t j = 0; i < count; ++i, ++j) {
    highest[j] = row[i] > highest[j] ? row[i] : highest[j];
    marks[j] = row[i] == row[i] ? marks[j] : row[i];
  }
  bool has_nan = false;
  for (const T mark : marks) has_nan = has_nan || mark != mark;
  const T top = *std::max_element(highest, highest + kParts);
  int64_t at = 0;
  while (at + 1 < count && (has_nan ? row[at] == row[at] : row[at] != top)) ++at;
  return at;
}

// log of the sum of e^((x - top) / temperature).
template <typename T>
GREATER_FAST_INLINE double log_sum(const T* row, int64_t count, T top, T temperature) {
  double total = 0;
  for (int64_t first = 0; first < count; first += kChunk) {
    const T* const chunk = row + first;
    total += sum_in_parts(std::min(kChunk, count - first),
                          [&](int64_t i) { return exponential((chunk[i] - top) / temperature); });
  }
  return std::log(total);
}

template <typename T>
GREATER_FAST_INLINE void read(const LogitArgs<T>& args, int64_t number, int32_t* argmax,
                              float* logprobs) {
  const T* const row = args.logits + number * args.num_ids;
  const int64_t at = highest_of(row, args.num_ids);
  argmax[number] = static_cast<int32_t>(at);
  const T top = row[at], temperature = args.temperatures[number];
  const int32_t target = args.targets[number];
  if (target < 0) {
    logprobs[number] = std::isfinite(top) ? 0 : std::numeric_limits<float>::quiet_NaN();
    return;
  }
  const double distance = (row[target] - top) / temperature;
  logprobs[number] = static_cast<float>(distance - log_sum(row, args.num_ids, top, temperature));
}

template <typename T>
void portable(const LogitArgs<T>& args, int64_t row, int32_t* argmax, float* logprobs) {
  read(args, row, argmax, logprobs);
}
template <typename T>
GREATER_FAST_AVX2 void avx2(const LogitArgs<T>& args, int64_t row, int32_t* argmax,
                            float* logprobs) {
  read(args, row, argmax, logprobs);
}
template <typename T>
GREATER_FAST_AVX512 void avx512(const LogitArgs<T>& args, int64_t row, int32_t* argmax,
                                float* logprobs) {
  read(args, row, argmax, logprobs);
}

}  // namespace

template <typename T>
void read_logits(const LogitArgs<T>& args, int32_t* argmax, float* logprobs) {
  const int32_t bytes = vector_bytes();
  const auto kernel = bytes == 64 ? avx512<T> : bytes == 32 ? avx2<T> : portable<T>;
#pragma omp parallel for schedule(dynamic)
  for (int64_t row = 0; row < args.num_rows; ++row) kernel(args, row, argmax, logprobs);
}

template void read_logits<float>(const LogitArgs<float>&, int32_t*, float*);
template void read_logits<double>(const LogitArgs<double>&, int32_t*, float*);

}  // namespace greater_fast
