#pragma once

#include <cstdint>

// The part of api.h that training needs. Matrices are row-major; "type" is a FinesweepFloat; sums, statistics and
// gradients of parameters are fp32. A row's stride is in elements.

extern "C" {

/// Where the dropout of a row of a pack draws from.
struct FinesweepRowStream {
  std::uint64_t key;
  std::int64_t step, row;
};

/// Dropout at one place (kernels/dropout.h): the streams are those of the CPU's kernels. A stream's lane follows
/// from step, site and row.
struct FinesweepDropout {
  std::uint32_t threshold;  // 0: none, and nothing else is read
  float scale;              // of what is kept
  std::uint64_t key;        // RandomStream::key()
  std::uint64_t site;
  const std::int64_t* step;    // on the device, or null:
  std::int64_t step_number;    // then this
  const std::int32_t* rows;    // [tokens]: of each token its row in the accumulated batch; for attention [rows]
  const std::int32_t* places;  // [tokens]: its number within the row; for attention null
  /// Null, or in place of key and step: `rows` then number these.
  const FinesweepRowStream* streams;
};

/// What sums of losses are divided by. It may change between replays of a captured step.
struct FinesweepDenominator {
  const double* device;  // null:
  double number;         // then this
  /// Null, or of a pack: token t belongs to job jobs[t], or where there is an index to jobs[index[t]], and is
  /// divided by device[job]. A negative index, or job, is that of a token that does not count.
  const std::int32_t* jobs;
  const std::int64_t* index;
  std::int64_t job_count;
};

struct FinesweepNormWeights {
  const float* weight;
  const float* bias;  // null: none
  float epsilon;
  int centred;  // 0: RMSNorm
};

/// y = output_mask · norm(sum), where sum = x, or where residual is not null residual + input_mask · x, which goes
/// to `sum` (may be x). mean and inverse [tokens] are kept for the way back. codes and scales are null, or get the
/// rows of y as finesweep_fp8_quantize does.
int finesweep_norm_forward(const void* x, const void* residual, void* sum, void* y, std::int64_t y_stride,
                           float* mean, float* inverse, std::int64_t tokens, std::int64_t width,
                           const FinesweepNormWeights* norm, const FinesweepDropout* input_dropout,
                           const FinesweepDropout* output_dropout, void* codes, float* scales, int type,
                           void* stream);
/// The way back: dx = the gradient of what was normalised, plus `add` where that is not null (may be dx); where
/// `masked` is not null also input_mask · that gradient without `add`. `partial` [finesweep_partial_rows(), 2 ×
/// width] or null: gets sums for weight and bias, for finesweep_add_partial.
int finesweep_norm_backward(const void* x, const void* dy, std::int64_t dy_stride, const float* mean,
                            const float* inverse, const void* add, void* dx, void* masked, float* partial,
                            std::int64_t tokens, std::int64_t width, const FinesweepNormWeights* norm,
                            const FinesweepDropout* input_dropout, const FinesweepDropout* output_dropout, int type,
                            void* stream);
/// Widths that the two above compute.
int finesweep_norm_fits(std::int64_t width, int type);

std::int64_t finesweep_partial_rows();
/// Of partial [rows, columns] the sums over the rows: those of the columns before `second_begin` are added to
/// `first`, the others to `second`; each may be null.
int finesweep_add_partial(const float* partial, std::int64_t rows, std::int64_t columns, std::int64_t second_begin,
                          float* first, float* second, void* stream);
/// partial [rows, columns] = sums over parts of the tokens of x [tokens, columns].
int finesweep_partial_column_sums(const void* x, std::int64_t tokens, std::int64_t columns, std::int64_t stride,
                                  float* partial, std::int64_t rows, int type, void* stream);

/// y = residual + mask · x; residual may be null. x [tokens, width] contiguous; y may be x.
int finesweep_dropout(const void* x, const void* residual, void* y, std::int64_t tokens, std::int64_t width,
                      const FinesweepDropout* dropout, int type, void* stream);

/// `activation`: of FinesweepActivation, and not none.
/// y may be z; dz may be dy.
int finesweep_activation_forward(int activation, const void* z, void* y, std::int64_t count, int type,
                                 void* stream);
int finesweep_activation_backward(int activation, const void* z, const void* dy, void* dz, std::int64_t count,
                                  int type, void* stream);
/// y = activation(z[:, :inner]) · z[:, inner:].  z [tokens, 2 × inner]
int finesweep_gate_forward(int activation, const void* z, void* y, std::int64_t tokens, std::int64_t inner,
                           int type, void* stream);
int finesweep_gate_backward(int activation, const void* z, const void* dy, void* dz, std::int64_t tokens,
                            std::int64_t inner, int type, void* stream);

/// Turns the first `heads` heads of x [tokens, …] in place by ± the angle of each token's position.
int finesweep_rotate(void* x, std::int64_t tokens, std::int64_t stride, std::int64_t heads, std::int64_t size,
                     const float* cosine, const float* sine, const std::int64_t* positions, float sign, int type,
                     void* stream);

/// out[t] = sum over three tables (null: absent) of table[id[t]], without those where the id is negative.
int finesweep_gather_rows(const void* const tables[3], const std::int64_t* const ids[3], void* out,
                          std::int64_t tokens, std::int64_t width, int type, void* stream);
/// grad[id[t]] += d[t]; ids equal to `skipped` are left out. In no fixed order.
int finesweep_add_rows(const void* d, const std::int64_t* ids, std::int64_t skipped, float* grad,
                       std::int64_t tokens, std::int64_t width, int type, void* stream);
/// out[index[i]] = from[i] · factor for indices of at least 0; other rows are left.
int finesweep_scatter_rows(const void* from, const std::int64_t* index, void* out, std::int64_t count,
                           std::int64_t width, int type, void* stream);

/// Up to three matrices side by side. Widths and distances of rows are multiples of 16 bytes, and so are addresses.
struct FinesweepColumns {
  const void* from[3];
  std::int64_t stride[3], width[3];  // width 0: none
};
int finesweep_concatenate(const FinesweepColumns* columns, void* to, std::int64_t to_stride, std::int64_t tokens,
                          int type, void* stream);

/// One of many small matrices of fp32 that are copied together, rounded to the type of `to`. Rows are `stride`
/// elements apart.
struct FinesweepMatrixCopy {
  const float* from;
  void* to;
  std::int64_t rows, columns, from_stride, to_stride;
  int type;
};
/// `copies` [count] on the device.
int finesweep_copy_matrices(const FinesweepMatrixCopy* copies, std::int64_t count, void* stream);

/// y[r] = the mean of x over the tokens starts[r] … starts[r + 1]; and its way back, which writes the dx of those
/// tokens.
int finesweep_mean_forward(const void* x, const std::int32_t* starts, void* y, std::int64_t rows,
                           std::int64_t width, int type, void* stream);
int finesweep_mean_backward(const void* dy, const std::int32_t* starts, void* dx, std::int64_t rows,
                            std::int64_t width, int type, void* stream);

/// losses[t] = -log softmax(logits[t])[label[t]], 0 where a label is negative. With `gradient` the logits become
/// (softmax - one-hot) / denominator, 0 where the label is negative, and what stands behind them up to the stride
/// becomes 0.
int finesweep_cross_entropy(void* logits, std::int64_t stride, const std::int64_t* labels, std::int64_t tokens,
                            std::int64_t vocabulary, int gradient, FinesweepDenominator denominator, float* losses,
                            int type, void* stream);
/// losses[t] = alpha T² KL(softmax(teacher[t] / T) ‖ softmax(student[t] / T)) + (1 - alpha) cross-entropy, 0 where
/// a label is negative. With `gradient` the student's logits become its gradient / denominator, as above. Both have
/// this stride, a multiple of 16 bytes.
int finesweep_distillation(void* student, const void* teacher, std::int64_t stride, const std::int64_t* labels,
                           std::int64_t tokens, std::int64_t vocabulary, int gradient, float temperature,
                           float alpha, FinesweepDenominator denominator, float* losses, int type, void* stream);
/// total[0] += sum of values / denominator, in a fixed order; of a pack total[job] those of its tokens.
int finesweep_add_sum(const float* values, std::int64_t count, FinesweepDenominator denominator, double* total,
                      void* stream);

/// Of a pack's adapters, whose ranks lie side by side: x[t, c] *= scales[c] where the column's job is the token's,
/// else x[t, c] = 0 whatever it was. `broken` (null: not asked) [jobs] gets a 1 for every job that has a number in
/// its own columns that is not finite.  x [tokens, columns] contiguous, column_jobs [columns]: -1 for no job
int finesweep_own_columns(void* x, std::int64_t tokens, std::int64_t columns, std::int64_t stride,
                          const std::int32_t* token_jobs, const std::int32_t* column_jobs, const float* scales,
                          std::int32_t* broken, int type, void* stream);

/// Rows in FP8 e4m3 (kernels/fp8.h): of v = x · factors (null: 1) scales[r] = max |v[r]| / 448, codes[r] =
/// v[r] · (448 / max |v[r]|).  x bf16 [rows, columns], its rows `stride` apart; codes contiguous.
int finesweep_fp8_quantize(const void* x, std::int64_t stride, std::int64_t rows, std::int64_t columns,
                           const float* factors, void* codes, float* scales, void* stream);
/// y = activation(z) (GELU by erf or tanh, SiLU) and the rows of y in FP8.  bf16 [rows, columns] contiguous; y may
/// be z, or null: the rows alone
int finesweep_fp8_activation_forward(int activation, const void* z, void* y, std::int64_t rows,
                                     std::int64_t columns, void* codes, float* scales, void* stream);
/// dz = dy · activation'(z), and the rows of dz · factors in FP8; dz may be dy, or null.
int finesweep_fp8_activation_backward(int activation, const void* z, const void* dy, void* dz, const float* factors,
                                      std::int64_t rows, std::int64_t columns, void* codes, float* scales,
                                      void* stream);
/// The same of y = activation(z[:, :inner]) · z[:, inner:] and of its gradient. z and dz [rows, 2 × inner], y and
/// dy [rows, inner]; dz is not z.
int finesweep_fp8_gate_forward(int activation, const void* z, void* y, std::int64_t rows, std::int64_t inner,
                               void* codes, float* scales, void* stream);
int finesweep_fp8_gate_backward(int activation, const void* z, const void* dy, void* dz, const float* factors,
                                std::int64_t rows, std::int64_t inner, void* codes, float* scales, void* stream);
/// y[r, c] = y[r, c] · row_scales[r] · column_scales[c] + bias[c] + residual[r, c] in fp32, each null: left out.
/// y bf16 [rows, columns] contiguous; bias and residual bf16, the latter's rows residual_stride apart.
int finesweep_scale_rows_and_columns(void* y, std::int64_t rows, std::int64_t columns, const float* row_scales,
                                     const float* column_scales, const void* bias, const void* residual,
                                     std::int64_t residual_stride, void* stream);

/// Of a pack's IA3: y[t, c] = x[t, c] · factors[job of t, c]; what belongs to no job is copied. y may be x. The
/// factors [jobs, width] have the type of x, their rows lie factor_stride apart.
int finesweep_job_scales_forward(const void* x, std::int64_t x_stride, const void* factors,
                                 std::int64_t factor_stride, const std::int32_t* token_jobs, void* y,
                                 std::int64_t y_stride, std::int64_t tokens, std::int64_t width, int type,
                                 void* stream);
/// The way back: dx, which may be dy, from the same factors; and grad[j, c] += the sum of dy · x over the tokens of
/// job j, in a fixed order (grad null: not wanted, and x is not read). row_jobs [rows] ascend; starts [rows + 2],
/// where the last is the number of rows of the matrices.
int finesweep_job_scales_backward(const void* dy, std::int64_t dy_stride, const void* x, std::int64_t x_stride,
                                  const void* factors, std::int64_t factor_stride, const std::int32_t* row_jobs,
                                  const std::int32_t* starts, std::int64_t rows, std::int64_t jobs, float* grad,
                                  std::int64_t grad_stride, void* dx, std::int64_t dx_stride, std::int64_t width,
                                  int type, void* stream);

/// One trained tensor of an optimiser.
struct FinesweepAdamWTensor {
  float* master;
  float* first;
  float* second;
  float* grad;
  void* value;         // null: master is what the model reads
  int type;            // of value
  int decays;          // weight decay applies
  std::int64_t count;  // values up to this one
  /// Master and moments are contiguous; of grad and value, rows of `columns` elements lie so far apart.
  std::int64_t columns, grad_stride, value_stride;
  std::int32_t job;
  /// The value lies among those of other jobs, which a number that is not finite would spread to: it becomes 0
  /// there, and breaks its job.
  std::int32_t shared;
};
/// Up to finesweep_adamw_chunk() values of tensor number `tensor` from `begin` on.
struct FinesweepAdamWChunk {
  std::int64_t begin;
  std::int32_t tensor;
  std::int32_t unused;
};
std::int64_t finesweep_adamw_chunk();
/// The chunks of one job lie together.
struct FinesweepAdamWJob {
  std::int64_t first_chunk, last_chunk;
};
/// What changes from step to step, of a job; on the device.
struct FinesweepAdamWNumbers {
  float decay, beta1, beta2, one_minus_beta1, one_minus_beta2, epsilon, step_size, inverse_root;
  float max_norm;  // 0: no clipping
  float unused;
  double unscale;  // gradients and loss are multiplied by it
};
/// What a step leaves, of a job: on the device.
struct FinesweepStepResult {
  double loss, grad_norm;
  /// 0: loss or norm were no finite numbers, in this step or one before. Where that is so of any job nothing is
  /// updated.
  std::int32_t finite;
  float clip;
  std::int32_t broken;  // what finesweep_own_columns, or the update before, said of the job
  std::int32_t unused;
};
/// A step of AdamW is these three. Sums of squares of the gradients: partial [chunks], and of all of them total[0]
/// (null: not asked).
int finesweep_adamw_squares(const FinesweepAdamWTensor* tensors, const FinesweepAdamWChunk* chunks,
                            std::int64_t chunk_count, double* partial, double* total, void* stream);
/// Of each job the norm, how it is clipped and whether it is finite; losses, numbers and results [jobs]. The losses
/// go to the results and become 0, and so does `broken` (null: none); a job that was broken counts as not finite.
int finesweep_adamw_verdict(const double* partial, const FinesweepAdamWJob* jobs, std::int64_t job_count,
                            const FinesweepAdamWNumbers* numbers, double* losses, std::int32_t* broken,
                            FinesweepStepResult* results, void* stream);
/// Updates these chunks and sets their gradients to 0. All is on the device.
int finesweep_adamw_update(const FinesweepAdamWTensor* tensors, const FinesweepAdamWChunk* chunks,
                           std::int64_t chunk_count, std::int64_t job_count, const FinesweepAdamWNumbers* numbers,
                           const FinesweepStepResult* results, std::int32_t* broken, void* stream);

/// Attention as plain products works on heads that lie apart and are padded to one length.
struct FinesweepHeads {
  std::int64_t rows, heads, length, size;  // [rows, heads, length, size]
  const std::int32_t* begin;               // [rows]: where each row's tokens stand in the matrix
  const std::int32_t* end;
};
/// out = heads of a matrix, `source_heads` of them from `column` on, each `heads / source_heads` times; 0 behind a
/// row's end.
int finesweep_gather_heads(const void* matrix, std::int64_t stride, std::int64_t column, std::int64_t source_heads,
                           const FinesweepHeads* heads, void* out, int type, void* stream);
/// The way back of it: sums what came from one head.
int finesweep_scatter_heads(const void* from, const FinesweepHeads* heads, std::int64_t source_heads, void* matrix,
                            std::int64_t stride, std::int64_t column, int type, void* stream);

struct FinesweepSoftmax {
  std::int64_t rows, heads, queries, keys;  // scores [rows, heads, queries, keys]
  const std::int32_t* query_begin;          // [rows] …
  const std::int32_t* query_end;
  const std::int32_t* key_begin;
  const std::int32_t* key_end;
  float scale;
  int causal;
  std::int64_t window;  // 0: none
  /// bias[head · bias_stride + bias_zero + key - position] is added to scaled scores; null: none.
  const float* bias;
  std::int64_t bias_stride, bias_zero;
};
/// probabilities = mask · softmax(scale · scores + …), 0 for what is padding.
int finesweep_softmax_forward(const FinesweepSoftmax* what, const float* scores, void* probabilities,
                              const FinesweepDropout* dropout, int type, void* stream);
/// From scores and the gradient of the masked probabilities: these probabilities again, and the gradient of the
/// scores. d_bias (null: none) as bias: gets sums, in no fixed order.
int finesweep_softmax_backward(const FinesweepSoftmax* what, const float* scores, const float* d_probabilities,
                               void* probabilities, void* d_scores, float* d_bias, const FinesweepDropout* dropout,
                               int type, void* stream);

/// y [rows, out] = x Wᵀ + bias, for few outputs: x [rows, in] of `type`, the rest fp32, all contiguous; bias may be
/// null.
int finesweep_few_outputs(const void* x, std::int64_t rows, std::int64_t in, const float* weight, const float* bias,
                          std::int64_t out, float* y, int type, void* stream);

/// Attention in one pass, heads side by side in the columns of matrices: head h of a query at query + h · size.
struct FinesweepFlash {
  std::int64_t rows, heads, key_heads, size;  // query head h reads key head h / (heads / key_heads)
  std::int64_t longest_query, longest_key;
  const std::int32_t* query_begin;  // [rows]: where each row's tokens stand in the matrices
  const std::int32_t* query_end;
  const std::int32_t* key_begin;
  const std::int32_t* key_end;
  const void *query, *key, *value;
  std::int64_t query_stride, key_stride;  // of tokens; key and value have the same
  float scale;
  int causal;
  std::int64_t window;
  const float* bias;  // as FinesweepSoftmax
  std::int64_t bias_stride, bias_zero;
  FinesweepDropout dropout;
};
/// bf16 and fp16, heads of up to 64, an even number. Matrices begin at multiples of 16 bytes and strides are
/// multiples of 8; where the size is no multiple of 8, of 4 bytes and of 2.
int finesweep_flash_fits(std::int64_t size, int type);
/// out [tokens, heads × size]; log_sum [tokens, heads]: log₂ Σ 2^(scores · log₂ e), for the way back.
int finesweep_flash_forward(const FinesweepFlash* what, void* out, std::int64_t out_stride, float* log_sum,
                            int type, void* stream);
/// d_query, and d_key with d_value, may be null. delta [tokens, heads] is scratch. Writes no token that is in no
/// row.
int finesweep_flash_backward(const FinesweepFlash* what, const void* out, const void* d_out,
                             std::int64_t out_stride, std::int64_t tokens, const float* log_sum, float* delta,
                             void* d_query, std::int64_t d_query_stride, void* d_key, void* d_value,
                             std::int64_t d_key_stride, int type, void* stream);
}

/// Every function above but for the first word of its name, for who loads them.
// clang-format off
#define FINESWEEP_TRAINING_FUNCTIONS(X) \
  X(norm_forward) X(norm_backward) X(norm_fits) X(partial_rows) \
  X(add_partial) X(partial_column_sums) X(dropout) X(activation_forward) \
  X(activation_backward) X(gate_forward) X(gate_backward) X(rotate) \
  X(gather_rows) X(add_rows) X(scatter_rows) X(mean_forward) \
  X(mean_backward) X(cross_entropy) X(distillation) X(add_sum) X(adamw_chunk) \
  X(adamw_squares) X(adamw_verdict) X(adamw_update) X(gather_heads) X(scatter_heads) X(softmax_forward) \
  X(softmax_backward) X(fp8_quantize) X(fp8_activation_forward) X(fp8_activation_backward) \
  X(fp8_gate_forward) X(fp8_gate_backward) X(scale_rows_and_columns) X(own_columns) X(job_scales_forward) X(job_scales_backward) X(concatenate) X(copy_matrices) X(few_outputs) X(flash_fits) X(flash_forward) X(flash_backward)
// clang-format on
