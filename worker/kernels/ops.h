#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "worker/kernels/dropout.h"
#include "worker/kernels/parameter.h"
#include "worker/kernels/tape.h"
#include "worker/kernels/token_layout.h"

namespace finesweep::worker {

// The operations that models are made of. Each computes forward and, where a tape is given and something that was
// trained went in, records its way back. Hidden states are [tokens, width], fp32 or bf16, with sums and statistics
// in fp32; gradients of parameters are fp32.
//
// Each has a reference in plain tensor operations (kernels/reference.h) that the tests compare it with. On a CPU
// the kernels of kernels/cpu run; on other devices the reference itself runs, differentiated by libtorch.

enum class Activation { none, gelu, gelu_tanh, relu, tanh };

/// y += scale · (dropout(x) Aᵀ) Bᵀ in columns out_begin … out_begin + B.rows of a linear module's output.
struct LoraBranch {
  Parameter* a = nullptr;  // [rank, in]
  Parameter* b = nullptr;  // [out, rank]
  double scale = 1;
  double dropout = 0;
  /// Numbers the dropout's stream: as dropout_site(module path).
  std::uint64_t site = 0;
  std::int64_t out_begin = 0;
};

/// A linear module of a model: y = x Wᵀ + b, W [out, in], and what adapters add to it. Query, key and value are one
/// module of three parts, whose outputs lie side by side.
struct LinearModule {
  /// Module paths of the parts ("bert.encoder.layer.0.attention.self.query"): what targets are matched with.
  std::vector<std::string> paths;
  Parameter* weight = nullptr;
  Parameter* bias = nullptr;  // may be null
  std::vector<LoraBranch> branches;
};

struct NormModule {
  Parameter* weight = nullptr;
  Parameter* bias = nullptr;
  double epsilon = 1e-12;
};

struct EmbeddingModule {
  Parameter* words = nullptr;      // [vocabulary, width]
  Parameter* positions = nullptr;  // [positions, width]
  Parameter* types = nullptr;      // [types, width]
  NormModule norm;
  /// This row of `words` gets no gradient, as in PyTorch's padding_idx; -1: none.
  std::int64_t padding_id = -1;
};

/// activation(x Wᵀ + b + adapters) for the output columns out_begin … out_begin + out_count (count -1: all):
/// columns that are not asked for cost nothing. `layout` says which rows the tokens belong to, for the adapters'
/// dropout.
Var linear(Tape* tape, const Var& x, const LinearModule& module, const Layout& layout, const DropoutRun& run,
           Activation activation = Activation::none, std::int64_t out_begin = 0, std::int64_t out_count = -1);

/// norm(words[id] + positions[position] + types[type]) with dropout after the norm. Ids [tokens] int64, in range.
Var embed_norm(Tape* tape, const EmbeddingModule& module, const at::Tensor& ids, const at::Tensor& positions,
               const at::Tensor& types, const Layout& layout, const Dropout& dropout, at::ScalarType compute_type);

/// norm(residual + dropout(x)): the end of a post-norm block. Consumes x: its memory is reused.
Var add_norm(Tape* tape, const Var& x, const Var& residual, const NormModule& module, const Layout& layout,
             const Dropout& dropout);

/// Softmax attention within each row, scores scaled by 1/sqrt(width / heads), dropout on the probabilities.
///
///   qkv [tokens, 3 × width]: query, key, value side by side, each head after head. Returns [tokens, width].
///
/// Memory is linear in the length: probabilities are computed again on the way back.
Var attention(Tape* tape, const Var& qkv, const Layout& layout, std::int64_t heads, const Dropout& dropout);

/// The same for the first token of each row as the only query.
///   query [rows, width], key_value [tokens, 2 × width]. Returns [rows, width].
Var attention_of_first(Tape* tape, const Var& query, const Var& key_value, const Layout& layout, std::int64_t heads,
                       const Dropout& dropout);

/// The first token of each row: [rows, width].
Var first_tokens(Tape* tape, const Var& x, const Layout& layout);
/// The mean over each row's tokens: [rows, width].
Var mean_tokens(Tape* tape, const Var& x, const Layout& layout);

/// x · mask / (1 - p).
Var dropout(Tape* tape, const Var& x, const Layout& layout, const Dropout& dropout);

/// fp32, from any type.
Var to_float(Tape* tape, const Var& x);

/// Sum over rows of -log softmax(logits)[label], divided by `denominator`: a scalar. Logits [rows, labels] fp32,
/// labels int64, -100 where a row does not count.
Var cross_entropy(Tape* tape, const Var& logits, const at::Tensor& labels, double denominator);

/// Sum over rows of (value - label)², divided by `denominator`. Values [rows, 1] fp32, labels [rows] fp32.
Var squared_error(Tape* tape, const Var& values, const at::Tensor& labels, double denominator);

/// Starts the way back from a scalar loss: its gradient is 1.
void backward(Tape& tape, const Var& loss);

}  // namespace finesweep::worker
