// Vectors of the CPU kernels, in the compilers' own vector types: one source for each instruction
// set. Everything here is inlined into functions that were compiled for one.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define GREATER_FAST_INLINE inline __attribute__((always_inline))

namespace greater_fast {

template <typename T, int32_t Bytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(Bytes)));
};

template <typename V, typename T>
GREATER_FAST_INLINE void load(V& vector, const T* from) {
  std::memcpy(&vector, from, sizeof(V));
}

// The first `count` lanes; the others become 0.
template <typename V, typename T>
GREATER_FAST_INLINE void load_part(V& vector, const T* from, int64_t count) {
  vector = V{};
  std::memcpy(&vector, from, count * sizeof(T));
}

// As many lanes as there are from here on, all of them if possible; the others become 0.
template <typename V, typename T>
GREATER_FAST_INLINE void load_first(V& vector, const T* from, int64_t lanes) {
  if (lanes == static_cast<int64_t>(sizeof(V) / sizeof(T))) {
    load(vector, from);
  } else {
    load_part(vector, from, lanes);
  }
}

// Lanes of x and y, picked by a list of places (y's follow x's).
template <typename V, typename Mask, int32_t... Places>
GREATER_FAST_INLINE void pick(V& out, const V& x, const V& y,
                              std::integer_sequence<int32_t, Places...>) {
#if defined(__clang__)
  out = __builtin_shufflevector(x, y, Places...);
#else
  out = __builtin_shuffle(x, y, Mask{Places...});
#endif
}

// Where, in two vectors of `Lanes` lanes that hold blocks of `Block` lanes each, the first
// (`Half` = 0) or the second halves of all blocks are.
template <int32_t Block, int32_t Half, int32_t... I>
constexpr auto halves_of(std::integer_sequence<int32_t, I...>) {
  return std::integer_sequence<int32_t, (I / (Block / 2) * Block + Half * (Block / 2) +
                                         I % (Block / 2))...>{};
}

// Sum the lanes of each of `Count` vectors, many at once: sum i comes to lane i of the vectors that
// are left, and always in the same order of additions.
template <typename T, int32_t Bytes, int32_t Count, int32_t Block = Bytes / sizeof(T)>
GREATER_FAST_INLINE void fold(typename VectorOf<T, Bytes>::type* vectors) {
  using V = typename VectorOf<T, Bytes>::type;
  using Mask = typename VectorOf<std::conditional_t<sizeof(T) == 4, int32_t, int64_t>, Bytes>::type;
  if constexpr (Block > 1) {
    using Every = std::make_integer_sequence<int32_t, Bytes / sizeof(T)>;
    for (int32_t i = 0; i < Count; i += 2) {
      const V x = vectors[i];
      const V y = vectors[i + 1 < Count ? i + 1 : i];
      V first, second;
      pick<V, Mask>(first, x, y, halves_of<Block, 0>(Every{}));
      pick<V, Mask>(second, x, y, halves_of<Block, 1>(Every{}));
      vectors[i / 2] = first + second;
    }
    fold<T, Bytes, (Count + 1) / 2, Block / 2>(vectors);
  }
}

// No wider vectors are used, whatever the machine has (tests run every path).
inline int32_t vector_limit_bytes = 64;

// The widest instruction set that this machine has, by the bytes of its vectors.
inline int32_t vector_bytes() {
#if defined(__x86_64__)
  static const bool has_avx512 =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
  static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (has_avx512 && vector_limit_bytes >= 64) return 64;
  if (has_avx2 && vector_limit_bytes >= 32) return 32;
#endif
  return 16;
}

#if defined(__x86_64__)
#define GREATER_FAST_AVX512 __attribute__((target("avx512f,avx512dq,fma")))
#define GREATER_FAST_AVX2 __attribute__((target("avx2,fma")))
#else
#define GREATER_FAST_AVX512
#define GREATER_FAST_AVX2
#endif

}  // namespace greater_fast
