#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace finesweep::worker {

/// A tensor of a model that is read from files and may be trained. Several tensors of the files may be stacked
/// along dimension 0 to one Parameter, so that they multiply in one product (query, key and value).
struct Parameter {
  struct Part {
    std::string name;  // as Hugging Face files name it
    std::int64_t rows = 0;
  };
  std::vector<Part> parts;

  /// What the forward pass reads. A frozen parameter shares it with other models of the same base: never written.
  at::Tensor value;
  /// fp32, what the optimiser updates: `value` itself in fp32, else `value` is its rounded copy. Only where
  /// trained.
  at::Tensor master;
  /// fp32, only where trained. The backward pass adds to it.
  at::Tensor grad;
  bool trained = false;
  /// Weight decay applies (not to biases and norms).
  bool decays = true;

  /// An embedding table: a step touches few rows. `grad` is zero outside of `touched_rows` (sorted, unique), so
  /// that a step costs as much as it touches.
  bool is_table = false;
  std::vector<std::int64_t> touched_rows;

  /// Makes it trained: `master` becomes a private copy in fp32, `value` that or its copy in `type`, grad is
  /// allocated.
  void train(at::ScalarType type);
  /// After `master` has changed.
  void refresh_value();
  void zero_grad();
  /// The slice of `whole` (value, master or grad) that belongs to part `index`.
  at::Tensor slice(const at::Tensor& whole, std::size_t index) const;
};

}  // namespace finesweep::worker
