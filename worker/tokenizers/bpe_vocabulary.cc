#include <algorithm>
#include <array>

#include "worker/tokenizers/bpe.h"
#include "worker/tokenizers/components.h"

namespace finesweep::worker {
namespace {

enum class Splitting { gpt2, digits_then_gpt2, llama3, qwen2 };

// The names that llama.cpp gives to ways of splitting text.
constexpr std::array<std::pair<std::string_view, Splitting>, 14> splittings{
    {{"gpt-2", Splitting::gpt2},
     {"phi-2", Splitting::gpt2},
     {"roberta-bpe", Splitting::gpt2},
     {"mpt", Splitting::gpt2},
     {"olmo", Splitting::gpt2},
     {"smollm", Splitting::digits_then_gpt2},
     {"starcoder", Splitting::digits_then_gpt2},
     {"refact", Splitting::digits_then_gpt2},
     {"command-r", Splitting::digits_then_gpt2},
     {"codeshell", Splitting::digits_then_gpt2},
     {"llama-bpe", Splitting::llama3},
     {"llama3", Splitting::llama3},
     {"llama-v3", Splitting::llama3},
     {"qwen2", Splitting::qwen2}}};

// Token types of GGUF.
constexpr std::int32_t control = 3, user_defined = 4, last_type = 6;

}  // namespace

Result<std::unique_ptr<Tokenizer>> make_bpe_tokenizer(const BpeVocabulary& vocabulary) {
  const auto named = std::find_if(splittings.begin(), splittings.end(),
                                  [&](const auto& entry) { return entry.first == vocabulary.pre_tokenizer; });
  if (named == splittings.end()) {
    std::string names;
    for (const auto& [name, splitting] : splittings) names += (names.empty() ? "" : ", ") + std::string(name);
    return Error{"its pre-tokenizer '" + vocabulary.pre_tokenizer.substr(0, 40) + "' is not one of " + names};
  }
  const auto count = vocabulary.tokens.size();
  if (!vocabulary.token_types.empty() && vocabulary.token_types.size() != count) {
    return Error{"it has " + std::to_string(count) + " tokens but " +
                 std::to_string(vocabulary.token_types.size()) + " token types"};
  }
  BpeModel model;
  TextPipeline pipeline;
  model.vocabulary.reserve(count);
  for (std::size_t id = 0; id < count; ++id) {
    model.vocabulary.emplace_back(vocabulary.tokens[id], static_cast<TokenId>(id));
    const std::int32_t type = vocabulary.token_types.empty() ? 1 : vocabulary.token_types[id];
    if (type < 0 || type > last_type) {
      return Error{"the token with the id " + std::to_string(id) + " has the type " + std::to_string(type)};
    }
    if (type != control && type != user_defined) continue;
    AddedToken token;
    token.content = vocabulary.tokens[id];
    token.id = static_cast<TokenId>(id);
    token.special = type == control;
    pipeline.added_tokens.push_back(std::move(token));
  }
  for (const std::string& line : vocabulary.merges) {
    auto pair = split_merge(line);
    if (!pair) return Error{"its merge '" + line.substr(0, 80) + "' does not have two parts"};
    model.merges.push_back(std::move(*pair));
  }

  const Splitting splitting = named->second;
  // A word that is in the vocabulary is one token, whatever the merges make of it.
  model.ignore_merges = splitting == Splitting::llama3;
  if (splitting == Splitting::qwen2) pipeline.normalizer.add(Normalizer::Form::nfc);
  if (splitting == Splitting::digits_then_gpt2) pipeline.pre_tokenizer.add(PreTokenizer::Digits{true});
  if (vocabulary.add_space_prefix) pipeline.pre_tokenizer.add(PreTokenizer::PrefixSpace{});
  pipeline.pre_tokenizer.add(PreTokenizer::Pattern{splitting == Splitting::llama3  ? SplitPattern::gpt4(3)
                                                   : splitting == Splitting::qwen2 ? SplitPattern::gpt4(1)
                                                                                   : SplitPattern::gpt2()});
  pipeline.decoder.add(Decoder::ByteLevel{});

  TokenizerTraits traits;
  traits.begin = vocabulary.begin;
  traits.end = vocabulary.end;
  traits.unknown = vocabulary.unknown;
  traits.pad = vocabulary.pad;
  traits.separator = vocabulary.separator;
  traits.mask = vocabulary.mask;
  for (const auto& id : {traits.begin, traits.end, traits.unknown, traits.pad, traits.separator, traits.mask}) {
    if (id && (*id < 0 || static_cast<std::size_t>(*id) >= count)) {
      return Error{"a special token has the id " + std::to_string(*id) + ", but there are " +
                   std::to_string(count) + " tokens"};
    }
  }
  traits.gives_type_ids = false;
  traits.sequence_template = causal_template(vocabulary.add_begin ? vocabulary.begin : std::nullopt,
                                             vocabulary.add_end ? vocabulary.end : std::nullopt);
  auto tokenizer = BpeTokenizer::make(model, std::move(pipeline), std::move(traits));
  if (!tokenizer) return tokenizer.error();
  return std::unique_ptr<Tokenizer>(std::move(*tokenizer));
}

}  // namespace finesweep::worker
