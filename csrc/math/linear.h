// Linear layers on the CPU for a few dozen to a few hundred rows: y = x Wᵀ + b, and dx = dy W.
#pragma once

#include <cstdint>
#include <vector>

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

// Columns of a part that is worth a call, a multiple of every tile's.
inline constexpr int64_t kLinearColumns = 48;

inline int64_t num_column_blocks(int64_t num_columns) {
  return (num_columns + kLinearColumns - 1) / kLinearColumns;
}

// Columns [first, last) of the outputs, on the thread that asks. A row's result is a function of
// its own inputs and the weights alone: the same bits in any batch.
template <typename T>
void linear_columns(const LinearArgs<T>& args, int64_t first, int64_t last);

// All outputs of some layers, in one parallel region.
template <typename T>
void linears(const std::vector<LinearArgs<T>>& layers);

// The same inside of a parallel region: all its threads call it, and leave it together.
template <typename T>
void linears_within(const std::vector<LinearArgs<T>>& layers);

// The inputs' gradient dy W of layers with the same inputs, where W [N, K] is frozen: the sum of
// their products, of which all but the first accumulate, in parallel.
template <typename T>
void linears_backward(const std::vector<ProductArgs<T>>& layers);

}  // namespace greater_fast
