#include "math/linear.h"

#include <algorithm>

#include "math/simd.h"

namespace greater_fast {

namespace {

// Every output is one dot product along K, in parallel parts (the lanes of a vector), always in the
// same order, so that neither the tile it lies in nor the number of rows changes its bits. Both
// operands are read as they lie in memory: weights are neither copied nor packed.
constexpr int64_t kChunkBytes = 1 << 18;  // of input rows that stay in the second-level cache

// Outputs of a tile that starts at (row, column). Meanwhile weight rows [ahead, ahead_stop), which
// later tiles read, are fetched from memory: the hardware gives up at the end of each short row.
template <typename T, int32_t Bytes, int32_t Rows, int32_t Columns>
GREATER_FAST_INLINE void tile(const LinearArgs<T>& args, int64_t row, int64_t column, int64_t ahead,
                              int64_t ahead_stop) {
  using V = typename VectorOf<T, Bytes>::type;
  constexpr int32_t kLanes = Bytes / sizeof(T);
  const int64_t depth = args.num_inputs;
  const T* const x = args.inputs + row * depth;
  const T* const w = args.weights + column * depth;
  V sums[Rows * Columns] = {};
  int64_t k = 0;
  for (; k + kLanes <= depth; k += kLanes) {
    for (int64_t c = ahead; c < ahead_stop; ++c) {
      __builtin_prefetch(args.weights + c * depth + k, 0, 3);
    }
    V inputs[Rows];
    for (int32_t r = 0; r < Rows; ++r) load(inputs[r], x + r * depth + k);
    for (int32_t c = 0; c < Columns; ++c) {
      V weights;
      load(weights, w + c * depth + k);
      for (int32_t r = 0; r < Rows; ++r) sums[r * Columns + c] += inputs[r] * weights;
    }
  }
  if (k < depth) {
    for (int32_t r = 0; r < Rows; ++r) {
      V input;
      load_part(input, x + r * depth + k, depth - k);
      for (int32_t c = 0; c < Columns; ++c) {
        V weights;
        load_part(weights, w + c * depth + k, depth - k);
        sums[r * Columns + c] += input * weights;
      }
    }
  }
  fold<T, Bytes, Rows * Columns>(sums);
  T results[(Rows * Columns + kLanes - 1) / kLanes * kLanes];
  std::memcpy(results, sums, sizeof results);
  for (int32_t r = 0; r < Rows; ++r) {
    for (int32_t c = 0; c < Columns; ++c) {
      const T bias = args.bias ? args.bias[column + c] : T{0};
      args.outputs[(row + r) * args.num_outputs + column + c] = results[r * Columns + c] + bias;
    }
  }
}

template <typename T, int32_t Bytes, int32_t Rows, int32_t Columns>
GREATER_FAST_INLINE void column_of_tiles(const LinearArgs<T>& args, int64_t row, int64_t stop,
                                         int64_t column) {
  const int64_t num_tiles = std::max<int64_t>((stop - row) / Rows, 1);
  const int64_t share = (Columns + num_tiles - 1) / num_tiles;  // as even as can be
  const int64_t last = std::min(column + 2 * Columns, args.num_outputs);
  int64_t ahead = column + Columns;
  for (; row + Rows <= stop; row += Rows) {
    const int64_t ahead_stop = std::min(ahead + share, last);
    tile<T, Bytes, Rows, Columns>(args, row, column, ahead, ahead_stop);
    ahead = ahead_stop;
  }
  if constexpr (Rows > 1) {
    if (row < stop) column_of_tiles<T, Bytes, Rows / 2, Columns>(args, row, stop, column);
  }
}

// Columns [first, last) of all outputs.
template <typename T, int32_t Bytes, int32_t Rows, int32_t Columns>
GREATER_FAST_INLINE void columns(const LinearArgs<T>& args, int64_t first, int64_t last) {
  const int64_t row_bytes = args.num_inputs * static_cast<int64_t>(sizeof(T));
  const int64_t chunk = std::max<int64_t>(Rows, kChunkBytes / row_bytes / Rows * Rows);
  for (int64_t row = 0; row < args.num_rows; row += chunk) {
    const int64_t stop = std::min(row + chunk, args.num_rows);
    int64_t column = first;
    for (; column + Columns <= last; column += Columns) {
      column_of_tiles<T, Bytes, Rows, Columns>(args, row, stop, column);
    }
    for (; column < last; ++column) column_of_tiles<T, Bytes, Rows, 1>(args, row, stop, column);
  }
}

template <typename T>
void portable(const LinearArgs<T>& args, int64_t first, int64_t last) {
  columns<T, 16, 4, 2>(args, first, last);
}

template <typename T>
GREATER_FAST_AVX2 void avx2(const LinearArgs<T>& args, int64_t first, int64_t last) {
  columns<T, 32, 3, 4>(args, first, last);
}

template <typename T>
GREATER_FAST_AVX512 void avx512(const LinearArgs<T>& args, int64_t first, int64_t last) {
  columns<T, 64, 4, 6>(args, first, last);
}

}  // namespace

template <typename T>
void linear_columns(const LinearArgs<T>& args, int64_t first, int64_t last) {
  const int32_t bytes = vector_bytes();
  const auto kernel = bytes == 64 ? avx512<T> : bytes == 32 ? avx2<T> : portable<T>;
  kernel(args, first, last);
}

template <typename T>
void linears(const std::vector<LinearArgs<T>>& layers) {
#pragma omp parallel
  linears_within(layers);
}

// The blocks of all layers are one list: no thread waits at the end of a layer. They are handed out
// as threads come for them, since another process may hold one up.
template <typename T>
void linears_within(const std::vector<LinearArgs<T>>& layers) {
  int64_t num_blocks = 0;
  for (const LinearArgs<T>& layer : layers) num_blocks += num_column_blocks(layer.num_outputs);
#pragma omp for schedule(dynamic)
  for (int64_t number = 0; number < num_blocks; ++number) {
    const LinearArgs<T>* layer = layers.data();
    int64_t block = number;
    for (; block >= num_column_blocks(layer->num_outputs); ++layer) {
      block -= num_column_blocks(layer->num_outputs);
    }
    const int64_t first = block * kLinearColumns;
    linear_columns(*layer, first, std::min(first + kLinearColumns, layer->num_outputs));
  }
}

template <typename T>
void linears_backward(const std::vector<ProductArgs<T>>& layers) {
  const int64_t width = layers.front().width;
  const int64_t num_blocks = (width + kProductColumns - 1) / kProductColumns;
#pragma omp parallel for schedule(dynamic)
  for (int64_t block = 0; block < num_blocks; ++block) {
    const int64_t first = block * kProductColumns;
    for (const ProductArgs<T>& layer : layers) {
      product(layer, first, std::min(first + kProductColumns, width));
    }
  }
}

template void linear_columns<float>(const LinearArgs<float>&, int64_t, int64_t);
template void linear_columns<double>(const LinearArgs<double>&, int64_t, int64_t);
template void linears<float>(const std::vector<LinearArgs<float>>&);
template void linears<double>(const std::vector<LinearArgs<double>>&);
template void linears_within<float>(const std::vector<LinearArgs<float>>&);
template void linears_within<double>(const std::vector<LinearArgs<double>>&);
template void linears_backward<float>(const std::vector<ProductArgs<float>>&);
template void linears_backward<double>(const std::vector<ProductArgs<double>>&);

}  // namespace greater_fast
