// y = x / sqrt(mean(x^2) + epsilon) * (offset + w) for each row on the CPU, and its gradient.
#pragma once

#include <cstdint>

namespace greater_fast {

// T is float or double, and so is the arithmetic.
template <typename T>
struct NormArgs {
  const T* inputs;   // [M, D]
  const T* weights;  // [D]
  int64_t num_rows;  // M
  int64_t width;     // D
  T epsilon;
  T offset;  // of the weights: 0, or Gemma's 1
};

// outputs [M, D]. A row's result is a function of its own inputs and the weights alone.
template <typename T>
void rms_norm(const NormArgs<T>& args, T* outputs);

// The inputs' gradient [M, D], where the weights are frozen.
template <typename T>
void rms_norm_backward(const NormArgs<T>& args, const T* output_gradients, T* input_gradients);

}  // namespace greater_fast
