#pragma once

#include <memory>
#include <vector>

#include "worker/kernels/lora_block.h"
#include "worker/kernels/ops.h"

namespace finesweep::worker {

/// Puts the LoRA of modules on a GPU into one matrix with their frozen weights (LoraBlock), as long as it lives:
/// the values of A and B are views of it, and where they may move so are their gradients of memory with room.
/// Modules where something else is at work (few bits, dropout or several scales of adapters, trained weights), and
/// models whose copied weights would take more than a gibibyte, are left as they are.
class FusedLora {
 public:
  enum class Gradients { stay, may_move };
  /// The modules must outlive it.
  FusedLora(const std::vector<LinearModule*>& modules, Gradients gradients);
  ~FusedLora();
  FusedLora(const FusedLora&) = delete;
  FusedLora& operator=(const FusedLora&) = delete;

 private:
  std::vector<LinearModule*> fused_;
};

}  // namespace finesweep::worker
