#include <algorithm>

#include "storage/files.h"
#include "worker/tokenizers/components.h"
#include "worker/tokenizers/wordpiece.h"

namespace finesweep::worker {
namespace {

const TokenRoles bert_roles{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "", ""};

BertTextOptions read_text(const Json& normalizer) {
  BertTextOptions options{false, false, false, false};
  if (normalizer.is_null()) return options;
  if (type_of(normalizer) != "BertNormalizer") throw Unsupported{"the normalizer '" + type_of(normalizer) + "'"};
  options.clean_text = boolean(normalizer, "clean_text", true);
  options.separate_ideographs = boolean(normalizer, "handle_chinese_chars", true);
  options.lowercase = boolean(normalizer, "lowercase", true);
  options.strip_accents = boolean(normalizer, "strip_accents", options.lowercase);
  return options;
}

/// What tokenizer_config.json says explicitly wins over tokenizer.json, as in the transformers package.
void apply_config(const Json& config, BertTextOptions& text) {
  const bool followed = text.strip_accents == text.lowercase;
  const bool lowercase = boolean(config, "do_lower_case", text.lowercase);
  if (lowercase != text.lowercase && followed) text.strip_accents = lowercase;
  text.lowercase = lowercase;
  text.strip_accents = boolean(config, "strip_accents", text.strip_accents);
  text.separate_ideographs = boolean(config, "tokenize_chinese_chars", text.separate_ideographs);
}

WordPieceModel read_wordpiece_model(const Json& json) {
  WordPieceModel model;
  const Json& wordpiece = json.at("model");
  for (const auto& [token, id] : wordpiece.at("vocab").items()) {
    model.vocabulary.emplace_back(token, checked_integer<TokenId>(id));
  }
  model.unknown_token = wordpiece.value("unk_token", model.unknown_token);
  model.continuing_prefix = wordpiece.value("continuing_subword_prefix", model.continuing_prefix);
  model.max_word_characters = wordpiece.value("max_input_chars_per_word", model.max_word_characters);
  model.text = read_text(member(json, "normalizer"));
  if (const std::string type = type_of(member(json, "pre_tokenizer")); type != "BertPreTokenizer") {
    throw Unsupported{"the pre-tokenizer '" + type + "'"};
  }
  if (const Json& decoder = member(json, "decoder"); !decoder.is_null()) {
    if (type_of(decoder) != "WordPiece") throw Unsupported{"the decoder '" + type_of(decoder) + "'"};
    model.decoder_prefix = decoder.value("prefix", model.decoder_prefix);
    model.clean_up_decoded = boolean(decoder, "cleanup", true);
  }
  return model;
}

/// vocab.txt: one token a line, the line's number is its id.
WordPieceModel read_wordpiece_vocabulary(const std::string& text, const Json& config) {
  WordPieceModel model;
  TokenId id = 0;
  for (std::size_t begin = 0; begin < text.size(); ++id) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string token = text.substr(begin, end - begin);
    if (!token.empty() && token.back() == '\r') token.pop_back();
    model.vocabulary.emplace_back(std::move(token), id);
    begin = end + 1;
  }
  model.text.strip_accents = boolean(config, "do_lower_case", true);
  model.unknown_token = token_text(config, "unk_token").value_or(model.unknown_token);
  return model;
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> load_wordpiece(const TokenizerFiles& files) {
  WordPieceModel model;
  if (files.has_json()) {
    model = read_wordpiece_model(files.json);
  } else {
    auto text = storage::read_file(files.vocabulary);
    if (!text) return text.error();
    model = read_wordpiece_vocabulary(*text, files.config);
  }
  apply_config(files.config, model.text);
  model.added_tokens = read_added_tokens(files, model.vocabulary, bert_roles);
  TokenizerTraits traits = read_traits(files, read_roles(files, bert_roles), model.vocabulary, model.added_tokens);
  traits.gives_type_ids = says_type_ids(files.config).value_or(!files.tokenizer_class().starts_with("DistilBert"));
  traits.sequence_template = read_post_processor(member(files.json, "post_processor"));
  if (!files.has_json()) {
    if (!traits.classify || !traits.separator) {
      return Error{"its vocabulary lacks the tokens that begin and separate texts ([CLS] and [SEP])"};
    }
    traits.sequence_template = bert_template(*traits.classify, *traits.separator);
  }
  auto tokenizer = WordPieceTokenizer::make(model, std::move(traits));
  if (!tokenizer) return tokenizer.error();
  return std::unique_ptr<Tokenizer>(std::move(*tokenizer));
}

}  // namespace finesweep::worker
