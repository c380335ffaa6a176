// A linear layer on the CPU for the few dozen rows of a step: y = x Wᵀ + b.
#pragma once

#include <cstdint>

namespace greater_fast {

// T is float or double, and so is the arithmetic; all matrices are dense, row after row.
template <typename T>
struct LinearArgs {
  const T* inputs;      // [M, K]
  const T* weights;     // [N, K]
  const T* bias;        // [N] or null
  T* outputs;           // [M, N]
  int64_t num_rows;     // M
  int64_t num_inputs;   // K
  int64_t num_outputs;  // N
};

// A row's result is a function of its own inputs and the weights alone: the same bits in any batch.
template <typename T>
void linear(const LinearArgs<T>& args);

}  // namespace greater_fast
