// A linear layer on the CPU for a few dozen to a few hundred rows: y = x Wᵀ + b, and dx = dy W.
#pragma once

#include <cstdint>

#include "math/product.h"

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

// The inputs' gradient dy W, where W [N, K] is frozen: the product of all columns, in parallel.
template <typename T>
void linear_backward(const ProductArgs<T>& args);

}  // namespace greater_fast
