#include "math/rms_norm.h"

#include <cmath>

#include "math/simd.h"
#include "math/softmax.h"

namespace greater_fast {

namespace {

constexpr int64_t kManyNumbers = 1 << 15;  // worth waking other threads for

template <typename T>
GREATER_FAST_INLINE T inverse_root(const NormArgs<T>& args, const T* x) {
  const T squares = sum_in_parts(args.width, [&](int64_t i) { return x[i] * x[i]; });
  return 1 / std::sqrt(squares / static_cast<T>(args.width) + args.epsilon);
}

template <typename T>
GREATER_FAST_INLINE void normalize(const NormArgs<T>& args, int64_t row, T* outputs) {
  const T* const x = args.inputs + row * args.width;
  T* const y = outputs + row * args.width;
  const T inverse = inverse_root(args, x);
#pragma GCC ivdep
  for (int64_t i = 0; i < args.width; ++i) y[i] = x[i] * inverse * (args.offset + args.weights[i]);
}

// With v = dy (offset + w): dx = v / rms - x sum(v x) / (D rms^3).
template <typename T>
GREATER_FAST_INLINE void back(const NormArgs<T>& args, int64_t row, const T* by_outputs,
                              T* by_inputs) {
  const T* const x = args.inputs + row * args.width;
  const T* const by = by_outputs + row * args.width;
  T* const to = by_inputs + row * args.width;
  const T inverse = inverse_root(args, x);
  const T along = sum_in_parts(
      args.width, [&](int64_t i) { return by[i] * (args.offset + args.weights[i]) * x[i]; });
  const T pull = along * inverse * inverse / static_cast<T>(args.width);
#pragma GCC ivdep
  for (int64_t i = 0; i < args.width; ++i) {
    to[i] = (by[i] * (args.offset + args.weights[i]) - x[i] * pull) * inverse;
  }
}

template <typename T>
void portable(const NormArgs<T>& args, int64_t row, T* outputs) {
  normalize(args, row, outputs);
}
template <typename T>
GREATER_FAST_AVX2 void avx2(const NormArgs<T>& args, int64_t row, T* outputs) {
  normalize(args, row, outputs);
}
template <typename T>
GREATER_FAST_AVX512 void avx512(const NormArgs<T>& args, int64_t row, T* outputs) {
  normalize(args, row, outputs);
}

template <typename T>
void portable_back(const NormArgs<T>& args, int64_t row, const T* by_outputs, T* by_inputs) {
  back(args, row, by_outputs, by_inputs);
}
template <typename T>
GREATER_FAST_AVX2 void avx2_back(const NormArgs<T>& args, int64_t row, const T* by_outputs,
                                 T* by_inputs) {
  back(args, row, by_outputs, by_inputs);
}
template <typename T>
GREATER_FAST_AVX512 void avx512_back(const NormArgs<T>& args, int64_t row, const T* by_outputs,
                                     T* by_inputs) {
  back(args, row, by_outputs, by_inputs);
}

}  // namespace

template <typename T>
void rms_norm(const NormArgs<T>& args, T* outputs) {
  const int32_t bytes = vector_bytes();
  const auto kernel = bytes == 64 ? avx512<T> : bytes == 32 ? avx2<T> : portable<T>;
#pragma omp parallel for schedule(static) if (args.num_rows * args.width >= kManyNumbers)
  for (int64_t row = 0; row < args.num_rows; ++row) kernel(args, row, outputs);
}

template <typename T>
void rms_norm_backward(const NormArgs<T>& args, const T* output_gradients, T* input_gradients) {
  const int32_t bytes = vector_bytes();
  const auto kernel = bytes == 64 ? avx512_back<T> : bytes == 32 ? avx2_back<T> : portable_back<T>;
#pragma omp parallel for schedule(static) if (args.num_rows * args.width >= kManyNumbers)
  for (int64_t row = 0; row < args.num_rows; ++row) {
    kernel(args, row, output_gradients, input_gradients);
  }
}

template void rms_norm<float>(const NormArgs<float>&, float*);
template void rms_norm<double>(const NormArgs<double>&, double*);
template void rms_norm_backward<float>(const NormArgs<float>&, const float*, float*);
template void rms_norm_backward<double>(const NormArgs<double>&, const double*, double*);

}  // namespace greater_fast
