#include "math/product.h"

#include <algorithm>

#include "math/simd.h"

namespace greater_fast {

namespace {

// Every output is a sum along K in one order, whatever tile it lies in: rows of the right matrix,
// each times a number of the left one.
constexpr int64_t kDepth = 768;  // rows on the right, of a few columns, that stay in the cache

// Rows [first, last) on the right, and as many that are read after these (or null). Tile `number`
// of `num_tiles` fetches its share of those from memory: they are short pieces of rows, which the
// hardware does not see coming.
template <typename T>
struct Depth {
  int64_t first, last;
  const T* next;
  int64_t number, num_tiles;
};

// Add what a part of the depth gives to the outputs of a tile at (row, column).
template <typename T, int32_t Bytes, int32_t Rows, int32_t Vectors>
GREATER_FAST_INLINE void tile(const ProductArgs<T>& args, int64_t row, int64_t column,
                              const Depth<T>& depth) {
  using V = typename VectorOf<T, Bytes>::type;
  constexpr int32_t kLanes = Bytes / sizeof(T);
  const T* const left = args.left.from(row).data;
  const T* right = args.right.from(depth.first, column).data;
  T* const outputs = args.outputs.from(row, column).data;
  const int64_t lanes = Vectors == 1 ? std::min<int64_t>(args.width - column, kLanes) : kLanes;
  V sums[Rows * Vectors] = {};
  int64_t until_fetch = depth.next ? depth.number : depth.last;
  for (int64_t k = depth.first; k < depth.last; ++k, right += args.right.stride) {
    if (--until_fetch < 0) {
      until_fetch = depth.num_tiles - 1;
      const T* const row_ahead = depth.next + (k - depth.first) * args.right.stride;
      for (int32_t v = 0; v < Vectors; ++v) __builtin_prefetch(row_ahead + v * kLanes, 0, 2);
    }
    V terms[Vectors];
    for (int32_t v = 0; v < Vectors; ++v) load_first(terms[v], right + v * kLanes, lanes);
    for (int32_t r = 0; r < Rows; ++r) {
      const T factor = left[r * args.left.stride + k];
      for (int32_t v = 0; v < Vectors; ++v) sums[r * Vectors + v] += terms[v] * factor;
    }
  }
  if (depth.first > 0 || args.accumulate) {  // part by part: less is rounded away
    for (int32_t i = 0; i < Rows * Vectors; ++i) {
      V before;
      load_first(before, outputs + i / Vectors * args.outputs.stride + i % Vectors * kLanes, lanes);
      sums[i] += before;
    }
  }
  for (int32_t i = 0; i < Rows * Vectors; ++i) {
    std::memcpy(outputs + i / Vectors * args.outputs.stride + i % Vectors * kLanes, &sums[i],
                lanes * sizeof(T));
  }
}

template <typename T, int32_t Bytes, int32_t Rows, int32_t Vectors>
GREATER_FAST_INLINE void column_of_tiles(const ProductArgs<T>& args, int64_t row, int64_t column,
                                         Depth<T>& depth) {
  for (; row + Rows <= args.num_rows; row += Rows, ++depth.number) {
    tile<T, Bytes, Rows, Vectors>(args, row, column, depth);
  }
  if constexpr (Rows > 1) {
    if (row < args.num_rows) {
      column_of_tiles<T, Bytes, Rows / 2, Vectors>(args, row, column, depth);
    }
  }
}

// Outputs of `Vectors` vectors of columns, all rows.
template <typename T, int32_t Bytes, int32_t Rows, int32_t Vectors>
GREATER_FAST_INLINE void columns(const ProductArgs<T>& args, int64_t column) {
  constexpr int64_t kWidth = Vectors * Bytes / sizeof(T);
  Depth<T> depth{};
  depth.num_tiles = std::max<int64_t>(args.num_rows / Rows, 1);
  for (; depth.first < args.depth; depth.first = depth.last) {
    depth.last = std::min(depth.first + kDepth, args.depth);
    depth.next = nullptr;
    if (depth.last + kDepth <= args.depth) {
      depth.next = args.right.from(depth.last, column).data;
    } else if (depth.last == args.depth && column + 2 * kWidth <= args.width) {
      depth.next = args.right.from(0, column + kWidth).data;  // likely the same thread's
    }
    depth.number = 0;
    column_of_tiles<T, Bytes, Rows, Vectors>(args, 0, column, depth);
  }
}

// Three vectors at a time, or what is left; `Tiles` is the number of vectors that a tile sums up.
template <typename T, int32_t Bytes, int32_t Tiles>
GREATER_FAST_INLINE void columns_between(const ProductArgs<T>& args, int64_t first, int64_t last) {
  constexpr int32_t kLanes = Bytes / sizeof(T);
  for (int64_t column = first; column < last;) {
    const int64_t whole = (last - column) / kLanes;
    if (whole == 4) {
      columns<T, Bytes, Tiles / 4, 4>(args, column);
      column += 4 * kLanes;
    } else if (whole >= 3) {
      columns<T, Bytes, Tiles / 3, 3>(args, column);
      column += 3 * kLanes;
    } else if (whole == 2) {
      columns<T, Bytes, Tiles / 3, 2>(args, column);
      column += 2 * kLanes;
    } else {
      columns<T, Bytes, Tiles / 3, 1>(args, column);
      column += kLanes;
    }
  }
}

template <typename T>
void portable(const ProductArgs<T>& args, int64_t first, int64_t last) {
  columns_between<T, 16, 12>(args, first, last);
}

template <typename T>
GREATER_FAST_AVX2 void avx2(const ProductArgs<T>& args, int64_t first, int64_t last) {
  columns_between<T, 32, 12>(args, first, last);
}

template <typename T>
GREATER_FAST_AVX512 void avx512(const ProductArgs<T>& args, int64_t first, int64_t last) {
  columns_between<T, 64, 24>(args, first, last);
}

}  // namespace

template <typename T>
void product(const ProductArgs<T>& args, int64_t first, int64_t last) {
  const int32_t bytes = vector_bytes();
  const auto kernel = bytes == 64 ? avx512<T> : bytes == 32 ? avx2<T> : portable<T>;
  kernel(args, first, last);
}

template void product<float>(const ProductArgs<float>&, int64_t, int64_t);
template void product<double>(const ProductArgs<double>&, int64_t, int64_t);

}  // namespace greater_fast
