// Attention of one head of one packed segment, and its gradient, on one thread. The loops
// over numbers are inlined into functions that were compiled for an instruction set.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention/packed_attention.h"
#include "math/product.h"
#include "math/simd.h"
#include "math/softmax.h"

namespace greater_fast::packed_head {

inline constexpr int64_t kQueries = 48;  // of a block; keys behind its last query are left out

// One head of one segment: its prefix and its own tokens.
template <typename T>
struct Head {
  const PackedAttentionArgs<T>& args;
  const PackedSegment<T>& segment;
  int64_t head;

  int64_t kv_head() const { return head / (args.num_heads / args.num_kv_heads); }
  int64_t num_own() const { return segment.stop - segment.start; }

  // A head's rows of the segment, from one of [M, heads, D].
  template <typename State>
  Matrix<State> own(State* states, int64_t num_heads, int64_t which) const {
    return {states + (segment.start * num_heads + which) * args.head_size,
            num_heads * args.head_size};
  }
  Matrix<const T> queries() const { return own(args.queries, args.num_heads, head); }
  Matrix<const T> own_keys() const { return own(args.keys, args.num_kv_heads, kv_head()); }
  Matrix<const T> own_values() const { return own(args.values, args.num_kv_heads, kv_head()); }

  // The head's states of the prefix, from blocks to [prefix_len, D].
  void gather(const T* blocks, Matrix<T> to) const {
    const int64_t block_floats = segment.block_size * args.head_size;
    for (int64_t first = 0; first < segment.prefix_len; first += segment.block_size) {
      const int64_t block = segment.block_ids[first / segment.block_size];
      const int64_t count = std::min(segment.block_size, segment.prefix_len - first);
      std::copy_n(blocks + (block * args.num_kv_heads + kv_head()) * block_floats,
                  count * args.head_size, to.from(first).data);
    }
  }
};

// What a thread works with; L is that of the longest segment.
template <typename T>
struct Workspace {
  Matrix<T> prefix_keys, prefix_values;  // [L, D]
  Matrix<T> turned_keys, turned_values;  // [D, L]
  Matrix<T> weights, weight_gradients;   // [kQueries, L]
  T* turned;                             // [L, kQueries]
  T* slopes;                             // [L]

  Workspace(T* data, int64_t size, int64_t longest)
      : prefix_keys{data, size},
        prefix_values{prefix_keys.from(longest).data, size},
        turned_keys{prefix_values.from(longest).data, longest},
        turned_values{turned_keys.from(size).data, longest},
        weights{turned_values.from(size).data, longest},
        weight_gradients{weights.from(kQueries).data, longest},
        turned(weight_gradients.from(kQueries).data),
        slopes(turned + kQueries * longest) {}
  static int64_t num_needed(int64_t size, int64_t longest) {
    return (4 * size + 3 * kQueries + 1) * longest;
  }
};

// to [columns, rows] = from [rows, columns] turned.
template <typename T>
GREATER_FAST_INLINE void turn(Matrix<const T> from, int64_t num_rows, int64_t num_columns,
                              Matrix<T> to) {
  constexpr int64_t kSide = 16;
  for (int64_t row = 0; row < num_rows; row += kSide) {
    const int64_t stop = std::min(row + kSide, num_rows);
    for (int64_t column = 0; column < num_columns; ++column) {
      for (int64_t i = row; i < stop; ++i) {
        to.data[column * to.stride + i] = from.data[i * from.stride + column];
      }
    }
  }
}

template <typename T>
Matrix<const T> constant(Matrix<T> matrix) {
  return {matrix.data, matrix.stride};
}

// [D, L] of a head's keys or values: the prefix's, then its own.
template <typename T>
GREATER_FAST_INLINE void turn_states(const Head<T>& at, Matrix<T> before, Matrix<const T> own,
                                     Matrix<T> to) {
  const int64_t size = at.args.head_size;
  turn(constant(before), at.segment.prefix_len, size, to);
  turn(own, at.num_own(), size, to.from(0, at.segment.prefix_len));
}

// outputs [rows, D] = weights [rows, num_keys] times a head's keys or values.
template <typename T>
void weigh(const Head<T>& at, Matrix<const T> weights, int64_t num_rows, int64_t num_keys,
           Matrix<T> before, Matrix<const T> own, Matrix<T> outputs) {
  const int64_t size = at.args.head_size, prefix = at.segment.prefix_len;
  if (prefix > 0) {
    product<T>({weights, constant(before), outputs, num_rows, prefix, size, false}, 0, size);
  }
  product<T>({weights.from(0, prefix), own, outputs, num_rows, num_keys - prefix, size, prefix > 0},
             0, size);
}

// Queries [first, stop) of a head, which see its first `num_keys` keys.
struct Block {
  int64_t first, stop, num_keys;
  int64_t num_queries() const { return stop - first; }
};

template <typename T>
Block block_at(const Head<T>& at, int64_t first) {
  const int64_t stop = std::min(first + kQueries, at.num_own());
  return {first, stop, at.segment.prefix_len + stop};
}

// The weights [queries, keys] of a block, from its products with the keys; `each` is called with
// every row's number, and the range of keys it sees, when it is done.
template <typename T, typename Each>
GREATER_FAST_INLINE void weigh_keys(const Head<T>& at, const Block& block, const Workspace<T>& work,
                                    T* slopes, const Each& each) {
  product<T>({at.queries().from(block.first), constant(work.turned_keys), work.weights,
              block.num_queries(), at.args.head_size, block.num_keys, false},
             0, block.num_keys);
  for (int64_t i = 0; i < block.num_queries(); ++i) {
    const int64_t stop = at.segment.prefix_len + block.first + i + 1;
    const int64_t first = at.args.window > 0 ? std::max<int64_t>(0, stop - at.args.window) : 0;
    softmax({at.args.scale, at.args.soft_cap}, work.weights.from(i).data,
            {first, stop, block.num_keys}, slopes);
    each(i, first, stop);
  }
}

// The prefix's states, and all keys turned.
template <typename T>
GREATER_FAST_INLINE void read_prefix(const Head<T>& at, const Workspace<T>& work) {
  at.gather(at.segment.prefix_keys, work.prefix_keys);
  at.gather(at.segment.prefix_values, work.prefix_values);
  turn_states(at, work.prefix_keys, at.own_keys(), work.turned_keys);
}

template <typename T>
GREATER_FAST_INLINE void forward(const Head<T>& at, const Workspace<T>& work, T* outputs) {
  read_prefix(at, work);
  const Matrix<T> own_outputs = at.own(outputs, at.args.num_heads, at.head);
  for (int64_t first = 0; first < at.num_own(); first += kQueries) {
    const Block block = block_at(at, first);
    weigh_keys<T>(at, block, work, nullptr, [](int64_t, int64_t, int64_t) {});
    weigh(at, constant(work.weights), block.num_queries(), block.num_keys, work.prefix_values,
          at.own_values(), own_outputs.from(first));
  }
}

// Gradients of keys and values are [M, H, D] here: each head has its own.
template <typename T>
GREATER_FAST_INLINE void backward(const Head<T>& at, const Workspace<T>& work,
                                  const T* output_gradients,
                                  const PackedAttentionGradients<T>& gradients) {
  const int64_t size = at.args.head_size, prefix = at.segment.prefix_len;
  const int64_t heads = at.args.num_heads;
  read_prefix(at, work);
  turn_states(at, work.prefix_values, at.own_values(), work.turned_values);
  const Matrix<const T> by_outputs = at.own(output_gradients, heads, at.head);
  const Matrix<T> by_queries = at.own(gradients.queries, heads, at.head);
  const Matrix<T> by_keys = at.own(gradients.keys, heads, at.head);
  const Matrix<T> by_values = at.own(gradients.values, heads, at.head);
  for (int64_t i = 0; i < at.num_own(); ++i) {
    std::fill_n(by_keys.from(i).data, size, T{0});
    std::fill_n(by_values.from(i).data, size, T{0});
  }
  for (int64_t first = 0; first < at.num_own(); first += kQueries) {
    const Block block = block_at(at, first);
    const int64_t num_queries = block.num_queries(), num_keys = block.num_keys;
    product<T>({by_outputs.from(first), constant(work.turned_values), work.weight_gradients,
                num_queries, size, num_keys, false},
               0, num_keys);
    weigh_keys<T>(at, block, work, work.slopes, [&](int64_t i, int64_t seen, int64_t stop) {
      const T* const weights = work.weights.from(i).data;
      T* const row = work.weight_gradients.from(i).data;
      const T mean =
          sum_in_parts(stop - seen, [&](int64_t j) { return weights[seen + j] * row[seen + j]; });
      for (int64_t j = seen; j < stop; ++j) row[j] = weights[j] * (row[j] - mean) * at.args.scale;
      if (at.args.soft_cap > 0) {
        for (int64_t j = seen; j < stop; ++j) row[j] *= work.slopes[j];
      }
      std::fill(row, row + seen, T{0});
      std::fill(row + stop, row + num_keys, T{0});
    });
    const Matrix<const T> weights = constant(work.weights);
    const Matrix<const T> by_scores = constant(work.weight_gradients);
    weigh(at, by_scores, num_queries, num_keys, work.prefix_keys, at.own_keys(),
          by_queries.from(first));
    const Matrix<T> turned{work.turned, num_queries};
    const int64_t num_own = num_keys - prefix;
    turn(weights.from(0, prefix), num_queries, num_own, turned);
    product<T>(
        {constant(turned), by_outputs.from(first), by_values, num_own, num_queries, size, true}, 0,
        size);
    turn(by_scores.from(0, prefix), num_queries, num_own, turned);
    product<T>(
        {constant(turned), at.queries().from(first), by_keys, num_own, num_queries, size, true}, 0,
        size);
  }
}

}  // namespace greater_fast::packed_head
