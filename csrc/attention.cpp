#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

// One copy of a function for each instruction set, chosen when the library is loaded, where the
// compiler can do that (the build asks it).
#if defined(GREATER_FAST_HAS_CLONES)
#define GREATER_FAST_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define GREATER_FAST_CLONES
#endif
#define GREATER_FAST_INLINE inline __attribute__((always_inline))

namespace greater_fast {

namespace {

// Sums run in kLanes parallel parts, always in the same order: vectors without fast-math.
constexpr int32_t kLanes = 16;
constexpr int32_t kValueLanes = 32;
constexpr int32_t kTileRows = 4;
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

// exp(x) for x <= 0, to 2 units in the last place: 2^n e^r with |r| <= ln(2) / 2.
GREATER_FAST_INLINE float exponential(float x) {
  x = std::max(x, -87.0f);
  const float shifted = x * 1.44269504f + 12582912.0f;  // rounds to n in the low bits
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 23) + 0x3f800000u;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

GREATER_FAST_INLINE double exponential(double x) { return std::exp(x); }

template <typename T>
GREATER_FAST_INLINE T sum_lanes(const T* lanes) {
  T total = 0;
  for (int32_t i = 0; i < kLanes; ++i) total += lanes[i];
  return total;
}

// scores[r][key] = scale query_r · key for the keys [first, stop).
template <typename T, int32_t R>
GREATER_FAST_INLINE void score_keys(const AttentionArgs<T>& args, const Task& task,
                                    const Row<T>* rows, int32_t first, int32_t stop, T* scores,
                                    int32_t stride) {
  const int32_t* table = args.block_tables + int64_t{task.sequence} * args.table_width;
  const int32_t whole = args.head_size / kLanes * kLanes;
  for (int32_t key = first; key < stop; ++key) {
    const int64_t block = table[key / args.block_size];
    const T* k = args.keys + ((block * args.num_kv_heads + task.kv_head) * args.block_size +
                              key % args.block_size) *
                                 args.head_size;
    T lanes[R][kLanes] = {};
    for (int32_t d = 0; d < whole; d += kLanes) {
      for (int32_t r = 0; r < R; ++r) {
        for (int32_t i = 0; i < kLanes; ++i) lanes[r][i] += rows[r].query[d + i] * k[d + i];
      }
    }
    for (int32_t r = 0; r < R; ++r) {
      for (int32_t d = whole; d < args.head_size; ++d) {
        lanes[r][d - whole] += rows[r].query[d] * k[d];
      }
      scores[r * stride + key - first] = sum_lanes(lanes[r]) * args.scale;
    }
  }
}

// Turn a row's scores into weights that sum to 1; keys it does not see get 0.
template <typename T>
GREATER_FAST_INLINE void normalise(const AttentionArgs<T>& args, const Row<T>& row, int32_t first,
                                   int32_t stop, T* scores) {
  T* const begin = scores + (row.first_key - first);
  const int32_t count = row.stop_key - row.first_key;
  if (args.soft_cap > 0) {
    for (int32_t i = 0; i < count; ++i) {
      begin[i] = args.soft_cap * std::tanh(begin[i] / args.soft_cap);
    }
  }
  T highest = begin[0];
  for (int32_t i = 1; i < count; ++i) highest = std::max(highest, begin[i]);
  for (int32_t i = 0; i < count; ++i) begin[i] = exponential(begin[i] - highest);
  T lanes[kLanes] = {};
  int32_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int32_t j = 0; j < kLanes; ++j) lanes[j] += begin[i + j];
  }
  for (int32_t j = 0; i < count; ++i, ++j) lanes[j] += begin[i];
  const T inverse = 1 / sum_lanes(lanes);
  for (int32_t j = 0; j < count; ++j) begin[j] *= inverse;
  std::fill(scores, begin, T{0});
  std::fill(begin + count, scores + (stop - first), T{0});
}

// output_r = sum of weight * value over the keys [first, stop), `W` components at a time.
template <typename T, int32_t R, int32_t W>
GREATER_FAST_INLINE void sum_values(const AttentionArgs<T>& args, const Task& task,
                                    const Row<T>* rows, int32_t first, int32_t stop,
                                    const T* weights, int32_t stride, int32_t from) {
  const int32_t* table = args.block_tables + int64_t{task.sequence} * args.table_width;
  T sums[R][W] = {};
  for (int32_t key = first; key < stop; ++key) {
    const int64_t block = table[key / args.block_size];
    const T* v =
        args.values +
        ((block * args.num_kv_heads + task.kv_head) * args.block_size + key % args.block_size) *
            args.head_size +
        from;
    for (int32_t r = 0; r < R; ++r) {
      const T weight = weights[r * stride + key - first];
      for (int32_t i = 0; i < W; ++i) sums[r][i] += weight * v[i];
    }
  }
  for (int32_t r = 0; r < R; ++r) std::copy_n(sums[r], W, rows[r].output + from);
}

template <typename T, int32_t R>
GREATER_FAST_INLINE void attend_tile(const AttentionArgs<T>& args, const Task& task,
                                     const Row<T>* rows, T* scores, int32_t stride) {
  int32_t first = rows[0].first_key;
  int32_t stop = rows[0].stop_key;
  for (int32_t r = 1; r < R; ++r) {
    first = std::min(first, rows[r].first_key);
    stop = std::max(stop, rows[r].stop_key);
  }
  score_keys<T, R>(args, task, rows, first, stop, scores, stride);
  for (int32_t r = 0; r < R; ++r) normalise(args, rows[r], first, stop, scores + r * stride);
  int32_t d = 0;
  for (; d + kValueLanes <= args.head_size; d += kValueLanes) {
    sum_values<T, R, kValueLanes>(args, task, rows, first, stop, scores, stride, d);
  }
  for (; d + 4 <= args.head_size; d += 4) {
    sum_values<T, R, 4>(args, task, rows, first, stop, scores, stride, d);
  }
  for (; d < args.head_size; ++d) {
    sum_values<T, R, 1>(args, task, rows, first, stop, scores, stride, d);
  }
}

template <typename T>
GREATER_FAST_INLINE void attend(const AttentionArgs<T>& args, const Task& task, T* scores,
                                int32_t stride) {
  const int32_t group = args.num_heads / args.num_kv_heads;
  const int32_t start = args.query_starts[task.sequence];
  const int32_t num_queries = args.query_starts[task.sequence + 1] - start;
  const int32_t before = args.context_lens[task.sequence] - num_queries;
  for (int32_t row = task.first_row; row < task.last_row; row += kTileRows) {
    const int32_t count = std::min(kTileRows, task.last_row - row);
    Row<T> rows[kTileRows];
    for (int32_t r = 0; r < count; ++r) {
      const int32_t query = (row + r) / group;
      const int64_t head =
          int64_t{start + query} * args.num_heads + task.kv_head * group + (row + r) % group;
      const int32_t stop = before + query + 1;
      rows[r] = {args.queries + head * args.head_size, args.output + head * args.head_size,
                 args.window > 0 ? std::max(0, stop - args.window) : 0, stop};
    }
    switch (count) {
      case 1:
        attend_tile<T, 1>(args, task, rows, scores, stride);
        break;
      case 2:
        attend_tile<T, 2>(args, task, rows, scores, stride);
        break;
      case 3:
        attend_tile<T, 3>(args, task, rows, scores, stride);
        break;
      default:
        attend_tile<T, 4>(args, task, rows, scores, stride);
        break;
    }
  }
}

GREATER_FAST_CLONES void attend_task(const AttentionArgs<float>& args, const Task& task,
                                     float* scores, int32_t stride) {
  attend(args, task, scores, stride);
}

GREATER_FAST_CLONES void attend_task(const AttentionArgs<double>& args, const Task& task,
                                     double* scores, int32_t stride) {
  attend(args, task, scores, stride);
}

template <typename T>
void store(const AttentionArgs<T>& args) {
  for (int32_t token = 0; token < args.num_tokens; ++token) {
    const int64_t block = args.slots[token] / args.block_size;
    const int64_t offset = args.slots[token] % args.block_size;
    for (int64_t head = 0; head < args.num_kv_heads; ++head) {
      const int64_t to =
          ((block * args.num_kv_heads + head) * args.block_size + offset) * args.head_size;
      const int64_t from = (int64_t{token} * args.num_kv_heads + head) * args.head_size;
      std::copy_n(args.new_keys + from, args.head_size, args.keys + to);
      std::copy_n(args.new_values + from, args.head_size, args.values + to);
    }
  }
}

}  // namespace

template <typename T>
void paged_attention(const AttentionArgs<T>& args) {
  store(args);
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
#pragma omp parallel
  {
    std::vector<T> scores(int64_t{kTileRows} * longest);
#pragma omp for schedule(dynamic, 4)
    for (size_t i = 0; i < tasks.size(); ++i) attend_task(args, tasks[i], scores.data(), longest);
  }
}

template void paged_attention<float>(const AttentionArgs<float>&);
template void paged_attention<double>(const AttentionArgs<double>&);

}  // namespace greater_fast
