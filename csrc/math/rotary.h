// Linear layers whose outputs are heads that are then turned by their rows' places, on the CPU.
#pragma once

#include <cstdint>
#include <vector>

#include "math/linear.h"

namespace greater_fast {

// Of each head of D numbers, number i of the first half and its partner in the second are turned:
// (x_i, x_j) -> (x_i cos_i - x_j sin_i, x_j cos_j + x_i sin_j) with j = i + D / 2.
template <typename T>
struct Turns {
  const T* cos;       // [M, D]
  const T* sin;       // [M, D]
  int64_t head_size;  // D, even
};

// States [M, width] of whole heads; `to` may be `from`.
template <typename T>
struct Turned {
  const T* from;
  T* to;
  int64_t width;
};

// All outputs of the layers, in one parallel region; those of the first `num_turned` are turned.
// A row's result is a function of its own inputs and turns, and the weights, alone.
template <typename T>
void turned_linears(const std::vector<LinearArgs<T>>& layers, int64_t num_turned,
                    const Turns<T>& turns);

// The gradient by states, from that by the turned states.
template <typename T>
void turn_back(const std::vector<Turned<T>>& states, int64_t num_rows, const Turns<T>& turns);

}  // namespace greater_fast
