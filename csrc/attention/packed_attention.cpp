#include "attention/packed_attention.h"

#include <omp.h>

#include <algorithm>
#include <memory>

#include "attention/packed_head.h"
#include "math/simd.h"

namespace greater_fast {

namespace {

using packed_head::Head;
using packed_head::Workspace;

// What is asked for: outputs, or gradients.
template <typename T>
struct Task {
  T* outputs;
  const T* output_gradients;
  PackedAttentionGradients<T> gradients;
};

template <typename T>
GREATER_FAST_INLINE void run(const Task<T>& task, const Head<T>& at, const Workspace<T>& work) {
  if (task.output_gradients) {
    packed_head::backward(at, work, task.output_gradients, task.gradients);
  } else {
    packed_head::forward(at, work, task.outputs);
  }
}

template <typename T>
void portable(const Task<T>& task, const Head<T>& at, const Workspace<T>& work) {
  run(task, at, work);
}

template <typename T>
GREATER_FAST_AVX2 void avx2(const Task<T>& task, const Head<T>& at, const Workspace<T>& work) {
  run(task, at, work);
}

template <typename T>
GREATER_FAST_AVX512 void avx512(const Task<T>& task, const Head<T>& at, const Workspace<T>& work) {
  run(task, at, work);
}

// All heads of all segments, the later ones first: these are the longer ones.
template <typename T>
void run_all(const PackedAttentionArgs<T>& args, const Task<T>& task) {
  const int32_t bytes = vector_bytes();
  const auto run_head = bytes == 64 ? avx512<T> : bytes == 32 ? avx2<T> : portable<T>;
  int64_t longest = 0;
  for (const PackedSegment<T>& segment : args.segments) {
    longest = std::max(longest, segment.prefix_len + segment.stop - segment.start);
  }
  const int64_t floats = Workspace<T>::num_needed(args.head_size, longest);
  const int64_t num_heads = args.num_heads;
  const int64_t num_tasks = static_cast<int64_t>(args.segments.size()) * num_heads;
  const int64_t num_threads =
      std::min<int64_t>(omp_get_max_threads(), std::max<int64_t>(num_tasks, 1));
  const std::unique_ptr<T[]> memory(new T[num_threads * floats]);
#pragma omp parallel for schedule(dynamic) num_threads(num_threads)
  for (int64_t i = num_tasks - 1; i >= 0; --i) {
    const Head<T> at{args, args.segments[i / num_heads], i % num_heads};
    run_head(task, at, {memory.get() + omp_get_thread_num() * floats, args.head_size, longest});
  }
}

// sums [M, KV, D] = states [M, H, D] over the heads of each group.
template <typename T>
void sum_groups(const PackedAttentionArgs<T>& args, const T* states, T* sums) {
  const int64_t size = args.head_size, group = args.num_heads / args.num_kv_heads;
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < args.num_tokens * args.num_kv_heads; ++row) {
    const T* const from = states + row * group * size;
    for (int64_t d = 0; d < size; ++d) {
      T sum = from[d];
      for (int64_t head = 1; head < group; ++head) sum += from[head * size + d];
      sums[row * size + d] = sum;
    }
  }
}

}  // namespace

template <typename T>
void packed_attention(const PackedAttentionArgs<T>& args, T* outputs) {
  run_all(args, Task<T>{outputs, nullptr, {}});
}

template <typename T>
void packed_attention_backward(const PackedAttentionArgs<T>& args, const T* output_gradients,
                               const PackedAttentionGradients<T>& gradients) {
  const int64_t count = args.num_tokens * args.num_heads * args.head_size;
  const std::unique_ptr<T[]> keys(new T[count]), values(new T[count]);
  run_all(args, Task<T>{nullptr, output_gradients, {gradients.queries, keys.get(), values.get()}});
  sum_groups(args, keys.get(), gradients.keys);
  sum_groups(args, values.get(), gradients.values);
}

template void packed_attention<float>(const PackedAttentionArgs<float>&, float*);
template void packed_attention<double>(const PackedAttentionArgs<double>&, double*);
template void packed_attention_backward<float>(const PackedAttentionArgs<float>&, const float*,
                                               const PackedAttentionGradients<float>&);
template void packed_attention_backward<double>(const PackedAttentionArgs<double>&, const double*,
                                                const PackedAttentionGradients<double>&);

}  // namespace greater_fast
