#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace finesweep::worker {

enum class WeightRole { table, matrix, bias, norm };

/// One Parameter of a family: tensors of the files, stacked along dimension 0.
struct WeightSpec {
  std::vector<std::string> names;
  /// Of each tensor. -1: any size (the labels of a head).
  std::vector<std::int64_t> shape;
  WeightRole role = WeightRole::matrix;
  /// May be absent from the files: a head, which is initialised, or what not every use of the model needs.
  bool optional = false;
  /// Kept in fp32 and made anew for every model.
  bool head = false;
  /// The files hold the transpose of `shape` (GPT-2's Conv1D). One name only.
  bool transposed = false;
  /// A linear module inside the transformer layers: what QLoRA keeps in NF4. Embeddings, heads and norms are not.
  bool quantizable = false;
  /// Stays fp32 where the rest is fp16: its products leave fp16's range.
  bool overflows_fp16 = false;

  /// Rows of each tensor where they differ (grouped-query attention); empty: shape[0].
  std::vector<std::int64_t> rows = {};

  std::vector<std::int64_t> shape_of(std::size_t part) const {
    std::vector<std::int64_t> result = shape;
    if (!rows.empty()) result[0] = rows[part];
    return result;
  }
  /// What it is kept in where the backbone is fp32, bf16 or fp16.
  at::ScalarType type_for(at::ScalarType backbone) const {
    const bool wide = head || role == WeightRole::norm || (overflows_fp16 && backbone == at::kHalf);
    return wide ? at::kFloat : backbone;
  }
};

}  // namespace finesweep::worker
