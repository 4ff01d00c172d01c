#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "worker/kernels/denominator.h"
#include "worker/kernels/dropout.h"
#include "worker/kernels/lora_block.h"
#include "worker/kernels/parameter.h"
#include "worker/kernels/tape.h"
#include "worker/kernels/token_layout.h"

namespace finesweep::worker {

// The operations that models are made of. Each computes forward and, where a tape is given and something that was
// trained went in, records its way back. Hidden states are [tokens, width], fp32 or bf16, with sums and statistics
// in fp32; gradients of parameters are fp32.
//
// Each has a reference in plain tensor operations (kernels/reference.h) that the tests compare it with. On a CPU
// the kernels of kernels/cpu run, on a GPU those of kernels/gpu; for what neither computes the reference itself
// runs, differentiated by libtorch.

enum class Activation { none, gelu, gelu_tanh, relu, tanh, silu };

/// In a pack on a GPU the ranks of all jobs on one part of a module lie side by side in one A and one B, so that a
/// product serves them all: whose each of them is. A token goes through its own job's. Tensors on the device, which
/// a captured step reads anew at each replay.
struct RankColumns {
  at::Tensor jobs;    // [ranks] int32; -1: nobody's
  at::Tensor scales;  // [ranks] fp32, in place of LoraBranch::scale
  at::Tensor broken;  // [jobs] int32: becomes 1 where a gradient in the job's own ranks is not a finite number
};

/// y += scale · (dropout(x) Aᵀ) Bᵀ in columns out_begin … out_begin + B.rows of a linear module's output.
struct LoraBranch {
  Parameter* a = nullptr;  // [rank, in]
  Parameter* b = nullptr;  // [out, rank]
  double scale = 1;
  double dropout = 0;
  /// Numbers the dropout's stream: as dropout_site(module path).
  std::uint64_t site = 0;
  std::int64_t out_begin = 0;
  /// Null: all ranks are every token's.
  const RankColumns* columns = nullptr;
};

/// IA3 (https://arxiv.org/abs/2205.05638) on a linear module or one part of it: the output's columns out_begin …
/// out_begin + columns() are multiplied, bias included; or, for a feed-forward module, its input.
struct ScaleBranch {
  Parameter* scale = nullptr;  // [out, 1]; for the input [1, in]; of_jobs: [jobs, out or in], rows may lie apart
  bool on_input = false;
  std::int64_t out_begin = 0;
  /// In a pack on a GPU: the scale has a row for each job, and a token's columns are multiplied by its job's.
  bool of_jobs = false;

  /// How many it multiplies.
  std::int64_t columns() const { return of_jobs ? scale->value.size(1) : scale->value.numel(); }
};

/// A linear module of a model: y = x Wᵀ + b, W [out, in], and what adapters add to it. Query, key and value are one
/// module of three parts, whose outputs lie side by side.
struct LinearModule {
  /// Module paths of the parts ("bert.encoder.layer.0.attention.self.query"): what targets are matched with.
  std::vector<std::string> paths;
  Parameter* weight = nullptr;  // may be quantised
  Parameter* bias = nullptr;    // may be null
  std::vector<LoraBranch> branches;
  std::vector<ScaleBranch> scales;
  /// In a pack, where jobs have their own: of each job the module that its rows go through in place of this one.
  /// They must outlive their use. Empty: all rows go through this one.
  std::vector<const LinearModule*> of_jobs = {};
  /// Weight and branches as one matrix, where somebody keeps it so (training/fused_lora.h). Their values are views
  /// of it.
  std::shared_ptr<const LoraBlock> block = nullptr;

  /// Columns that are wanted behind those of its input, and behind the gradient of its output.
  std::int64_t room() const { return block == nullptr ? 0 : block->ranks; }

  /// Something that `linear` applies is trained.
  bool trains() const;
  /// Its input and the gradient of its output are multiplied in FP8.
  bool quantizes_inputs() const { return weight->quantized != nullptr && weight->quantized->quantizes_inputs(); }
};

enum class NormKind { layer, root_mean_square };

/// LayerNorm, or RMSNorm (https://arxiv.org/abs/1910.07467): x / sqrt(mean x² + ε) · weight.
struct NormModule {
  Parameter* weight = nullptr;
  Parameter* bias = nullptr;  // null for root_mean_square
  double epsilon = 1e-12;
  NormKind kind = NormKind::layer;
};

struct EmbeddingModule {
  Parameter* words = nullptr;      // [vocabulary, width]
  Parameter* positions = nullptr;  // [positions, width]; may be null
  Parameter* types = nullptr;      // [types, width]; may be null
  NormModule norm;                 // weight null: none
  /// This row of `words` gets no gradient, as in PyTorch's padding_idx; -1: none.
  std::int64_t padding_id = -1;
  /// The same of `positions`.
  std::int64_t padding_position = -1;
};

/// activation(x Wᵀ + b + adapters) for the output columns out_begin … out_begin + out_count (count -1: all):
/// columns that are not asked for cost nothing. `layout` says which rows the tokens belong to, for the adapters'
/// dropout. `next`: as in norm; where it reads nothing but FP8, the result may be that alone, its value unwritten.
Var linear(Tape* tape, const Var& x, const LinearModule& module, const Layout& layout, const DropoutRun& run,
           Activation activation = Activation::none, std::int64_t out_begin = 0, std::int64_t out_count = -1,
           const LinearModule* next = nullptr);

/// residual + dropout(linear(x)): the end of a pre-norm block. The residual may be fp32 where x is fp16: so is the
/// sum.
Var linear_add(Tape* tape, const Var& x, const LinearModule& module, const Var& residual, const Layout& layout,
               const DropoutRun& run, const Dropout& dropout);

/// activation(z[:, :inner]) · z[:, inner:]: the middle of a gated feed-forward block.  z [tokens, 2 × inner].
Var gated(Tape* tape, const Var& z, Activation activation);

/// gated(linear(x)). On a GPU a module in FP8 gets the gate's gradient quantised by the kernel that computes it,
/// and `next` the gate, as in linear.
Var linear_gated(Tape* tape, const Var& x, const LinearModule& module, const Layout& layout, const DropoutRun& run,
                 Activation activation, const LinearModule* next = nullptr);

/// norm(words[id] + positions[position] + types[type]), without the parts that the module does not have, and
/// dropout at the end. Ids [tokens] int64, in range; those of an absent table are not read.
Var embed(Tape* tape, const EmbeddingModule& module, const at::Tensor& ids, const at::Tensor& positions,
          const at::Tensor& types, const Layout& layout, const Dropout& dropout, at::ScalarType compute_type);

/// norm(x): the beginning of a pre-norm block.
/// `next`: who multiplies the result, where that is known. Then there may be room for its ranks behind the result's
/// columns (LoraBlock), and the result in FP8 beside it where that is what is multiplied.
Var norm(Tape* tape, const Var& x, const NormModule& module, const LinearModule* next = nullptr);

/// norm(residual + dropout(x)): the end of a post-norm block. Consumes x: its memory is reused. `next`: who
/// multiplies the result, for its FP8 alone.
Var add_norm(Tape* tape, const Var& x, const Var& residual, const NormModule& module, const Layout& layout,
             const Dropout& dropout, const LinearModule* next = nullptr);

/// T5's relative position bias (https://arxiv.org/abs/1910.10683): scores get table[bucket(key - query)][head].
struct RelativeBias {
  Parameter* table = nullptr;  // [buckets, heads]
  bool bidirectional = true;
  std::int64_t max_distance = 128;
};

/// The bucket of a distance (key position - query position), as transformers computes it, the logarithm in fp32.
std::int64_t relative_bucket(std::int64_t distance, bool bidirectional, std::int64_t buckets,
                             std::int64_t max_distance);

struct AttentionOptions {
  std::int64_t heads = 1;
  /// Heads of key and value (grouped-query attention): query head h reads head h / (heads / key_heads). 0: heads.
  std::int64_t key_heads = 0;
  /// Of one head.
  std::int64_t size = 0;
  /// Of the scores. 0: 1/sqrt(size).
  double scale = 0;
  /// Query i of a row of q queries and k keys stands at position i + k - q: the queries are the last of the keys.
  /// Causal: it sees the keys up to its position; with a window (0: none) only the last `window` of them.
  bool causal = false;
  std::int64_t window = 0;
  const RelativeBias* bias = nullptr;
};

/// Query, key and value as columns of matrices: often of one.
struct AttentionInputs {
  Var query;
  std::int64_t query_column = 0;
  Var key_value;
  std::int64_t key_column = 0, value_column = 0;
};

/// Softmax attention, each row of queries over its row of keys, dropout on the probabilities.
///
///   query      [queries, …], heads × size columns from query_column, head after head
///   key_value  [tokens, …], key_heads × size columns from key_column and from value_column
///   queries    the layout of the queries: rows and dropout streams; keys: where each row's keys stand
///
/// Returns [queries, heads × size]. Memory is linear in the length: probabilities are computed again on the way
/// back.
Var attention(Tape* tape, const AttentionInputs& inputs, const Layout& queries, const RowSpans& keys,
              const AttentionOptions& options, const Dropout& dropout);

/// Rotary position embedding (https://arxiv.org/abs/2104.09864) in halves, as transformers' Llama has it.
struct RotaryTable {
  at::Tensor cosine, sine;  // [positions, size / 2] fp32, on the model's device
};

/// Turns the first `heads` heads of each token of x (query and key of a packed projection) by its position.
/// Consumes x: its memory is reused.  positions [tokens] int64.
Var rotate(Tape* tape, const Var& x, const RotaryTable& table, const at::Tensor& positions, std::int64_t heads,
           std::int64_t size);

/// The first token of each row: [rows, width].
Var first_tokens(Tape* tape, const Var& x, const Layout& layout);
/// The last token of each row: [rows, width].
Var last_tokens(Tape* tape, const Var& x, const Layout& layout);
/// The mean over each row's tokens: [rows, width].
Var mean_tokens(Tape* tape, const Var& x, const Layout& layout);

/// x · mask / (1 - p).
Var dropout(Tape* tape, const Var& x, const Layout& layout, const Dropout& dropout);

/// linear of the dropped-out rows in fp32, whatever their type: a head's logits. Layout and dropout as there.
Var head_linear(Tape* tape, const Var& x, const LinearModule& module, const Layout& layout, const Dropout& before,
                const DropoutRun& run);

/// fp32, from any type.
Var to_float(Tape* tape, const Var& x);
Var to_type(Tape* tape, const Var& x, at::ScalarType type);

/// factor · x.
Var scale(Tape* tape, const Var& x, double factor);

/// Sum over rows of -log softmax(logits)[label], divided by `denominator`: a scalar. Logits [rows, labels] fp32,
/// labels int64, -100 where a row does not count.
Var cross_entropy(Tape* tape, const Var& logits, const at::Tensor& labels, const Denominator& denominator);

/// Of each token the label, and where known which tokens have one.
struct TokenLabels {
  at::Tensor labels;  // [tokens] int64, -100 where a token does not count; with an index [counted]
  /// The tokens that these labels belong to, int64, each of them once; -1 where there is none (its label is -100).
  /// Undefined: all, in order.
  at::Tensor index;

  TokenLabels(at::Tensor of_all) : labels(std::move(of_all)) {}  // NOLINT: labels are such
  TokenLabels(at::Tensor counted, at::Tensor where) : labels(std::move(counted)), index(std::move(where)) {}
};

/// The same straight from hidden states, without all logits at once: sum over the counted tokens of
/// -log softmax(scale · hidden Wᵀ + b)[label], divided by `denominator`.
///
///   hidden [tokens, width]
///
/// Works through some 2,048 tokens at a time; their gradients are computed on the way forward. No work is spent on
/// tokens that do not count, but on a GPU where they have no index. Of a pack the loss of each job: [jobs].
Var linear_cross_entropy(Tape* tape, const Var& hidden, const LinearModule& head, const TokenLabels& labels,
                         const Denominator& denominator, double scale, const Layout& layout, const DropoutRun& run);

/// Sum over rows of (value - label)², divided by `denominator`. Values [rows, 1] fp32, labels [rows] fp32.
Var squared_error(Tape* tape, const Var& values, const at::Tensor& labels, const Denominator& denominator);

/// A classifier's loss: cross_entropy, or squared_error where there is one output. Of a pack's rows that of each
/// job, [jobs]. The layout may be null where it is that of no pack.
Var label_loss(Tape* tape, const Var& logits, const at::Tensor& labels, const Denominator& denominator,
               const Layout& layout);

/// Starts the way back from a loss, or from the losses of a pack's jobs: their gradient is 1.
void backward(Tape& tape, const Var& loss);

}  // namespace finesweep::worker
