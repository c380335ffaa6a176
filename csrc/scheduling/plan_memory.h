// Buffers of a plan with memory of their own, for programs without Python.
#pragma once

#include <vector>

#include "scheduling/scheduler.h"

namespace greater_fast {

class PlanMemory {
 public:
  explicit PlanMemory(const SchedulerConfig& c) {
    const size_t m = c.max_tokens;
    const size_t b = c.max_sequences;
    for (const size_t size : {m, m, m, b + 1, b, b * c.table_width, m, m, m, m, 2 * b}) {
      arrays_.emplace_back(size);
    }
    const auto at = [this](int32_t i) { return arrays_[i].data(); };
    buffers_ = {at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8), at(9), at(10)};
  }
  const PlanBuffers& buffers() const { return buffers_; }

 private:
  std::vector<std::vector<int32_t>> arrays_;
  PlanBuffers buffers_;
};

}  // namespace greater_fast
