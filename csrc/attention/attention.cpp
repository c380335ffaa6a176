#include "attention/attention.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "math/simd.h"
#include "math/softmax.h"

namespace greater_fast {

namespace {

constexpr int32_t kTileRows = 4;
constexpr int32_t kAhead = 16;  // keys
constexpr int32_t kTaskRows = 32;

// Rows (query, head of the group) [first_row, last_row) of one sequence and K/V head.
struct Task {
  int32_t sequence;
  int32_t kv_head;
  int32_t first_row;
  int32_t last_row;
};

// The row's place among the keys: it sees [first_key, stop_key).
template <typename T>
struct Row {
  const T* query;
  T* output;
  int32_t first_key;
  int32_t stop_key;
};

// Scores of a few rows for the keys that any of them sees, [first, stop). `places` say where a
// key's state begins, among those of the keys and of the values alike.
template <typename T>
struct Tile {
  T* scores;
  int32_t stride;
  const int64_t* places;
  int32_t first;
  int32_t stop;
};

// Fetch a key's state from memory: blocks lie anywhere, and the hardware follows none to the next.
template <typename T>
GREATER_FAST_INLINE void fetch(const AttentionArgs<T>& args, const T* states, const Tile<T>& tile,
                               int32_t key) {
  if (key >= tile.stop) return;
  const T* const state = states + tile.places[key];
  constexpr int32_t kLine = 64 / sizeof(T);
  for (int32_t d = 0; d < args.head_size; d += kLine) __builtin_prefetch(state + d, 0, 2);
}

// scores[r][key] = query_r · key for the keys [first, stop), a few keys at a time.
template <typename T, int32_t Bytes, int32_t R>
GREATER_FAST_INLINE void score_keys(const AttentionArgs<T>& args, const Row<T>* rows,
                                    const Tile<T>& tile) {
  using V = typename VectorOf<T, Bytes>::type;
  constexpr int32_t kLanes = Bytes / sizeof(T);
  constexpr int32_t kKeys = Bytes == 64 ? 4 : 2;
  const int32_t whole = args.head_size / kLanes * kLanes;
  const int32_t rest = args.head_size - whole;
  for (int32_t key = tile.first; key < tile.stop; key += kKeys) {
    const T* keys[kKeys];
    for (int32_t j = 0; j < kKeys; ++j) {
      keys[j] = args.keys + tile.places[std::min(key + j, tile.stop - 1)];
      fetch(args, args.keys, tile, key + j + kAhead);
      fetch(args, args.values, tile, key + j);
    }
    V sums[R * kKeys] = {};
    V queries[R];
    V k;
    for (int32_t d = 0; d < whole; d += kLanes) {
      for (int32_t r = 0; r < R; ++r) load(queries[r], rows[r].query + d);
      for (int32_t j = 0; j < kKeys; ++j) {
        load(k, keys[j] + d);
        for (int32_t r = 0; r < R; ++r) sums[r * kKeys + j] += queries[r] * k;
      }
    }
    if (rest > 0) {
      for (int32_t r = 0; r < R; ++r) load_part(queries[r], rows[r].query + whole, rest);
      for (int32_t j = 0; j < kKeys; ++j) {
        load_part(k, keys[j] + whole, rest);
        for (int32_t r = 0; r < R; ++r) sums[r * kKeys + j] += queries[r] * k;
      }
    }
    fold<T, Bytes, R * kKeys>(sums);
    T results[(R * kKeys + kLanes - 1) / kLanes * kLanes];
    std::memcpy(results, sums, sizeof results);
    const int32_t count = std::min(kKeys, tile.stop - key);
    for (int32_t r = 0; r < R; ++r) {
      T* const scores = tile.scores + r * tile.stride + key - tile.first;
      for (int32_t j = 0; j < count; ++j) scores[j] = results[r * kKeys + j];
    }
  }
}

// Components [from, from + count) of output_r = sum of weight * value over the keys of the tile;
// `count` is that of `Vectors` whole vectors, or less than one.
template <typename T, int32_t Bytes, int32_t R, int32_t Vectors>
GREATER_FAST_INLINE void sum_values(const AttentionArgs<T>& args, const Row<T>* rows,
                                    const Tile<T>& tile, int32_t from, int32_t count) {
  using V = typename VectorOf<T, Bytes>::type;
  constexpr int32_t kLanes = Bytes / sizeof(T);
  V sums[R * Vectors] = {};
  for (int32_t key = tile.first; key < tile.stop; ++key) {
    const T* const value = args.values + tile.places[key] + from;
    V values[Vectors];
    if (count < kLanes) {
      load_part(values[0], value, count);
    } else {
      for (int32_t i = 0; i < Vectors; ++i) load(values[i], value + i * kLanes);
    }
    for (int32_t r = 0; r < R; ++r) {
      const T weight = tile.scores[r * tile.stride + key - tile.first];
      for (int32_t i = 0; i < Vectors; ++i) sums[r * Vectors + i] += weight * values[i];
    }
  }
  for (int32_t r = 0; r < R; ++r) {
    std::memcpy(rows[r].output + from, sums + r * Vectors, count * sizeof(T));
  }
}

template <typename T, int32_t Bytes, int32_t R>
GREATER_FAST_INLINE void sum_all_values(const AttentionArgs<T>& args, const Row<T>* rows,
                                        const Tile<T>& tile) {
  constexpr int32_t kLanes = Bytes / sizeof(T);
  constexpr int32_t kVectors = Bytes == 64 ? 4 : 2;
  int32_t d = 0;
  for (; d + kVectors * kLanes <= args.head_size; d += kVectors * kLanes) {
    sum_values<T, Bytes, R, kVectors>(args, rows, tile, d, kVectors * kLanes);
  }
  for (; d + kLanes <= args.head_size; d += kLanes) {
    sum_values<T, Bytes, R, 1>(args, rows, tile, d, kLanes);
  }
  if (d < args.head_size) {
    sum_values<T, Bytes, R, 1>(args, rows, tile, d, args.head_size - d);
  }
}

// Where the states of a sequence's keys [first, stop) begin, of one K/V head.
template <typename T>
GREATER_FAST_INLINE void find_states(const AttentionArgs<T>& args, const Task& task, int32_t first,
                                     int32_t stop, int64_t* places) {
  const int32_t* const table = args.block_tables + int64_t{task.sequence} * args.table_width;
  const int32_t size = args.block_size;
  for (int32_t number = first / size; number * size < stop; ++number) {
    const int64_t block = int64_t{table[number]} * args.num_kv_heads + task.kv_head;
    const int64_t start = block * size * args.head_size;
    const int32_t count = std::min(size, stop - number * size);
    for (int32_t i = 0; i < count; ++i) places[number * size + i] = start + i * args.head_size;
  }
}

// What a thread works with: numbers for as many keys as the longest sequence has.
template <typename T>
struct Workspace {
  T* scores;  // [kTileRows, longest]
  int64_t* places;
  int32_t longest;
};

template <typename T, int32_t Bytes>
GREATER_FAST_INLINE void attend(const AttentionArgs<T>& args, const Task& task,
                                const Workspace<T>& work) {
  const int32_t group = args.num_heads / args.num_kv_heads;
  const int32_t start = args.query_starts[task.sequence];
  const int32_t num_queries = args.query_starts[task.sequence + 1] - start;
  const int32_t before = args.context_lens[task.sequence] - num_queries;
  const auto stop_of = [&](int32_t row) { return before + row / group + 1; };
  const auto first_of = [&](int32_t row) {
    return args.window > 0 ? std::max(0, stop_of(row) - args.window) : 0;
  };
  find_states(args, task, first_of(task.first_row), stop_of(task.last_row - 1), work.places);
  for (int32_t row = task.first_row; row < task.last_row; row += kTileRows) {
    const int32_t count = std::min(kTileRows, task.last_row - row);
    Row<T> rows[kTileRows];
    Tile<T> tile{work.scores, work.longest, work.places, args.context_lens[task.sequence], 0};
    for (int32_t r = 0; r < count; ++r) {
      const int32_t query = (row + r) / group;
      const int64_t head =
          int64_t{start + query} * args.num_heads + task.kv_head * group + (row + r) % group;
      rows[r] = {args.queries + head * args.head_size, args.output + head * args.head_size,
                 first_of(row + r), stop_of(row + r)};
      tile.first = std::min(tile.first, rows[r].first_key);
      tile.stop = std::max(tile.stop, rows[r].stop_key);
    }
    switch (count) {
      case 1:
        score_keys<T, Bytes, 1>(args, rows, tile);
        break;
      case 2:
        score_keys<T, Bytes, 2>(args, rows, tile);
        break;
      case 3:
        score_keys<T, Bytes, 3>(args, rows, tile);
        break;
      default:
        score_keys<T, Bytes, 4>(args, rows, tile);
        break;
    }
    // One loop for all sizes of a tile: the same instructions, and so the same bits.
    for (int32_t r = 0; r < count; ++r) {
      softmax(
          {args.scale, args.soft_cap}, tile.scores + r * tile.stride,
          {rows[r].first_key - tile.first, rows[r].stop_key - tile.first, tile.stop - tile.first});
    }
    switch (count) {
      case 1:
        sum_all_values<T, Bytes, 1>(args, rows, tile);
        break;
      case 2:
        sum_all_values<T, Bytes, 2>(args, rows, tile);
        break;
      case 3:
        sum_all_values<T, Bytes, 3>(args, rows, tile);
        break;
      default:
        sum_all_values<T, Bytes, 4>(args, rows, tile);
        break;
    }
  }
}

template <typename T>
void portable(const AttentionArgs<T>& args, const Task& task, const Workspace<T>& work) {
  attend<T, 16>(args, task, work);
}

template <typename T>
GREATER_FAST_AVX2 void avx2(const AttentionArgs<T>& args, const Task& task,
                            const Workspace<T>& work) {
  attend<T, 32>(args, task, work);
}

template <typename T>
GREATER_FAST_AVX512 void avx512(const AttentionArgs<T>& args, const Task& task,
                                const Workspace<T>& work) {
  attend<T, 64>(args, task, work);
}

// Write a token's new states into its slot. Block 0 is for padding: nobody reads it, and several
// tokens may have a slot there.
template <typename T>
void store(const AttentionArgs<T>& args, int32_t token) {
  const int64_t block = args.slots[token] / args.block_size;
  const int64_t offset = args.slots[token] % args.block_size;
  if (block == 0) return;
  for (int64_t head = 0; head < args.num_kv_heads; ++head) {
    const int64_t to =
        ((block * args.num_kv_heads + head) * args.block_size + offset) * args.head_size;
    const int64_t from = (int64_t{token} * args.num_kv_heads + head) * args.head_size;
    std::copy_n(args.new_keys + from, args.head_size, args.keys + to);
    std::copy_n(args.new_values + from, args.head_size, args.values + to);
  }
}

}  // namespace

template <typename T>
void paged_attention(const AttentionArgs<T>& args) {
  const int32_t bytes = vector_bytes();
  const auto attend_task = bytes == 64 ? avx512<T> : bytes == 32 ? avx2<T> : portable<T>;
  const int32_t group = args.num_heads / args.num_kv_heads;
  std::vector<Task> tasks;
  int32_t longest = 1;
  for (int32_t b = 0; b < args.num_sequences; ++b) {
    const int32_t num_rows = (args.query_starts[b + 1] - args.query_starts[b]) * group;
    longest = std::max(longest, args.context_lens[b]);
    for (int32_t head = 0; head < args.num_kv_heads; ++head) {
      for (int32_t row = 0; row < num_rows; row += kTaskRows) {
        tasks.push_back({b, head, row, std::min(row + kTaskRows, num_rows)});
      }
    }
  }
  const int64_t width = int64_t{args.num_heads} * args.head_size;
  const int32_t num_queries = args.query_starts[args.num_sequences];
  std::fill(args.output + num_queries * width, args.output + args.num_tokens * width, T{0});
  // Made here: a thread must not throw.
  const int32_t num_threads = omp_get_max_threads();
  const std::unique_ptr<T[]> scores(new T[num_threads * int64_t{kTileRows} * longest]);
  const std::unique_ptr<int64_t[]> places(new int64_t[num_threads * int64_t{longest}]);
#pragma omp parallel num_threads(num_threads)
  {
#pragma omp for schedule(static)
    for (int32_t token = 0; token < args.num_tokens; ++token) store(args, token);
    const int64_t thread = omp_get_thread_num();
    const Workspace<T> work{scores.get() + thread * kTileRows * longest,
                            places.get() + thread * longest, longest};
#pragma omp for schedule(dynamic)
    for (size_t i = 0; i < tasks.size(); ++i) attend_task(args, tasks[i], work);
  }
}

template void paged_attention<float>(const AttentionArgs<float>&);
template void paged_attention<double>(const AttentionArgs<double>&);

}  // namespace greater_fast
