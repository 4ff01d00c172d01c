#include <ATen/TensorOperators.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention_backward.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <tuple>
#include <utility>

#include "worker/kernels/attention_choice.h"
#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/ops.h"
#include "worker/kernels/gradient_watch.h"

namespace finesweep::worker::gpu {
namespace {

/// Where the rows of one side stand: [rows] int32 on the device.
struct Spans {
  at::Tensor begin, end;
  std::int64_t longest = 0;

  explicit Spans(const DeviceLayout& layout)
      : begin(layout.starts.narrow(0, 0, layout.row_count)),
        end(layout.starts.narrow(0, 1, layout.row_count)),
        longest(layout.longest) {}
  Spans(const RowSpans& rows, c10::Device device) : longest(rows.longest()) {
    std::vector<std::int64_t> last;
    for (std::int64_t r = 0; r < rows.rows(); ++r) last.push_back(rows.begin[r] + rows.count[r]);
    begin = upload(at::tensor(rows.begin, at::kInt), device);
    end = upload(at::tensor(last, at::kInt), device);
  }
  const std::int32_t* begin_from(std::int64_t row) const { return begin.const_data_ptr<std::int32_t>() + row; }
  const std::int32_t* end_from(std::int64_t row) const { return end.const_data_ptr<std::int32_t>() + row; }
};

Spans spans_of(const RowSpans& rows, c10::Device device) {
  return rows.of ? Spans(rows.of->on(device)) : Spans(rows, device);
}

bool needs_grad(const AttentionInputs& in, const AttentionOptions& options) {
  return in.query.needs_grad() || in.key_value.needs_grad() ||
         (options.bias != nullptr && options.bias->table->trained);
}

Parameter* table_of(const AttentionOptions& options) {
  return options.bias == nullptr ? nullptr : options.bias->table;
}

/// Gives the gradients of the matrices that hold the inputs to where they belong.
void add_gradients(const AttentionInputs& in, const at::Tensor& d_query, const at::Tensor& d_key_value) {
  if (in.key_value.slot) in.key_value.slot->add(d_key_value);
  if (!in.query.value.is_same(in.key_value.value) && in.query.slot) in.query.slot->add(d_query);
}

// ---- the libraries' fused kernels

/// The columns of heads within a matrix: [tokens, heads, size], a view.
at::Tensor heads_of(const at::Tensor& matrix, std::int64_t column, std::int64_t heads, std::int64_t size) {
  return matrix.narrow(1, column, heads * size).unflatten(1, {heads, size});
}

/// Gradients [tokens, heads, size] of query, key and value, where they stand in the matrices.
void add_fused_gradients(const AttentionInputs& in, const AttentionOptions& options, const at::Tensor& dq,
                         const at::Tensor& dk, const at::Tensor& dv) {
  const auto flat = [](const at::Tensor& d) { return d.reshape({d.size(0), -1}); };
  const std::int64_t query_width = options.heads * options.size, key_width = options.key_heads * options.size;
  if (in.query.value.is_same(in.key_value.value)) {
    const bool packed = in.query_column == 0 && in.key_column == query_width &&
                        in.value_column == query_width + key_width &&
                        in.query.value.size(1) == query_width + 2 * key_width;
    at::Tensor d;
    if (packed) {
      const std::vector<at::Tensor> parts{flat(dq), flat(dk), flat(dv)};
      d = empty_with_room(parts[0].size(0), in.query.value.size(1), in.query.slot ? in.query.slot->room : 0,
                          parts[0].options());
      concatenate(parts, d);
    } else {
      d = at::zeros_like(in.query.value);
      d.narrow(1, in.query_column, query_width).copy_(flat(dq));
      d.narrow(1, in.key_column, key_width).copy_(flat(dk));
      d.narrow(1, in.value_column, key_width).copy_(flat(dv));
    }
    add_gradients(in, d, d);
    return;
  }
  at::Tensor d_query, d_key_value;
  if (in.query.slot) {
    d_query = flat(dq);
    if (in.query.value.size(1) != query_width) {
      d_query = at::zeros_like(in.query.value);
      d_query.narrow(1, in.query_column, query_width).copy_(flat(dq));
    }
  }
  if (in.key_value.slot) {
    const bool packed =
        in.key_column == 0 && in.value_column == key_width && in.key_value.value.size(1) == 2 * key_width;
    if (packed) {
      d_key_value = at::cat({flat(dk), flat(dv)}, 1);
    } else {
      d_key_value = at::zeros_like(in.key_value.value);
      d_key_value.narrow(1, in.key_column, key_width).copy_(flat(dk));
      d_key_value.narrow(1, in.value_column, key_width).copy_(flat(dv));
    }
  }
  add_gradients(in, d_query, d_key_value);
}

bool fused_fits(const AttentionInputs& in, const AttentionOptions& options, const RowSpans& keys,
                const Dropout& dropout) {
  const bool narrow = in.query.value.scalar_type() == at::kBFloat16 || in.query.value.scalar_type() == at::kHalf;
  return narrow && keys.of && !dropout.active() && options.bias == nullptr && options.size % 8 == 0 &&
         options.size <= 256 && AttentionChoice::current() == AttentionKind::flash;
}

/// Rows one behind the other, of any lengths.
Var flash_attention(Tape* tape, const AttentionInputs& in, const Layout& queries, const RowSpans& keys,
                    const AttentionOptions& options) {
  const c10::Device device = in.query.value.device();
  const DeviceLayout &query_rows = queries->on(device), &key_rows = keys.of->on(device);
  const at::Tensor q = heads_of(in.query.value, in.query_column, options.heads, options.size);
  const at::Tensor k = heads_of(in.key_value.value, in.key_column, options.key_heads, options.size);
  const at::Tensor v = heads_of(in.key_value.value, in.value_column, options.key_heads, options.size);
  const at::Tensor query_starts = query_rows.starts, key_starts = key_rows.starts;
  const std::int64_t longest_query = query_rows.longest, longest_key = key_rows.longest;
  std::optional<std::int64_t> left, right;
  if (options.causal && options.window > 0) {
    left = options.window - 1;
    right = 0;
  }
  const bool causal = options.causal && !left;
  const auto [out, log_sum, random, unused, debug] =
      at::_flash_attention_forward(q, k, v, query_starts, key_starts, longest_query, longest_key, /*dropout_p=*/0.0,
                                   causal, /*return_debug_mask=*/false, options.scale, left, right);
  const at::Tensor flat = out.reshape({out.size(0), options.heads * options.size});
  if (tape == nullptr || !needs_grad(in, options)) return Var(flat);
  const Var result = tape->track(flat);
  tape->record([=, slot = result.slot, out = out, log_sum = log_sum, random = random, unused = unused] {
    if (!slot->grad.defined()) return;
    const at::Tensor d_out = std::move(slot->grad).reshape(out.sizes());
    const auto [dq, dk, dv] = at::_flash_attention_backward(d_out, q, k, v, out, log_sum, query_starts, key_starts,
                                                            longest_query, longest_key, /*dropout_p=*/0.0, causal,
                                                            random, unused, options.scale, left, right);
    add_fused_gradients(in, options, dq, dk, dv);
  });
  return result;
}

/// Whether cuDNN has computed what it was asked so far; what it refuses goes to the other kernels from then on.
bool& cudnn_works() {
  static bool works = true;
  return works;
}

bool cudnn_fits(const AttentionInputs& in, const Layout& queries, const RowSpans& keys,
                const AttentionOptions& options) {
  if (!cudnn_works() || options.window > 0 || options.size > 128 || options.key_heads != options.heads)
    return false;
  const c10::Device device = in.query.value.device();
  const DeviceLayout &query_rows = queries->on(device), &key_rows = keys.of->on(device);
  if (!query_rows.even || !key_rows.even || query_rows.longest < 32) return false;
  return !options.causal || query_rows.longest == key_rows.longest;
}

/// Rows of one length.
Var cudnn_attention(Tape* tape, const AttentionInputs& in, const Layout& queries, const RowSpans& keys,
                    const AttentionOptions& options) {
  const std::int64_t rows = queries->rows, size = options.size, heads = options.heads;
  const auto by_row = [&](const at::Tensor& matrix, std::int64_t column) {
    return heads_of(matrix, column, heads, size).unflatten(0, {rows, -1}).transpose(1, 2);
  };
  const at::Tensor q = by_row(in.query.value, in.query_column), k = by_row(in.key_value.value, in.key_column),
                   v = by_row(in.key_value.value, in.value_column);
  const bool recorded = tape != nullptr && needs_grad(in, options);
  const auto [out, log_sum, starts_q, starts_k, longest_q, longest_k, seed, offset, debug] =
      at::_scaled_dot_product_cudnn_attention(q, k, v, /*attn_bias=*/{}, /*compute_log_sumexp=*/recorded,
                                              /*dropout_p=*/0.0, options.causal, /*return_debug_mask=*/false,
                                              options.scale);
  const at::Tensor flat = out.transpose(1, 2).reshape({-1, heads * size});
  if (!recorded) return Var(flat);
  const Var result = tape->track(flat);
  tape->record([=, slot = result.slot, out = out, log_sum = log_sum, seed = seed, offset = offset,
                starts_q = starts_q, starts_k = starts_k, longest_q = longest_q.expect_int(),
                longest_k = longest_k.expect_int()] {
    if (!slot->grad.defined()) return;
    const at::Tensor d_out =
        std::move(slot->grad).contiguous().unflatten(1, {heads, size}).unflatten(0, {rows, -1}).transpose(1, 2);
    const auto [dq, dk, dv] = at::_scaled_dot_product_cudnn_attention_backward(
        d_out, q, k, v, out, log_sum, seed, offset, /*attn_bias=*/{}, starts_q, starts_k, longest_q, longest_k,
        /*dropout_p=*/0.0, options.causal, options.scale);
    const auto by_token = [](const at::Tensor& d) { return d.transpose(1, 2).flatten(0, 1); };
    add_fused_gradients(in, options, by_token(dq), by_token(dk), by_token(dv));
  });
  return result;
}

// ---- our own in one pass, and plain products

/// Scores of so many bytes at once.
constexpr std::int64_t kScoreBytes = std::int64_t{64} << 20;

/// What scores get by distance, gathered from the table of buckets.
struct Distances {
  std::int64_t stride = 0, zero = 0;
  at::Tensor buckets;  // [stride] int64
  at::Tensor values;   // [heads, stride] fp32

  Distances(const RelativeBias& bias, std::int64_t longest_query, std::int64_t longest_key)
      : stride(longest_query + longest_key), zero(longest_key) {
    const at::Tensor& table = bias.table->value;
    // Made once: a captured step reads it again and again.
    static thread_local std::map<std::tuple<bool, std::int64_t, std::int64_t, std::int64_t, std::int64_t, int>,
                                 at::Tensor>
        known;
    at::Tensor& mine = known[{bias.bidirectional, table.size(0), bias.max_distance, zero, stride,
                              static_cast<int>(table.device().index())}];
    if (!mine.defined()) {
      std::vector<std::int64_t> numbers;
      for (std::int64_t i = 0; i < stride; ++i) {
        numbers.push_back(relative_bucket(i - zero, bias.bidirectional, table.size(0), bias.max_distance));
      }
      mine = upload(at::tensor(numbers, at::kLong), table.device());
    }
    buckets = mine;
    values = at::index_select(table.to(at::kFloat), 0, buckets).t().contiguous();
  }
};

/// One call of attention by products, for both ways.
struct Plain {
  AttentionInputs in;
  Layout queries;
  AttentionOptions options;
  Dropout dropout;
  Spans query_rows, key_rows;
  std::shared_ptr<const Distances> distances;
  std::int64_t rows, step;

  Plain(const AttentionInputs& inputs, const Layout& layout, const RowSpans& keys, const AttentionOptions& how,
        const Dropout& rate)
      : in(inputs),
        queries(layout),
        options(how),
        dropout(rate),
        query_rows(layout->on(inputs.query.value.device())),
        key_rows(spans_of(keys, inputs.query.value.device())),
        rows(layout->rows) {
    if (options.bias != nullptr) {
      distances = std::make_shared<const Distances>(*options.bias, query_rows.longest, key_rows.longest);
    }
    const std::int64_t of_row = options.heads * query_rows.longest * key_rows.longest * 4;
    step = std::clamp<std::int64_t>(kScoreBytes / std::max<std::int64_t>(of_row, 1), 1, rows);
  }

  FinesweepHeads heads(const Spans& spans, std::int64_t first, std::int64_t count) const {
    return {count, options.heads, spans.longest, options.size, spans.begin_from(first), spans.end_from(first)};
  }
  /// [count × heads, length, size]
  at::Tensor gathered(const at::Tensor& matrix, std::int64_t column, std::int64_t source_heads, const Spans& spans,
                      std::int64_t first, std::int64_t count) const {
    const at::Tensor out = at::empty({count * options.heads, spans.longest, options.size}, matrix.options());
    const FinesweepHeads view = heads(spans, first, count);
    call(&CudaModule::gather_heads, "attention", matrix, matrix.const_data_ptr(), matrix.stride(0), column,
         source_heads, &view, out.mutable_data_ptr(), type_of(out));
    return out;
  }
  void scatter(const at::Tensor& from, const at::Tensor& matrix, std::int64_t column, std::int64_t source_heads,
               const Spans& spans, std::int64_t first, std::int64_t count) const {
    const FinesweepHeads view = heads(spans, first, count);
    call(&CudaModule::scatter_heads, "attention", matrix, from.const_data_ptr(), &view, source_heads,
         matrix.mutable_data_ptr(), matrix.stride(0), column, type_of(matrix));
  }
  FinesweepSoftmax softmax(std::int64_t first, std::int64_t count) const {
    FinesweepSoftmax view{};
    view.rows = count;
    view.heads = options.heads;
    view.queries = query_rows.longest;
    view.keys = key_rows.longest;
    view.query_begin = query_rows.begin_from(first);
    view.query_end = query_rows.end_from(first);
    view.key_begin = key_rows.begin_from(first);
    view.key_end = key_rows.end_from(first);
    view.scale = static_cast<float>(options.scale);
    view.causal = options.causal ? 1 : 0;
    view.window = options.window;
    if (distances) {
      view.bias = distances->values.const_data_ptr<float>();
      view.bias_stride = distances->stride;
      view.bias_zero = distances->zero;
    }
    return view;
  }
  FinesweepDropout mask(std::int64_t first) const {
    FinesweepDropout view = attention_view(dropout, queries, in.query.value.device());
    if (view.rows != nullptr) view.rows += first;
    return view;
  }
  /// a bᵀ in fp32.
  static at::Tensor product(const at::Tensor& a, const at::Tensor& b) {
    const at::Tensor turned = b.transpose(1, 2);
    return a.scalar_type() == at::kFloat ? at::bmm(a, turned) : at::bmm(a, turned, at::kFloat);
  }

  at::Tensor forward() const {
    const at::Tensor out =
        at::zeros({in.query.value.size(0), options.heads * options.size}, in.query.value.options());
    for (std::int64_t first = 0; first < rows; first += step) {
      const std::int64_t count = std::min(step, rows - first);
      const at::Tensor q = gathered(in.query.value, in.query_column, options.heads, query_rows, first, count);
      const at::Tensor k = gathered(in.key_value.value, in.key_column, options.key_heads, key_rows, first, count);
      const at::Tensor v = gathered(in.key_value.value, in.value_column, options.key_heads, key_rows, first, count);
      const at::Tensor scores = product(q, k), probabilities = at::empty(scores.sizes(), q.options());
      const FinesweepSoftmax view = softmax(first, count);
      const FinesweepDropout dropped = mask(first);
      call(&CudaModule::softmax_forward, "attention", scores, &view, scores.const_data_ptr<float>(),
           probabilities.mutable_data_ptr(), &dropped, type_of(q));
      scatter(at::bmm(probabilities, v), out, 0, options.heads, query_rows, first, count);
    }
    return out;
  }

  void backward(const at::Tensor& d_out) const {
    const bool together = in.query.value.is_same(in.key_value.value);
    const at::Tensor d_key_value = at::zeros_like(in.key_value.value);
    const at::Tensor d_query = together ? d_key_value : at::zeros_like(in.query.value);
    const bool table_trained = options.bias != nullptr && options.bias->table->trained;
    const at::Tensor d_values = table_trained ? at::zeros_like(distances->values) : at::Tensor();
    for (std::int64_t first = 0; first < rows; first += step) {
      const std::int64_t count = std::min(step, rows - first);
      const at::Tensor q = gathered(in.query.value, in.query_column, options.heads, query_rows, first, count);
      const at::Tensor k = gathered(in.key_value.value, in.key_column, options.key_heads, key_rows, first, count);
      const at::Tensor v = gathered(in.key_value.value, in.value_column, options.key_heads, key_rows, first, count);
      const at::Tensor d = gathered(d_out, 0, options.heads, query_rows, first, count);
      const at::Tensor scores = product(q, k), d_probabilities = product(d, v);
      const at::Tensor probabilities = at::empty(scores.sizes(), q.options());
      const at::Tensor d_scores = at::empty(scores.sizes(), q.options());
      const FinesweepSoftmax view = softmax(first, count);
      const FinesweepDropout dropped = mask(first);
      call(&CudaModule::softmax_backward, "attention's gradient", scores, &view, scores.const_data_ptr<float>(),
           d_probabilities.const_data_ptr<float>(), probabilities.mutable_data_ptr(), d_scores.mutable_data_ptr(),
           table_trained ? d_values.mutable_data_ptr<float>() : nullptr, &dropped, type_of(q));
      scatter(at::bmm(d_scores, k), d_query, in.query_column, options.heads, query_rows, first, count);
      scatter(at::bmm(d_scores.transpose(1, 2), q), d_key_value, in.key_column, options.key_heads, key_rows, first,
              count);
      scatter(at::bmm(probabilities.transpose(1, 2), d), d_key_value, in.value_column, options.key_heads, key_rows,
              first, count);
    }
    if (table_trained) options.bias->table->grad.index_add_(0, distances->buckets, d_values.t());
    add_gradients(in, d_query, d_key_value);
  }
};

bool is_placed(const at::Tensor& matrix, std::int64_t column, std::int64_t size) {
  const std::int64_t together = size % 8 == 0 ? 8 : 2;
  return matrix.stride(1) == 1 && matrix.stride(0) % together == 0 && column % together == 0 &&
         reinterpret_cast<std::uintptr_t>(matrix.const_data_ptr()) % static_cast<std::uintptr_t>(2 * together) == 0;
}

/// The kernels of cuda/flash.cu.
bool own_fits(const AttentionInputs& in, const AttentionOptions& options, const RowSpans& keys) {
  const bool bias_stays = options.bias == nullptr || !options.bias->table->trained;
  return keys.of && bias_stays && AttentionChoice::current() == AttentionKind::flash &&
         cuda_module()->flash_fits(options.size, type_of(in.query.value)) != 0 &&
         is_placed(in.query.value, in.query_column, options.size) &&
         is_placed(in.key_value.value, in.key_column, options.size) &&
         is_placed(in.key_value.value, in.value_column, options.size);
}

struct Own {
  AttentionInputs in;
  Layout queries;
  AttentionOptions options;
  Dropout dropout;
  Spans query_rows, key_rows;
  std::shared_ptr<const Distances> distances;
  std::int64_t rows;
  bool query_padded, key_padded;

  Own(const AttentionInputs& inputs, const Layout& layout, const RowSpans& keys, const AttentionOptions& how,
      const Dropout& rate)
      : in(inputs),
        queries(layout),
        options(how),
        dropout(rate),
        query_rows(layout->on(inputs.query.value.device())),
        key_rows(keys.of->on(inputs.query.value.device())),
        rows(layout->rows),
        query_padded(!layout->on(inputs.query.value.device()).even),
        key_padded(!keys.of->on(inputs.query.value.device()).even) {
    if (options.bias != nullptr) {
      distances = std::make_shared<const Distances>(*options.bias, query_rows.longest, key_rows.longest);
    }
  }

  FinesweepFlash view() const {
    const auto at_column = [](const at::Tensor& matrix, std::int64_t column) {
      return static_cast<const void*>(static_cast<const char*>(matrix.const_data_ptr()) +
                                      column * matrix.element_size());
    };
    FinesweepFlash flash{};
    flash.rows = rows;
    flash.heads = options.heads;
    flash.key_heads = options.key_heads;
    flash.size = options.size;
    flash.longest_query = query_rows.longest;
    flash.longest_key = key_rows.longest;
    flash.query_begin = query_rows.begin_from(0);
    flash.query_end = query_rows.end_from(0);
    flash.key_begin = key_rows.begin_from(0);
    flash.key_end = key_rows.end_from(0);
    flash.query = at_column(in.query.value, in.query_column);
    flash.key = at_column(in.key_value.value, in.key_column);
    flash.value = at_column(in.key_value.value, in.value_column);
    flash.query_stride = in.query.value.stride(0);
    flash.key_stride = in.key_value.value.stride(0);
    flash.scale = static_cast<float>(options.scale);
    flash.causal = options.causal ? 1 : 0;
    flash.window = options.causal ? options.window : 0;
    if (distances) {
      flash.bias = distances->values.const_data_ptr<float>();
      flash.bias_stride = distances->stride;
      flash.bias_zero = distances->zero;
    }
    flash.dropout = attention_view(dropout, queries, in.query.value.device());
    return flash;
  }

  at::Tensor forward(const at::Tensor& log_sum) const {
    const std::vector<std::int64_t> shape{in.query.value.size(0), options.heads * options.size};
    const at::Tensor out =
        query_padded ? at::zeros(shape, in.query.value.options()) : at::empty(shape, in.query.value.options());
    const FinesweepFlash flash = view();
    call(&CudaModule::flash_forward, "attention", out, &flash, out.mutable_data_ptr(), out.stride(0),
         log_sum.mutable_data_ptr<float>(), type_of(out));
    return out;
  }

  void backward(const at::Tensor& out, const at::Tensor& d_out, const at::Tensor& log_sum) const {
    const bool together = in.query.value.is_same(in.key_value.value);
    const std::int64_t query_width = options.heads * options.size, key_width = options.key_heads * options.size;
    const auto gradient_like = [](const at::Tensor& x, bool written) {
      return written ? at::empty(x.sizes(), x.options()) : at::zeros(x.sizes(), x.options());
    };
    const std::int64_t other = together ? query_width : 0;
    const at::Tensor d_key_value =
        gradient_like(in.key_value.value, !key_padded && in.key_value.value.size(1) == other + 2 * key_width);
    const at::Tensor d_query =
        together ? d_key_value
                 : gradient_like(in.query.value, !query_padded && in.query.value.size(1) == query_width);
    const auto at_column = [](const at::Tensor& matrix, std::int64_t column) {
      return static_cast<void*>(static_cast<char*>(matrix.mutable_data_ptr()) + column * matrix.element_size());
    };
    const at::Tensor delta = at::empty(log_sum.sizes(), log_sum.options());
    const FinesweepFlash flash = view();
    call(&CudaModule::flash_backward, "attention's gradient", out, &flash, out.const_data_ptr(),
         d_out.const_data_ptr(), out.stride(0), out.size(0), log_sum.const_data_ptr<float>(),
         delta.mutable_data_ptr<float>(), at_column(d_query, in.query_column), d_query.stride(0),
         at_column(d_key_value, in.key_column), at_column(d_key_value, in.value_column), d_key_value.stride(0),
         type_of(out));
    add_gradients(in, d_query, d_key_value);
  }
};

Var own_attention(Tape* tape, const AttentionInputs& in, const Layout& queries, const RowSpans& keys,
                  const AttentionOptions& options, const Dropout& dropout) {
  const Own own(in, queries, keys, options, dropout);
  const at::Tensor log_sum =
      at::empty({in.query.value.size(0), options.heads}, in.query.value.options().dtype(at::kFloat));
  const at::Tensor out = own.forward(log_sum);
  if (tape == nullptr || !needs_grad(in, options)) return Var(out);
  const Var result = tape->track(out);
  tape->record([slot = result.slot, own, out, log_sum] {
    if (slot->grad.defined()) own.backward(out, std::move(slot->grad).contiguous(), log_sum);
  });
  adds_to(tape, {table_of(options)});
  return result;
}

Var plain_attention(Tape* tape, const AttentionInputs& in, const Layout& queries, const RowSpans& keys,
                    const AttentionOptions& options, const Dropout& dropout) {
  const Plain plain(in, queries, keys, options, dropout);
  const at::Tensor out = plain.forward();
  if (tape == nullptr || !needs_grad(in, options)) return Var(out);
  const Var result = tape->track(out);
  tape->record([slot = result.slot, plain] {
    if (slot->grad.defined()) plain.backward(std::move(slot->grad).contiguous());
  });
  adds_to(tape, {table_of(options)});
  return result;
}

}  // namespace

Var attention(Tape* tape, const AttentionInputs& inputs, const Layout& queries, const RowSpans& keys,
              const AttentionOptions& options, const Dropout& dropout) {
  if (!fused_fits(inputs, options, keys, dropout)) {
    if (own_fits(inputs, options, keys)) return own_attention(tape, inputs, queries, keys, options, dropout);
    return plain_attention(tape, inputs, queries, keys, options, dropout);
  }
  if (cudnn_fits(inputs, queries, keys, options)) {
    try {
      return cudnn_attention(tape, inputs, queries, keys, options);
    } catch (const std::exception& error) {
      const std::string reason = error.what();
      std::fprintf(stderr, "cuDNN does not compute this attention, other kernels do: %s\n",
                   reason.substr(0, reason.find('\n')).c_str());
      cudnn_works() = false;
    }
  }
  return flash_attention(tape, inputs, queries, keys, options);
}

}  // namespace finesweep::worker::gpu
