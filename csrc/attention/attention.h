// Causal attention of ragged queries over a paged K/V cache, on the CPU.
#pragma once

#include <cstdint>

namespace greater_fast {

// One layer's attention of one step; T is float or double, and so is the arithmetic. The new keys
// and values go to their slots first, but for those of block 0, which is for padding. Then query i
// of sequence b, at position context_lens[b] - (query_starts[b + 1] - query_starts[b]) + i, sees
// the keys up to its own, at most `window` of them (0: all).
template <typename T>
struct AttentionArgs {
  const T* queries;             // [M, H, D]
  const T* new_keys;            // [M, KV, D]
  const T* new_values;          // [M, KV, D]
  T* keys;                      // [num_blocks, KV, block_size, D]
  T* values;                    // [num_blocks, KV, block_size, D]
  T* output;                    // [M, H, D]; rows outside every sequence become 0
  const int32_t* slots;         // [M] block * block_size + offset; all differ, but in block 0
  const int32_t* query_starts;  // [B + 1]
  const int32_t* context_lens;  // [B]
  const int32_t* block_tables;  // [B, table_width]
  int32_t num_tokens;           // M
  int32_t num_sequences;        // B
  int32_t table_width;
  int32_t num_heads;     // H
  int32_t num_kv_heads;  // KV, a divisor of H
  int32_t head_size;     // D, at most 512
  int32_t block_size;
  int32_t window;
  T scale;     // of query · key
  T soft_cap;  // c of c tanh(x / c), 0 for none
};

inline constexpr int32_t kMaxHeadSize = 512;

// A row's result is a function of its own query and keys alone, the same bits in any batch, where
// all states are finite: rows of one sequence are computed over the keys of each other, with weight
// 0.
template <typename T>
void paged_attention(const AttentionArgs<T>& args);

}  // namespace greater_fast
