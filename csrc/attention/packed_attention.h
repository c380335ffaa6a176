// Causal attention over examples that are packed into one row, each behind a prefix whose keys and
// values are constants, and its gradient; on the CPU.
#pragma once

#include <cstdint>
#include <vector>

namespace greater_fast {

// Rows [start, stop) of the packed row, behind `prefix_len` tokens whose states are in blocks.
template <typename T>
struct PackedSegment {
  int64_t start, stop;
  int64_t prefix_len;
  const T* prefix_keys;    // [num_blocks, KV, block_size, D]
  const T* prefix_values;  // [num_blocks, KV, block_size, D]
  std::vector<int64_t> block_ids;
  int64_t block_size;
};

// T is float or double, and so is the arithmetic. A token sees its prefix and the tokens of its
// segment up to itself, at most `window` keys of these (0: all).
template <typename T>
struct PackedAttentionArgs {
  const T* queries;  // [M, H, D]
  const T* keys;     // [M, KV, D]
  const T* values;   // [M, KV, D]
  std::vector<PackedSegment<T>> segments;
  int64_t num_tokens;    // M
  int64_t num_heads;     // H
  int64_t num_kv_heads;  // KV, a divisor of H
  int64_t head_size;     // D
  int64_t window;
  T scale;     // of query · key
  T soft_cap;  // c of c tanh(x / c), 0 for none
};

// outputs [M, H, D]; rows outside every segment stay as they are.
template <typename T>
void packed_attention(const PackedAttentionArgs<T>& args, T* outputs);

// By queries [M, H, D], and by keys and values [M, KV, D].
template <typename T>
struct PackedAttentionGradients {
  T* queries;
  T* keys;
  T* values;
};

// Gradients of a sum whose gradient by the outputs is `output_gradients` [M, H, D]. The weights are
// made again.
template <typename T>
void packed_attention_backward(const PackedAttentionArgs<T>& args, const T* output_gradients,
                               const PackedAttentionGradients<T>& gradients);

}  // namespace greater_fast
