#include "worker/models/language_model.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>

#include <algorithm>
#include <stdexcept>

#include "worker/kernels/profile_scope.h"

namespace finesweep::worker {
namespace {

/// Rows of a layer's cache, flattened to [rows × capacity, …].
at::Tensor flat(const at::Tensor& tokens) {
  return tokens.view({-1, tokens.size(2)});
}

void append(const Pass& pass, std::size_t number, const at::Tensor& keys_and_values, const TokenLayout& layout) {
  KeyValueCache& cache = *pass.cache;
  KeyValueCache::Layer& layer = cache.layers[number];
  if (!layer.tokens.defined()) {
    layer.tokens = at::empty({layout.rows, cache.capacity, keys_and_values.size(1)}, keys_and_values.options());
  }
  if (number == 0) {
    cache.places =
        pass.inputs != nullptr ? pass.inputs->tokens.places : places_of(cache, layout).to(keys_and_values.device());
  }
  flat(layer.tokens).index_copy_(0, cache.places, keys_and_values);
}

}  // namespace

void KeyValueCache::reorder(const std::vector<std::int64_t>& rows) {
  std::vector<std::int64_t> new_lengths;
  bool moves = static_cast<std::int64_t>(rows.size()) != static_cast<std::int64_t>(lengths.size());
  for (std::size_t r = 0; r < rows.size(); ++r) {
    new_lengths.push_back(lengths[static_cast<std::size_t>(rows[r])]);
    moves |= rows[r] != static_cast<std::int64_t>(r);
  }
  if (!moves) return;
  const at::Tensor index = at::empty({static_cast<std::int64_t>(rows.size())}, at::kLong);
  std::copy(rows.begin(), rows.end(), index.mutable_data_ptr<std::int64_t>());
  for (Layer& layer : layers) {
    if (layer.tokens.defined()) layer.tokens = at::index_select(layer.tokens, 0, index.to(layer.tokens.device()));
  }
  lengths = std::move(new_lengths);
}

EncodedSource LanguageModel::encode(const Batch&) {
  throw std::logic_error("encode() of a model without an encoder");
}

at::Tensor LanguageModel::step_logits(const at::Tensor&, KeyValueCache&) {
  throw std::logic_error("step_logits() of a model that does not step");
}

Var self_attention(const Pass& pass, std::size_t layer, const Var& projected, const Layout& layout,
                   const AttentionOptions& options, const Dropout& dropout, const Rotation* rotation) {
  const ProfileScope scope("self-attention", OperatorGroup::attention);
  const std::int64_t key_heads = options.key_heads == 0 ? options.heads : options.key_heads;
  const std::int64_t query_width = options.heads * options.size, key_width = key_heads * options.size;
  if (pass.cache != nullptr && pass.cache->counted) {
    return Var(decode_attention(projected.value, pass.cache->layers.at(layer).tokens, *pass.cache->counted, options,
                                rotation == nullptr ? nullptr : &rotation->table));
  }
  const Var qkv = rotation == nullptr ? projected
                                      : rotate(pass.tape, projected, rotation->table, rotation->positions,
                                               options.heads + key_heads, options.size);
  if (pass.cache == nullptr) {
    const AttentionInputs inputs{qkv, 0, qkv, query_width, query_width + key_width};
    return attention(pass.tape, inputs, layout, layout->spans(), options, dropout);
  }
  KeyValueCache& cache = *pass.cache;
  if (cache.lengths.empty()) cache.lengths.assign(static_cast<std::size_t>(layout->rows), 0);
  if (cache.layers.size() <= layer) cache.layers.resize(layer + 1);
  append(pass, layer, qkv.value.narrow(1, query_width, 2 * key_width), *layout);
  if (std::all_of(cache.lengths.begin(), cache.lengths.end(), [](std::int64_t length) { return length == 0; })) {
    const AttentionInputs inputs{qkv, 0, qkv, query_width, query_width + key_width};
    return attention(nullptr, inputs, layout, layout->spans(), options, dropout);
  }
  RowSpans keys;
  for (std::int64_t r = 0; r < layout->rows; ++r) {
    keys.begin.push_back(r * cache.capacity);
    keys.count.push_back(cache.lengths[static_cast<std::size_t>(r)] + layout->tokens_of(r));
  }
  const AttentionInputs inputs{qkv, 0, Var(flat(cache.layers[layer].tokens)), 0, key_width};
  return attention(nullptr, inputs, layout, keys, options, dropout);
}

at::Tensor positions_of(const Pass& pass, const Layout& layout) {
  return layout->positions(pass.cache == nullptr ? std::vector<std::int64_t>() : pass.cache->lengths);
}

at::Tensor places_of(const KeyValueCache& cache, const TokenLayout& layout) {
  for (std::int64_t r = 0; r < layout.rows; ++r) {
    if (cache.lengths[r] + layout.tokens_of(r) <= cache.capacity) continue;
    throw std::length_error("a row has more tokens than its cache has room for");
  }
  const at::Tensor index = at::empty({layout.tokens()}, at::kLong);
  std::int64_t* place = index.mutable_data_ptr<std::int64_t>();
  for (std::int64_t r = 0; r < layout.rows; ++r) {
    for (std::int64_t i = 0; i < layout.tokens_of(r); ++i) *place++ = r * cache.capacity + cache.lengths[r] + i;
  }
  return index;
}

void advance(KeyValueCache& cache, const Layout& layout) {
  if (cache.counted) return;
  for (std::int64_t r = 0; r < layout->rows; ++r) {
    cache.lengths[static_cast<std::size_t>(r)] += layout->tokens_of(r);
  }
}

}  // namespace finesweep::worker
