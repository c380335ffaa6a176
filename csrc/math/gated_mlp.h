// A gated MLP on the CPU, down(act(gate(x)) * up(x)), in one parallel region; and the gate's
// gradient.
#pragma once

#include <cstdint>

#include "math/linear.h"

namespace greater_fast {

enum class Activation { kSilu, kGeluTanh };

// T is float or double. The inputs of `down` are the hidden states [M, H]; those may lie where the
// outputs [M, H] of `gate` do, which are then gone.
template <typename T>
struct GatedMLPArgs {
  LinearArgs<T> gate;
  LinearArgs<T> up;
  LinearArgs<T> down;
  T* hidden;
  Activation activation;
};

// A row's result is a function of its own inputs and the weights alone: the same bits in any batch.
template <typename T>
void gated_mlp(const GatedMLPArgs<T>& args);

template <typename T>
struct GateArgs {
  const T* gate;        // [M, H]
  const T* up;          // [M, H]
  T* hidden_gradients;  // [M, H] by act(gate) * up; becomes that by `up`
  T* gate_gradients;    // [M, H] out
  int64_t num_rows;     // M
  int64_t width;        // H
  Activation activation;
};

template <typename T>
void gate_backward(const GateArgs<T>& args);

}  // namespace greater_fast
