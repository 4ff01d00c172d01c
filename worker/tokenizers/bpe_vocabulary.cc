#include <array>
#include <utility>

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

Result<Splitting> find_splitting(const BpeVocabulary& vocabulary) {
  std::string names;
  for (const auto& [name, splitting] : splittings) {
    if (name == vocabulary.pre_tokenizer) return splitting;
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  return Error{"its pre-tokenizer '" + vocabulary.pre_tokenizer.substr(0, 40) + "' is not one of " + names};
}

std::int32_t token_type(const BpeVocabulary& vocabulary, std::size_t id) {
  return vocabulary.token_types.empty() ? 1 : vocabulary.token_types[id];
}

// ---- as tokenizer.json has it
// --------------------------------------------------------------------------------------

Json byte_level(bool add_prefix_space, bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", add_prefix_space},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

Json in_sequence(Json first, Json second) {
  return {{"type", "Sequence"}, {"pretokenizers", Json::array({std::move(first), std::move(second)})}};
}

Json pre_tokenizer_json(Splitting splitting, bool add_prefix_space) {
  if (splitting == Splitting::gpt2) return byte_level(add_prefix_space, true);
  if (splitting == Splitting::digits_then_gpt2) {
    return in_sequence({{"type", "Digits"}, {"individual_digits", true}}, byte_level(add_prefix_space, true));
  }
  const std::string digits = splitting == Splitting::llama3 ? "{1,3}" : "";
  const std::string pattern = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})" + digits +
                              R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  return in_sequence(
      {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}},
      byte_level(add_prefix_space, false));
}

/// The tokens around a text: nothing, or those at its beginning and end.
Json post_processor_json(const BpeVocabulary& vocabulary) {
  const auto begin = vocabulary.add_begin ? vocabulary.begin : std::nullopt,
             end = vocabulary.add_end ? vocabulary.end : std::nullopt;
  if (!begin && !end) return nullptr;
  Json special = Json::object();
  const auto piece = [&](TokenId id, int type) {
    const std::string& token = vocabulary.tokens[static_cast<std::size_t>(id)];
    special[token] = {{"id", token}, {"ids", {id}}, {"tokens", {token}}};
    return Json{{"SpecialToken", {{"id", token}, {"type_id", type}}}};
  };
  Json single = Json::array(), pair = Json::array();
  for (int text = 0; text < 2; ++text) {
    Json around = Json::array();
    if (begin) around.push_back(piece(*begin, text));
    around.push_back({{"Sequence", {{"id", text == 0 ? "A" : "B"}, {"type_id", text}}}});
    if (end) around.push_back(piece(*end, text));
    if (text == 0) single = around;
    pair.insert(pair.end(), around.begin(), around.end());
  }
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", special}};
}

}  // namespace

Result<TokenizerJson> bpe_tokenizer_json(const BpeVocabulary& vocabulary) {
  const auto splitting = find_splitting(vocabulary);
  if (!splitting) return splitting.error();
  if (vocabulary.add_space_prefix && (*splitting == Splitting::llama3 || *splitting == Splitting::qwen2)) {
    return Error{"its pre-tokenizer '" + vocabulary.pre_tokenizer +
                 "' with a space before a text's first word has no form in tokenizer.json"};
  }
  // What cannot be used says so here.
  if (auto tokenizer = make_bpe_tokenizer(vocabulary); !tokenizer) return tokenizer.error();
  Json tokens = Json::object(), added = Json::array();
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    tokens[vocabulary.tokens[id]] = id;
    const std::int32_t type = token_type(vocabulary, id);
    if (type != control && type != user_defined) continue;
    added.push_back({{"id", id},
                     {"content", vocabulary.tokens[id]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", type == control}});
  }
  TokenizerJson files;
  files.tokenizer = {{"version", "1.0"},
                     {"truncation", nullptr},
                     {"padding", nullptr},
                     {"added_tokens", std::move(added)},
                     {"normalizer", *splitting == Splitting::qwen2 ? Json{{"type", "NFC"}} : Json()},
                     {"pre_tokenizer", pre_tokenizer_json(*splitting, vocabulary.add_space_prefix)},
                     {"post_processor", post_processor_json(vocabulary)},
                     {"decoder", byte_level(true, true)},
                     {"model",
                      {{"type", "BPE"},
                       {"dropout", nullptr},
                       {"unk_token", nullptr},
                       {"continuing_subword_prefix", nullptr},
                       {"end_of_word_suffix", nullptr},
                       {"fuse_unk", false},
                       {"byte_fallback", false},
                       {"ignore_merges", *splitting == Splitting::llama3},
                       {"vocab", std::move(tokens)},
                       {"merges", vocabulary.merges}}}};
  files.config = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  const std::pair<const char*, std::optional<TokenId>> named[] = {
      {"bos_token", vocabulary.begin}, {"eos_token", vocabulary.end},       {"unk_token", vocabulary.unknown},
      {"pad_token", vocabulary.pad},   {"sep_token", vocabulary.separator}, {"mask_token", vocabulary.mask}};
  for (const auto& [name, id] : named) {
    if (id) files.config[name] = vocabulary.tokens[static_cast<std::size_t>(*id)];
  }
  return files;
}

Result<std::unique_ptr<Tokenizer>> make_bpe_tokenizer(const BpeVocabulary& vocabulary) {
  const auto found = find_splitting(vocabulary);
  if (!found) return found.error();
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
    const std::int32_t type = token_type(vocabulary, id);
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

  const Splitting splitting = *found;
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
