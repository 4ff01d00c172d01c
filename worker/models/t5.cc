#include "worker/models/t5.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/flip.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "worker/data/batch.h"

namespace finesweep::worker {
namespace {

std::int64_t counted_labels(const Batch& batch) {
  return batch.labels.ne(-100).sum().item<std::int64_t>();
}

/// 1 up to the last label of each row that counts; a row's first token is always there.
at::Tensor mask_up_to_last(const at::Tensor& labels) {
  const at::Tensor counts_from_here = at::flip(at::cumsum(at::flip(labels.ne(-100), {1}), 1), {1});
  const at::Tensor mask = counts_from_here.gt(0).to(at::kLong);
  mask.select(1, 0).fill_(1);
  return mask;
}

at::Tensor shifted_right(const at::Tensor& labels, std::int64_t start, std::int64_t padding) {
  const at::Tensor ids = at::full_like(labels, start);
  const std::int64_t kept = labels.size(1) - 1;
  ids.narrow(1, 1, kept).copy_(labels.narrow(1, 0, kept));
  return ids.masked_fill_(ids.eq(-100), padding);
}

}  // namespace

T5Model::T5Model(std::shared_ptr<const Pretrained> pretrained, const T5Config& config, const ModelOptions& options)
    : pretrained_(std::move(pretrained)),
      config_(config),
      compute_type_(scalar_type_of(options.precision)),
      sum_type_(compute_type_ == at::kHalf ? at::kFloat : compute_type_),
      weights_(*pretrained_, compute_type_) {
  if (options.model_dropout) config_.dropout = *options.model_dropout;
  weights_.adopt(options);
  embedding_.words = weights_.table("shared");
  embedding_.padding_id = -1;
  encoder_ = make_stack("encoder", config_.encoder_layers, /*decodes=*/false);
  decoder_ = make_stack("decoder", config_.decoder_layers, /*decodes=*/true);
  head_.paths = {"lm_head"};
  head_.weight = weights_.table("lm_head");
  if (head_.weight == nullptr) {
    head_.weight = embedding_.words;
    head_.weight->is_table = false;  // as a head it has a gradient in every row
  }
}

T5Model::Block T5Model::make_block(const std::string& path, bool decodes) {
  const auto norm = [&](const std::string& layer) {
    return weights_.norm(layer + ".layer_norm", config_.norm_epsilon, NormKind::root_mean_square);
  };
  Block block;
  const std::string first = path + ".layer.0", attention = first + ".SelfAttention";
  block.attention_norm = norm(first);
  block.qkv = weights_.linear({attention + ".q", attention + ".k", attention + ".v"});
  block.output = weights_.linear({attention + ".o"});
  block.attention_site = dropout_site(attention);
  block.output_site = dropout_site(first);
  if (decodes) {
    const std::string second = path + ".layer.1", cross = second + ".EncDecAttention";
    block.cross_norm = norm(second);
    block.query = weights_.linear({cross + ".q"});
    block.key_value = weights_.linear({cross + ".k", cross + ".v"});
    block.cross_output = weights_.linear({cross + ".o"});
    block.cross_site = dropout_site(cross);
    block.cross_output_site = dropout_site(second);
  }
  const std::string last = path + (decodes ? ".layer.2" : ".layer.1"), dense = last + ".DenseReluDense";
  block.feed_forward_norm = norm(last);
  block.up = config_.gated ? weights_.linear({dense + ".wi_0", dense + ".wi_1"}) : weights_.linear({dense + ".wi"});
  block.down = weights_.linear({dense + ".wo"});
  block.inner_site = dropout_site(dense);
  block.down_site = dropout_site(last);
  return block;
}

T5Model::Stack T5Model::make_stack(const std::string& name, std::int64_t layers, bool decodes) {
  Stack stack;
  stack.decodes = decodes;
  for (std::int64_t i = 0; i < layers; ++i) {
    stack.blocks.push_back(make_block(name + ".block." + std::to_string(i), decodes));
  }
  stack.bias.table = weights_.table(name + ".block.0.layer.0.SelfAttention.relative_attention_bias");
  stack.bias.bidirectional = !decodes;
  stack.bias.max_distance = config_.max_distance;
  stack.final_norm = weights_.norm(name + ".final_layer_norm", config_.norm_epsilon, NormKind::root_mean_square);
  stack.embedding_site = dropout_site(name + ".embed_tokens");
  stack.final_site = dropout_site(name + ".final_layer_norm");
  return stack;
}

std::vector<LinearModule*> T5Model::linear_modules() {
  std::vector<LinearModule*> modules;
  for (Stack* stack : {&encoder_, &decoder_}) {
    for (Block& block : stack->blocks) {
      modules.insert(modules.end(), {&block.qkv, &block.output});
      if (stack->decodes) modules.insert(modules.end(), {&block.query, &block.key_value, &block.cross_output});
      modules.insert(modules.end(), {&block.up, &block.down});
    }
  }
  modules.push_back(&head_);
  return modules;
}

bool T5Model::trains(const Stack& stack, const Block& block) const {
  bool any = stack.bias.table->trained;
  for (const LinearModule* module : {&block.qkv, &block.output, &block.up, &block.down}) any |= module->trains();
  if (!stack.decodes) return any;
  for (const LinearModule* module : {&block.query, &block.key_value, &block.cross_output}) any |= module->trains();
  return any;
}

std::int64_t T5Model::counted(const Batch& batch) const {
  return counted_labels(batch);
}

Status T5Model::check(const Batch& batch) const {
  if (Status status = check_within(batch.input_ids, config_.vocabulary, "token id"); !status) return status;
  if (Status status = check_within(batch.decoder_input_ids, config_.vocabulary, "decoder token id"); !status) {
    return status;
  }
  if (!batch.labels.defined()) return {};
  if (batch.decoder_input_ids.defined() && batch.decoder_input_ids.sizes() != batch.labels.sizes()) {
    return Error{"labels and decoder_input_ids differ in shape"};
  }
  return check_within(batch.labels.masked_select(batch.labels.ne(-100)), config_.vocabulary, "label");
}

std::optional<BatchInputs> T5Model::inputs(const Batch& batch, std::int64_t first_row) {
  BatchInputs inputs;
  const Tokens source = padded_source(batch, first_row), target = padded_target(batch, first_row);
  inputs.source = {source.layout, source.ids, {}, {}};
  inputs.tokens = {target.layout, target.ids, {}, {}};
  inputs.labels = at::index_select(batch.labels.reshape({-1}), 0, target.layout->padded_index);
  inputs.of_tokens = true;
  return inputs;
}

T5Model::Tokens T5Model::source_tokens(const Batch& batch, const Pass& pass) const {
  if (pass.inputs != nullptr) return {pass.inputs->source.ids, pass.inputs->source.layout};
  Tokens tokens = padded_source(batch, pass.first_row);
  tokens.ids = tokens.ids.to(device());
  return tokens;
}

T5Model::Tokens T5Model::decoder_tokens(const Batch& batch, const Pass& pass) const {
  if (pass.inputs != nullptr) return {pass.inputs->tokens.ids, pass.inputs->tokens.layout};
  Tokens tokens = padded_target(batch, pass.first_row);
  tokens.ids = tokens.ids.to(device());
  return tokens;
}

T5Model::Tokens T5Model::padded_source(const Batch& batch, std::int64_t first_row) const {
  const Layout layout = TokenLayout::of_mask(batch.attention_mask, first_row);
  return {at::index_select(batch.input_ids.reshape({-1}), 0, layout->padded_index), layout};
}

T5Model::Tokens T5Model::padded_target(const Batch& batch, std::int64_t first_row) const {
  const bool given = batch.decoder_input_ids.defined();
  if (!given && !batch.labels.defined()) {
    throw std::invalid_argument("a batch for an encoder-decoder has neither labels nor decoder_input_ids");
  }
  const at::Tensor ids =
      given ? batch.decoder_input_ids : shifted_right(batch.labels, config_.decoder_start_id, config_.padding_id);
  const at::Tensor mask = given ? at::ones_like(ids) : mask_up_to_last(batch.labels);
  const Layout layout = TokenLayout::of_mask(mask, first_row);
  return {at::index_select(ids.reshape({-1}), 0, layout->padded_index), layout};
}

Dropout T5Model::dropout_at(std::uint64_t site, const Pass& pass) const {
  return make_dropout(config_.dropout, pass.dropout, site);
}

AttentionOptions T5Model::attention_options() const {
  AttentionOptions options;
  options.heads = config_.heads;
  options.size = config_.head_size;
  options.scale = 1;
  return options;
}

Var T5Model::normed(const Var& x, const NormModule& module, const Pass& pass) const {
  return to_type(pass.tape, norm(pass.tape, x, module), compute_type_);
}

Var T5Model::add_cross_attention(const Block& block, std::size_t layer, const Var& x, const Layout& layout,
                                 const Source& source, const Pass& pass) {
  const auto keys_and_values = [&] {
    return linear(pass.tape, source.hidden, block.key_value, source.layout, pass.dropout);
  };
  Var key_value;
  if (pass.cache == nullptr) {
    key_value = keys_and_values();
  } else {
    at::Tensor& kept = pass.cache->layers[layer].source;
    if (!kept.defined()) kept = keys_and_values().value;
    key_value = Var(kept);
  }
  const Var query = linear(pass.tape, normed(x, block.cross_norm, pass), block.query, layout, pass.dropout);
  const AttentionInputs inputs{query, 0, key_value, 0, config_.heads * config_.head_size};
  const Var context =
      attention(pass.tape, inputs, layout, source.keys, attention_options(), dropout_at(block.cross_site, pass));
  return linear_add(pass.tape, context, block.cross_output, x, layout, pass.dropout,
                    dropout_at(block.cross_output_site, pass));
}

Var T5Model::add_feed_forward(const Block& block, const Var& x, const Layout& layout, const Pass& pass) {
  Tape* tape = pass.tape;
  const Var input = normed(x, block.feed_forward_norm, pass);
  const Var inner = config_.gated
                        ? gated(tape, linear(tape, input, block.up, layout, pass.dropout), config_.activation)
                        : linear(tape, input, block.up, layout, pass.dropout, config_.activation);
  const Var kept = dropout(tape, inner, layout, dropout_at(block.inner_site, pass));
  return linear_add(tape, to_type(tape, kept, sum_type_), block.down, x, layout, pass.dropout,
                    dropout_at(block.down_site, pass));
}

Var T5Model::run_block(const Stack& stack, std::size_t layer, const Var& x, const Layout& layout,
                       const Source* source, const Pass& pass) {
  const Block& block = stack.blocks[layer];
  AttentionOptions options = attention_options();
  options.causal = stack.decodes;
  options.bias = &stack.bias;
  const Var qkv = linear(pass.tape, normed(x, block.attention_norm, pass), block.qkv, layout, pass.dropout);
  const Var context = self_attention(pass, layer, qkv, layout, options, dropout_at(block.attention_site, pass));
  Var sum =
      linear_add(pass.tape, context, block.output, x, layout, pass.dropout, dropout_at(block.output_site, pass));
  if (source != nullptr) sum = add_cross_attention(block, layer, sum, layout, *source, pass);
  return add_feed_forward(block, sum, layout, pass);
}

Var T5Model::run_stack(const Stack& stack, const Tokens& tokens, const SharedSource& source, const Pass& pass) {
  const Layout& layout = tokens.layout;
  Var x =
      embed(pass.tape, embedding_, tokens.ids, {}, {}, layout, dropout_at(stack.embedding_site, pass), sum_type_);
  for (std::size_t i = 0; i < stack.blocks.size(); ++i) {
    if (pass.hidden_states != nullptr) pass.hidden_states->push_back(x.value);
    const auto run = [this, &stack, i, layout, source, pass](Tape* tape, const Var& input) {
      Pass mine = pass;
      mine.tape = tape;
      return run_block(stack, i, input, layout, source.get(), mine);
    };
    const bool needs_grad = x.needs_grad() || (source && source->hidden.needs_grad());
    const bool recompute =
        pass.recompute_layers && pass.tape != nullptr && (needs_grad || trains(stack, stack.blocks[i]));
    x = recompute ? recomputed(*pass.tape, x, run) : run(pass.tape, x);
  }
  const Var output =
      dropout(pass.tape, normed(x, stack.final_norm, pass), layout, dropout_at(stack.final_site, pass));
  if (pass.hidden_states != nullptr) pass.hidden_states->push_back(output.value);
  return output;
}

Var T5Model::run(const Batch& batch, const Tokens& target, const Pass& pass) {
  if (pass.cache != nullptr) throw std::invalid_argument("an encoder-decoder uses a cache in next_logits alone");
  const Tokens tokens = source_tokens(batch, pass);
  const Var hidden = run_stack(encoder_, tokens, nullptr, pass);
  const auto source = std::make_shared<const Source>(Source{hidden, tokens.layout, tokens.layout->spans()});
  return run_stack(decoder_, target, source, pass);
}

double T5Model::output_scale() const {
  return config_.scales_output ? 1 / std::sqrt(static_cast<double>(config_.width)) : 1;
}

Var T5Model::head_logits(const Var& hidden, const Layout& layout, const Pass& pass) {
  const Var scaled = scale(pass.tape, hidden, output_scale());
  return to_float(pass.tape, linear(pass.tape, scaled, head_, layout, pass.dropout));
}

Var T5Model::logits(const Batch& batch, const Pass& pass) {
  const Tokens target = decoder_tokens(batch, pass);
  return head_logits(run(batch, target, pass), target.layout, pass);
}

Var T5Model::loss(const Batch& batch, const Pass& pass, const Denominator& denominator) {
  const TokenOutputs out = outputs(batch, pass);
  return linear_cross_entropy(pass.tape, out.hidden, head_, {out.labels, out.counted}, denominator, out.scale,
                              out.layout, pass.dropout);
}

TokenOutputs T5Model::outputs(const Batch& batch, const Pass& pass) {
  const Tokens target = decoder_tokens(batch, pass);
  TokenOutputs out;
  out.hidden = run(batch, target, pass);
  out.head = &head_;
  out.scale = output_scale();
  out.layout = target.layout;
  if (pass.inputs != nullptr) {
    out.labels = pass.inputs->labels;
    out.counted = pass.inputs->counted;
    return out;
  }
  out.labels = at::index_select(batch.labels.reshape({-1}), 0, target.layout->padded_index).to(device());
  return out;
}

EncodedSource T5Model::encode(const Batch& batch) {
  const Tokens tokens = source_tokens(batch, Pass());
  EncodedSource source{run_stack(encoder_, tokens, nullptr, Pass()).value, tokens.layout, {}};
  source.row_of.resize(static_cast<std::size_t>(tokens.layout->rows));
  std::iota(source.row_of.begin(), source.row_of.end(), 0);
  return source;
}

at::Tensor T5Model::next_logits(const Batch& batch, Decoding& decoding) {
  if (!decoding.source) throw std::logic_error("an encoder-decoder decodes from an encoded source");
  Pass pass;
  pass.cache = decoding.cache;
  const Tokens tokens = source_tokens(batch, pass);
  const RowSpans rows = decoding.source->layout->spans();
  Source source{Var(decoding.source->hidden), decoding.source->layout, {}};
  for (const std::int64_t row : decoding.source->row_of) {
    source.keys.begin.push_back(rows.begin[static_cast<std::size_t>(row)]);
    source.keys.count.push_back(rows.count[static_cast<std::size_t>(row)]);
  }
  const Var hidden = run_stack(decoder_, tokens, std::make_shared<const Source>(std::move(source)), pass);
  if (pass.cache != nullptr) advance(*pass.cache, tokens.layout);
  std::vector<std::int64_t> last;
  for (std::int64_t r = 0; r < tokens.layout->rows; ++r) last.push_back(tokens.layout->starts[r + 1] - 1);
  const at::Tensor index = at::tensor(last, at::kLong).to(device());
  return head_logits(Var(at::index_select(hidden.value, 0, index)), tokens.layout->first_tokens(), pass).value;
}

Json T5Model::config() const {
  Json config = pretrained_->config;
  for (const char* stale : {"_name_or_path", "torch_dtype"}) config.erase(stale);
  config["architectures"] = {"T5ForConditionalGeneration"};
  config["dtype"] = "float32";
  config["scale_decoder_outputs"] = config_.scales_output;
  // What transformers 4 reads both from: that the head is the embedding, and that the output is scaled.
  if (!config_.scales_output && head_.weight != embedding_.words) config["tie_word_embeddings"] = false;
  return config;
}

}  // namespace finesweep::worker
