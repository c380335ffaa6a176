#include "math/rotary.h"

#include "math/simd.h"

namespace greater_fast {

namespace {

template <typename T, bool Back>
GREATER_FAST_INLINE void turn_row(const Turned<T>& states, int64_t row, const Turns<T>& turns) {
  const int64_t half = turns.head_size / 2;
  const T* const cos = turns.cos + row * turns.head_size;
  const T* const sin = turns.sin + row * turns.head_size;
  for (int64_t head = 0; head < states.width; head += turns.head_size) {
    const T* const from = states.from + row * states.width + head;
    T* const to = states.to + row * states.width + head;
#pragma GCC ivdep
    for (int64_t i = 0; i < half; ++i) {
      const T x = from[i], y = from[half + i];
      if constexpr (Back) {
        to[i] = x * cos[i] + y * sin[half + i];
        to[half + i] = y * cos[half + i] - x * sin[i];
      } else {
        to[i] = x * cos[i] - y * sin[i];
        to[half + i] = y * cos[half + i] + x * sin[half + i];
      }
    }
  }
}

template <typename T, bool Back>
void portable(const Turned<T>& states, int64_t row, const Turns<T>& turns) {
  turn_row<T, Back>(states, row, turns);
}
template <typename T, bool Back>
GREATER_FAST_AVX2 void avx2(const Turned<T>& states, int64_t row, const Turns<T>& turns) {
  turn_row<T, Back>(states, row, turns);
}
template <typename T, bool Back>
GREATER_FAST_AVX512 void avx512(const Turned<T>& states, int64_t row, const Turns<T>& turns) {
  turn_row<T, Back>(states, row, turns);
}

template <typename T, bool Back>
auto kernel() {
  const int32_t bytes = vector_bytes();
  return bytes == 64 ? avx512<T, Back> : bytes == 32 ? avx2<T, Back> : portable<T, Back>;
}

}  // namespace

template <typename T>
void turned_linears(const std::vector<LinearArgs<T>>& layers, int64_t num_turned,
                    const Turns<T>& turns) {
  const auto turn = kernel<T, false>();
#pragma omp parallel
  {
    linears_within(layers);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < layers.front().num_rows; ++row) {
      for (int64_t i = 0; i < num_turned; ++i) {
        turn({layers[i].outputs, layers[i].outputs, layers[i].num_outputs}, row, turns);
      }
    }
  }
}

template <typename T>
void turn_back(const std::vector<Turned<T>>& states, int64_t num_rows, const Turns<T>& turns) {
  const auto turn = kernel<T, true>();
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < num_rows; ++row) {
    for (const Turned<T>& each : states) turn(each, row, turns);
  }
}

template void turned_linears<float>(const std::vector<LinearArgs<float>>&, int64_t,
                                    const Turns<float>&);
template void turned_linears<double>(const std::vector<LinearArgs<double>>&, int64_t,
                                     const Turns<double>&);
template void turn_back<float>(const std::vector<Turned<float>>&, int64_t, const Turns<float>&);
template void turn_back<double>(const std::vector<Turned<double>>&, int64_t, const Turns<double>&);

}  // namespace greater_fast
