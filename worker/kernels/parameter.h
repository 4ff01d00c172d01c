#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace finesweep::worker {

struct Fp8Rows;  // kernels/fp8.h

/// A frozen weight kept in few bits: NF4, INT8 or FP8. Immutable, shared by the models of a base.
class QuantizedWeight {
 public:
  virtual ~QuantizedWeight() = default;
  /// Rows begin … begin + count of the weight [rows, in] in fp32, bf16 or fp16.
  virtual at::Tensor dequantize(at::ScalarType type, std::int64_t begin, std::int64_t count) const = 0;
  /// x Wᵀ for these rows of the weight, in the type of x: dequantize and then a product, unless there is a better
  /// way.  x [tokens, columns]
  virtual at::Tensor product(const at::Tensor& x, std::int64_t begin, std::int64_t count) const;
  /// What it is multiplied with is quantised too: then the two below are its products, and no others.
  virtual bool quantizes_inputs() const { return false; }
  /// x Wᵀ + bias + residual for these rows of the weight, in the type of x.
  ///
  ///   x [tokens, columns]; bias [count] and residual [tokens, count] of the same type, each may be undefined
  ///   rows: those of x, where they are known
  virtual at::Tensor quantized_product(const at::Tensor& x, const Fp8Rows* rows, std::int64_t begin,
                                       std::int64_t count, const at::Tensor& bias,
                                       const at::Tensor& residual) const;
  /// dy W + sum for these rows: the way back.
  ///
  ///   dy [tokens, count], sum [tokens, columns] or undefined
  ///   rows: those of dy · gradient_factors, where they are known
  virtual at::Tensor quantized_transposed_product(const at::Tensor& dy, const Fp8Rows* rows, std::int64_t begin,
                                                  std::int64_t count, const at::Tensor& sum) const;
  /// What the columns of dy are multiplied by before they are quantised: [count] fp32.
  virtual at::Tensor gradient_factors(std::int64_t begin, std::int64_t count) const;
  virtual std::int64_t rows() const = 0;
  virtual std::int64_t columns() const = 0;
  /// Of the packed values and their scales.
  virtual std::int64_t bytes() const = 0;
};

/// A tensor of a model that is read from files and may be trained. Several tensors of the files may be stacked
/// along dimension 0 to one Parameter, so that they multiply in one product (query, key and value).
struct Parameter {
  struct Part {
    std::string name;  // as Hugging Face files name it
    std::int64_t rows = 0;
  };
  std::vector<Part> parts;
  /// Files hold the transpose: GPT-2's Conv1D keeps [in, out]. Here every matrix is [out, in]. Then there is one
  /// part.
  bool transposed_in_files = false;

  /// What the forward pass reads. A frozen parameter shares it with other models of the same base: never written.
  at::Tensor value;
  /// In place of `value` (then undefined) where the weight is kept in few bits. Never trained.
  std::shared_ptr<const QuantizedWeight> quantized;
  /// Of a quantised weight: the type that its products are computed in. Absent: that of the hidden states.
  std::optional<at::ScalarType> product_type;
  /// What the model that a quantised weight belongs to computes with it in.
  at::ScalarType dequantized_type = at::kFloat;
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
  /// The same as files have it: transposed where they do. A view.
  at::Tensor in_file_layout(const at::Tensor& whole, std::size_t index) const;
  /// Of a matrix, also of a quantised one.
  std::int64_t rows() const { return quantized ? quantized->rows() : value.size(0); }
  std::int64_t columns() const { return quantized ? quantized->columns() : value.size(1); }
  bool present() const { return quantized != nullptr || value.defined(); }
  /// What products with it are computed in.
  at::ScalarType type() const { return quantized ? dequantized_type : value.scalar_type(); }
};

}  // namespace finesweep::worker
