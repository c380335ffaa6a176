#include "math/gated_mlp.h"

#include <algorithm>
#include <vector>

#include "math/activation.h"
#include "math/simd.h"

namespace greater_fast {

namespace {

// Loops over numbers begin with a column, never in the middle of one row or another: where a number
// lies among the vectors does not depend on the row.
template <typename T, typename Act>
GREATER_FAST_INLINE void activate(const GatedMLPArgs<T>& args, int64_t first, int64_t last) {
  const int64_t width = args.gate.num_outputs;
  for (int64_t row = 0; row < args.gate.num_rows; ++row) {
    const T* const gate = args.gate.outputs + row * width;
    const T* const up = args.up.outputs + row * width;
    T* const hidden = args.hidden + row * width;
#pragma GCC ivdep
    for (int64_t i = first; i < last; ++i) hidden[i] = Act::value(gate[i]) * up[i];
  }
}

template <typename T, typename Act>
GREATER_FAST_INLINE void back(const GateArgs<T>& args, int64_t row) {
  const T* const gate = args.gate + row * args.width;
  const T* const up = args.up + row * args.width;
  T* const by_hidden = args.hidden_gradients + row * args.width;
  T* const by_gate = args.gate_gradients + row * args.width;
#pragma GCC ivdep
  for (int64_t i = 0; i < args.width; ++i) {
    const T by = by_hidden[i];
    by_gate[i] = by * up[i] * Act::slope(gate[i]);
    by_hidden[i] = by * Act::value(gate[i]);
  }
}

template <typename T>
GREATER_FAST_INLINE void activate_any(const GatedMLPArgs<T>& args, int64_t first, int64_t last) {
  if (args.activation == Activation::kSilu) {
    activate<T, Silu>(args, first, last);
  } else {
    activate<T, GeluTanh>(args, first, last);
  }
}

template <typename T>
GREATER_FAST_INLINE void back_any(const GateArgs<T>& args, int64_t row) {
  if (args.activation == Activation::kSilu) {
    back<T, Silu>(args, row);
  } else {
    back<T, GeluTanh>(args, row);
  }
}

template <typename T>
void portable(const GatedMLPArgs<T>& args, int64_t first, int64_t last) {
  activate_any(args, first, last);
}
template <typename T>
GREATER_FAST_AVX2 void avx2(const GatedMLPArgs<T>& args, int64_t first, int64_t last) {
  activate_any(args, first, last);
}
template <typename T>
GREATER_FAST_AVX512 void avx512(const GatedMLPArgs<T>& args, int64_t first, int64_t last) {
  activate_any(args, first, last);
}

template <typename T>
void portable_back(const GateArgs<T>& args, int64_t row) {
  back_any(args, row);
}
template <typename T>
GREATER_FAST_AVX2 void avx2_back(const GateArgs<T>& args, int64_t row) {
  back_any(args, row);
}
template <typename T>
GREATER_FAST_AVX512 void avx512_back(const GateArgs<T>& args, int64_t row) {
  back_any(args, row);
}

}  // namespace

template <typename T>
void gated_mlp(const GatedMLPArgs<T>& args) {
  const int32_t bytes = vector_bytes();
  const auto kernel = bytes == 64 ? avx512<T> : bytes == 32 ? avx2<T> : portable<T>;
  const int64_t width = args.gate.num_outputs;
  const int64_t num_blocks = num_column_blocks(width);
  const std::vector<LinearArgs<T>> behind = {args.down};  // made here: a thread must not throw
#pragma omp parallel
  {
#pragma omp for schedule(dynamic)
    for (int64_t block = 0; block < num_blocks; ++block) {
      const int64_t first = block * kLinearColumns;
      const int64_t last = std::min(first + kLinearColumns, width);
      linear_columns(args.gate, first, last);
      linear_columns(args.up, first, last);
      kernel(args, first, last);
    }
    linears_within<T>(behind);
  }
}

template <typename T>
void gate_backward(const GateArgs<T>& args) {
  const int32_t bytes = vector_bytes();
  const auto kernel = bytes == 64 ? avx512_back<T> : bytes == 32 ? avx2_back<T> : portable_back<T>;
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < args.num_rows; ++row) kernel(args, row);
}

template void gated_mlp<float>(const GatedMLPArgs<float>&);
template void gated_mlp<double>(const GatedMLPArgs<double>&);
template void gate_backward<float>(const GateArgs<float>&);
template void gate_backward<double>(const GateArgs<double>&);

}  // namespace greater_fast
