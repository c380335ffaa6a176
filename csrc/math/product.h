// A product of two matrices as they lie in memory, on the thread that asks for it.
#pragma once

#include <cstdint>

namespace greater_fast {

// Rows of numbers side by side; `stride` numbers lie between the starts of two rows.
template <typename T>
struct Matrix {
  T* data;
  int64_t stride;

  Matrix from(int64_t row, int64_t column = 0) const {
    return {data + row * stride + column, stride};
  }
};

// T is float or double, and so is the arithmetic.
template <typename T>
struct ProductArgs {
  Matrix<const T> left;   // [M, K]
  Matrix<const T> right;  // [K, N]
  Matrix<T> outputs;      // [M, N]
  int64_t num_rows;       // M
  int64_t depth;          // K
  int64_t width;          // N
  bool accumulate;        // add to what is there
};

// Columns, a multiple of every tile's, of a part that is worth a call.
inline constexpr int64_t kProductColumns = 48;

// Columns [first, last) of the product; `first` is a multiple of kProductColumns. A row's result is
// a function of its own numbers and the right matrix alone: the same bits in any batch.
template <typename T>
void product(const ProductArgs<T>& args, int64_t first, int64_t last);

}  // namespace greater_fast
