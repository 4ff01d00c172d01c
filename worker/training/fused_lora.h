#pragma once

#include <memory>
#include <vector>

#include "worker/kernels/lora_block.h"
#include "worker/kernels/ops.h"

namespace finesweep::worker {

/// Puts the LoRA of modules on a GPU into one matrix with their frozen weights (LoraBlock), as long as it lives:
/// the values of A and B are views of it. Modules where something else is at work (few bits, dropout or several
/// scales of adapters, trained weights), and models whose copied weights would take more than a gibibyte, are left
/// as they are.
class FusedLora {
 public:
  /// The modules must outlive it.
  explicit FusedLora(const std::vector<LinearModule*>& modules);
  ~FusedLora();
  FusedLora(const FusedLora&) = delete;
  FusedLora& operator=(const FusedLora&) = delete;

 private:
  std::vector<LinearModule*> fused_;
};

}  // namespace finesweep::worker
