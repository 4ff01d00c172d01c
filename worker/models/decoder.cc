#include "worker/models/decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "worker/data/batch.h"
#include "worker/kernels/norm_linear.h"

namespace finesweep::worker {
namespace {

constexpr const char* kHead = "lm_head";
constexpr const char* kClassifier = "score";

std::string weight_of(const char* module) {
  return std::string(module) + ".weight";
}

/// The files' own head, where they have one that is not the embedding once more.
const Parameter* separate_head(const DecoderFamily& family, const DecoderConfig& config,
                               const Pretrained& pretrained) {
  const Parameter* head = pretrained.find(weight_of(kHead));
  if (head == nullptr || !config.tied) return head;
  const Parameter* words = pretrained.find(weight_of(family.words));
  return at::equal(head->value, words->value) ? nullptr : head;
}

Status check_options(const DecoderFamily& family, const DecoderConfig& config, const Pretrained& pretrained,
                     const ModelOptions& options) {
  const std::string folder = pretrained.folder.string();
  if (options.train_all && pretrained.storage != at::kFloat) {
    return Error{folder + ": full fine-tuning needs the weights in fp32"};
  }
  if (options.head == ModelHead::language_model) {
    if (config.tied || separate_head(family, config, pretrained) != nullptr) return {};
    return Error{folder + ": tensor \"lm_head.weight\" is missing, and config.json says with " +
                 "\"tie_word_embeddings\": false that it is not the embedding"};
  }
  const Parameter* score = pretrained.find(weight_of(kClassifier));
  if (score == nullptr || score->value.size(0) == options.labels) return {};
  return Error{folder + ": tensor \"score.weight\" is a head of " + std::to_string(score->value.size(0)) +
               " labels and the data has " + std::to_string(options.labels) +
               "; remove score.weight from the files to start from a new head"};
}

std::vector<std::int64_t> qkv_outputs(const DecoderConfig& config, std::size_t modules) {
  const std::int64_t query = config.heads * config.head_size, key = config.key_heads * config.head_size;
  if (modules == 1) return {query + 2 * key};
  return {query, key, key};
}

/// Labels [rows, length] one place to the left: of each token that of the next.
at::Tensor shifted(const at::Tensor& labels) {
  const at::Tensor last = at::full({labels.size(0), 1}, -100, labels.options());
  return at::cat({labels.narrow(1, 1, labels.size(1) - 1), last}, 1);
}

}  // namespace

Result<std::vector<WeightSpec>> decoder_weights(const DecoderFamily& family, const Json& json) {
  const Result<DecoderConfig> read = family.read(json);
  if (!read) return Error{read.error()};
  const DecoderConfig& config = *read;
  const std::int64_t width = config.width;
  const auto linear = [&](bool bias) { return WeightSpecs::Linear{.bias = bias, .transposed = config.transposed}; };
  WeightSpecs specs;
  specs.table(family.words, config.vocabulary, width);
  if (family.positions != nullptr) specs.table(family.positions, config.positions, width);
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    const DecoderLayerPaths paths = family.layer(static_cast<std::int64_t>(i));
    specs.norm(paths.attention_norm, width, config.norm);
    specs.linear(paths.qkv, qkv_outputs(config, paths.qkv.size()), width, linear(config.qkv_bias));
    specs.linear({paths.output}, width, config.heads * config.head_size, linear(config.output_bias));
    specs.norm(paths.feed_forward_norm, width, config.norm);
    specs.linear(paths.up, config.inner, width, linear(config.feed_forward_bias));
    specs.linear({paths.down}, width, config.inner, linear(config.feed_forward_bias));
  }
  specs.norm(family.final_norm, width, config.norm);
  specs.linear({kHead}, config.vocabulary, width, {.bias = false, .quantizable = false, .optional = true});
  specs.linear({kClassifier}, -1, width, {.bias = false, .optional = true, .head = true});
  return specs.take();
}

Result<std::unique_ptr<Model>> make_decoder(const DecoderFamily& family,
                                            std::shared_ptr<const Pretrained> pretrained,
                                            const ModelOptions& options) {
  Result<DecoderConfig> config = family.read(pretrained->config);
  if (!config) return Error{config.error()};
  if (Status fits = check_options(family, *config, *pretrained, options); !fits) return Error{fits.error()};
  return std::unique_ptr<Model>(
      std::make_unique<Decoder>(family, std::move(pretrained), std::move(*config), options));
}

Decoder::Decoder(const DecoderFamily& family, std::shared_ptr<const Pretrained> pretrained, DecoderConfig config,
                 const ModelOptions& options)
    : family_(family),
      pretrained_(std::move(pretrained)),
      config_(std::move(config)),
      classifies_(options.head == ModelHead::classification),
      labels_(options.labels),
      pooling_(options.pooling),
      compute_type_(scalar_type_of(options.precision)),
      weights_(*pretrained_, compute_type_) {
  if (options.model_dropout) {
    config_.attention_dropout = *options.model_dropout;
    for (auto* rate : {&config_.embedding_dropout, &config_.residual_dropout}) {
      if (*rate) *rate = options.model_dropout;
    }
  }
  adopt_weights(options);
  embedding_.words = weights_.table(family_.words);
  if (family_.positions != nullptr) embedding_.positions = weights_.table(family_.positions);
  embedding_.padding_id = config_.padding_id;
  for (std::size_t i = 0; i < config_.layers.size(); ++i) layers_.push_back(make_layer(i));
  final_norm_ = weights_.norm(family_.final_norm, config_.norm_epsilon, config_.norm);
  const char* head = classifies_ ? kClassifier : kHead;
  if (weights_.find(weight_of(head)) != nullptr) {
    head_ = weights_.linear({head});
  } else {
    head_.paths = {kHead};
    head_.weight = embedding_.words;
    head_.weight->is_table = false;  // as a head it has a gradient in every row
  }
}

void Decoder::adopt_weights(const ModelOptions& options) {
  if (classifies_) {
    weights_.drop(weight_of(kHead));
    weights_.make_head(weight_of(kClassifier), {labels_, config_.width}, config_.initializer_range, options.seed);
  } else {
    weights_.drop(weight_of(kClassifier));
    if (separate_head(family_, config_, *pretrained_) == nullptr) weights_.drop(weight_of(kHead));
  }
  weights_.adopt(options);
}

Decoder::Layer Decoder::make_layer(std::size_t index) {
  const DecoderLayerPaths paths = family_.layer(static_cast<std::int64_t>(index));
  Layer layer;
  layer.attention_norm = weights_.norm(paths.attention_norm, config_.norm_epsilon, config_.norm);
  layer.qkv = weights_.linear(paths.qkv);
  layer.output = weights_.linear({paths.output});
  layer.feed_forward_norm = weights_.norm(paths.feed_forward_norm, config_.norm_epsilon, config_.norm);
  layer.up = weights_.linear(paths.up);
  layer.down = weights_.linear({paths.down});
  layer.attention = {.heads = config_.heads,
                     .key_heads = config_.key_heads,
                     .size = config_.head_size,
                     .scale = config_.layers[index].attention_scale,
                     .causal = true,
                     .window = config_.layers[index].window};
  layer.attention_site = dropout_site(paths.qkv.front());
  layer.output_site = dropout_site(paths.output);
  layer.down_site = dropout_site(paths.down);
  return layer;
}

bool Decoder::Layer::trains() const {
  for (const NormModule* norm : {&attention_norm, &feed_forward_norm}) {
    if (norm->weight->trained) return true;
  }
  return qkv.trains() || output.trains() || up.trains() || down.trains();
}

std::vector<LinearModule*> Decoder::linear_modules() {
  std::vector<LinearModule*> modules;
  for (Layer& layer : layers_) {
    modules.insert(modules.end(), {&layer.qkv, &layer.output, &layer.up, &layer.down});
  }
  modules.push_back(&head_);
  return modules;
}

std::vector<std::string> Decoder::head_modules() const {
  return classifies_ ? std::vector<std::string>{kClassifier} : std::vector<std::string>();
}

Json Decoder::config() const {
  Json config = pretrained_->config;
  for (const char* stale : {"_name_or_path", "torch_dtype"}) config.erase(stale);
  config["architectures"] = {classifies_ ? family_.classifier : family_.generator};
  config["dtype"] = "float32";
  if (classifies_) {
    describe_labels(*this, labels_, pooling_, config);
  } else {
    config["tie_word_embeddings"] = head_.weight == embedding_.words;
  }
  return config;
}

Status Decoder::check(const Batch& batch) const {
  if (Status status = check_within(batch.input_ids, config_.vocabulary, "token id"); !status) return status;
  const at::Tensor mask = batch.attention_mask.ne(0);
  const std::int64_t longest = mask.sum(1).max().item<std::int64_t>();
  if (longest > config_.positions) {
    return Error{"a row of " + std::to_string(longest) + " tokens is longer than the model's " +
                 std::to_string(config_.positions) + " positions; lower sequence_length"};
  }
  if (batch.position_ids.defined()) {
    const at::Tensor used = batch.position_ids.masked_select(mask);
    if (Status status = check_within(used, config_.positions, "position"); !status) return status;
  }
  if (!batch.labels.defined() || (classifies_ && labels_ == 1)) return {};
  if (at::isFloatingType(batch.labels.scalar_type())) return Error{"labels must be integers"};
  return check_within(batch.labels.masked_select(batch.labels.ne(-100)), classifies_ ? labels_ : config_.vocabulary,
                      "label");
}

std::int64_t Decoder::counted(const Batch& batch) const {
  if (classifies_) return batch.input_ids.size(0);
  return shifted(batch.labels).ne(-100).logical_and(batch.attention_mask.ne(0)).sum().item<std::int64_t>();
}

void Decoder::reach(const at::Tensor& positions) {
  if (!config_.rotary) return;
  const std::int64_t needed = positions.max().item<std::int64_t>() + 1;
  if (needed > config_.positions) throw std::invalid_argument("a position is behind the model's last");
  rotate_up_to(needed);
}

std::optional<BatchInputs> Decoder::inputs(const Batch& batch, std::int64_t first_row) {
  BatchInputs inputs;
  inputs.tokens.layout = TokenLayout::of_mask(batch.attention_mask, first_row);
  const Layout& layout = inputs.tokens.layout;
  const auto of_tokens = [&](const at::Tensor& padded) {
    return at::index_select(padded.reshape({-1}), 0, layout->padded_index);
  };
  inputs.tokens.ids = of_tokens(batch.input_ids);
  inputs.tokens.positions = batch.position_ids.defined() ? of_tokens(batch.position_ids) : layout->positions();
  reach(inputs.tokens.positions);
  inputs.of_tokens = !classifies_;
  if (batch.labels.defined()) inputs.labels = classifies_ ? batch.labels : of_tokens(shifted(batch.labels));
  return inputs;
}

Decoder::Tokens Decoder::tokens_of(const Batch& batch, const Pass& pass) {
  if (pass.inputs != nullptr)
    return {pass.inputs->tokens.layout, pass.inputs->tokens.ids, pass.inputs->tokens.positions};
  Tokens tokens;
  tokens.layout = TokenLayout::of_mask(batch.attention_mask, pass.first_row);
  const auto of_tokens = [&](const at::Tensor& padded) {
    return at::index_select(padded.reshape({-1}), 0, tokens.layout->padded_index);
  };
  const at::Tensor positions =
      batch.position_ids.defined() ? of_tokens(batch.position_ids) : positions_of(pass, tokens.layout);
  reach(positions);
  tokens.ids = of_tokens(batch.input_ids).to(device());
  tokens.positions = positions.to(device());
  return tokens;
}

void Decoder::rotate_up_to(std::int64_t needed) {
  const std::int64_t ready = rotary_.cosine.defined() ? rotary_.cosine.size(0) : 0;
  if (needed <= ready) return;
  // What a GPU has captured reads the table that it saw.
  if (ready > 0) outgrown_.push_back(rotary_);
  constexpr std::int64_t kWhole = 1 << 15;
  const std::int64_t grown = device().is_cpu() ? std::max(needed, 2 * ready) : std::max(needed, kWhole);
  rotary_ = rotary_table(*config_.rotary, std::min(grown, config_.positions), device());
}

Var Decoder::run(const Tokens& tokens, const Pass& pass) {
  const std::string site = std::string(family_.words) + ".dropout";
  const Dropout dropout = make_dropout(config_.embedding_dropout.value_or(0), pass.dropout, dropout_site(site));
  Var x = embed(pass.tape, embedding_, tokens.ids, tokens.positions, {}, tokens.layout, dropout, compute_type_);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (pass.hidden_states != nullptr) pass.hidden_states->push_back(x.value);
    const auto layer = [this, i, tokens, pass](Tape* tape, const Var& input) {
      Pass mine = pass;
      mine.tape = tape;
      return run_layer(i, input, tokens, mine);
    };
    const bool recompute = pass.recompute_layers && pass.tape != nullptr && (x.needs_grad() || layers_[i].trains());
    x = recompute ? recomputed(*pass.tape, x, layer) : layer(pass.tape, x);
  }
  if (pass.cache != nullptr) advance(*pass.cache, tokens.layout);
  return x;
}

Var Decoder::run_layer(std::size_t index, const Var& x, const Tokens& tokens, const Pass& pass) const {
  const Layer& layer = layers_[index];
  const Layout& layout = tokens.layout;
  Tape* tape = pass.tape;
  const auto dropout_at = [&](std::uint64_t site, double rate) { return make_dropout(rate, pass.dropout, site); };
  const double residual_dropout = config_.residual_dropout.value_or(0);

  const Var qkv = norm_linear(tape, x, layer.attention_norm, layer.qkv, layout, pass.dropout);
  const Rotation rotation{rotary_, tokens.positions};
  const Var context = self_attention(pass, index, qkv, layout, layer.attention,
                                     dropout_at(layer.attention_site, config_.attention_dropout),
                                     config_.rotary ? &rotation : nullptr);
  const Var attended = linear_add(tape, context, layer.output, x, layout, pass.dropout,
                                  dropout_at(layer.output_site, residual_dropout));

  const Var inner = norm_linear(tape, attended, layer.feed_forward_norm, layer.up, layout, pass.dropout,
                                {.activation = config_.activation, .gated = config_.gated, .next = &layer.down});
  return linear_add(tape, inner, layer.down, attended, layout, pass.dropout,
                    dropout_at(layer.down_site, residual_dropout));
}

Var Decoder::final_norm(const Var& x, const Pass& pass) const {
  const Var normed = norm(pass.tape, x, final_norm_);
  if (pass.hidden_states != nullptr) pass.hidden_states->push_back(normed.value);
  return normed;
}

Var Decoder::pooled(const Tokens& tokens, const Pass& pass) {
  const Var x = run(tokens, pass);
  if (pooling_ == Pooling::mean) return mean_tokens(pass.tape, final_norm(x, pass), tokens.layout);
  if (pass.hidden_states != nullptr) return last_tokens(pass.tape, final_norm(x, pass), tokens.layout);
  return final_norm(last_tokens(pass.tape, x, tokens.layout), pass);
}

Var Decoder::logits(const Batch& batch, const Pass& pass) {
  const Tokens tokens = tokens_of(batch, pass);
  if (classifies_) {
    return head_linear(pass.tape, pooled(tokens, pass), head_, tokens.layout->first_tokens(), {}, pass.dropout);
  }
  const Var hidden = final_norm(run(tokens, pass), pass);
  return to_float(pass.tape, linear(pass.tape, hidden, head_, tokens.layout, pass.dropout));
}

Var Decoder::loss(const Batch& batch, const Pass& pass, const Denominator& denominator) {
  if (classifies_) {
    const Var values = logits(batch, pass);
    const at::Tensor labels = pass.inputs != nullptr ? pass.inputs->labels : batch.labels.to(device());
    return label_loss(pass.tape, values, labels, denominator,
                      pass.inputs != nullptr ? pass.inputs->tokens.layout : nullptr);
  }
  const TokenOutputs out = outputs(batch, pass);
  return linear_cross_entropy(pass.tape, out.hidden, head_, {out.labels, out.counted}, denominator, out.scale,
                              out.layout, pass.dropout);
}

TokenOutputs Decoder::outputs(const Batch& batch, const Pass& pass) {
  const Tokens tokens = tokens_of(batch, pass);
  TokenOutputs out;
  out.hidden = final_norm(run(tokens, pass), pass);
  out.head = &head_;
  out.layout = tokens.layout;
  if (pass.inputs != nullptr) {
    out.labels = pass.inputs->labels;
    out.counted = pass.inputs->counted;
    return out;
  }
  out.labels = at::index_select(shifted(batch.labels).view({-1}), 0, tokens.layout->padded_index).to(device());
  return out;
}

at::Tensor Decoder::logits_of_last(const Var& last, const Layout& layout, const Pass& pass) const {
  return norm_linear(nullptr, last, final_norm_, head_, layout, pass.dropout, {.to_float = true}).value;
}

at::Tensor Decoder::next_logits(const Batch& batch, Decoding& decoding) {
  if (classifies_) throw std::logic_error("a classifier does not generate text");
  Pass pass;
  pass.cache = decoding.cache;
  pass.inputs = decoding.inputs;
  const Tokens tokens = tokens_of(batch, pass);
  return logits_of_last(last_tokens(nullptr, run(tokens, pass), tokens.layout), tokens.layout->first_tokens(),
                        pass);
}

at::Tensor Decoder::step_logits(const at::Tensor& ids, KeyValueCache& cache) {
  if (classifies_) throw std::logic_error("a classifier does not generate text");
  if (config_.rotary) rotate_up_to(std::min(cache.capacity, config_.positions));
  Pass pass;
  pass.cache = &cache;
  const Layout layout = TokenLayout::of_mask(at::ones({ids.size(0), 1}, at::kLong), 0);
  const Tokens tokens{layout, ids, cache.counted->lengths};
  return logits_of_last(run(tokens, pass), layout, pass);
}

}  // namespace finesweep::worker
