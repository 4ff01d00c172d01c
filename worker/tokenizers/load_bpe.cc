#include <algorithm>

#include "storage/files.h"
#include "worker/tokenizers/bpe.h"
#include "worker/tokenizers/components.h"

namespace finesweep::worker {
namespace {

const TokenRoles gpt2_roles{"", "<|endoftext|>", "", "", "", "<|endoftext|>", "<|endoftext|>"};
const TokenRoles roberta_roles{"<pad>", "<unk>", "<s>", "</s>", "<mask>", "<s>", "</s>"};

BpeModel read_bpe_model(const Json& json) {
  BpeModel model;
  for (const auto& [token, id] : json.at("vocab").items()) {
    model.vocabulary.emplace_back(token, checked_integer<TokenId>(id));
  }
  for (const Json& merge : json.at("merges")) {
    if (merge.is_array()) {
      model.merges.emplace_back(merge.at(0).get<std::string>(), merge.at(1).get<std::string>());
      continue;
    }
    const auto line = merge.get<std::string>();
    if (line.starts_with("#version")) continue;
    auto pair = split_merge(line);
    if (!pair) throw Unsupported{"the merge '" + line.substr(0, 80) + "', which does not have two parts,"};
    model.merges.push_back(std::move(*pair));
  }
  if (const Json& dropout = member(json, "dropout"); dropout.is_number() && dropout.get<double>() != 0) {
    throw Unsupported{"a dropout of merges"};
  }
  if (const Json& unknown = member(json, "unk_token"); unknown.is_string()) model.unknown_token = unknown;
  model.continuing_prefix = text_or(json, "continuing_subword_prefix", "");
  model.end_suffix = text_or(json, "end_of_word_suffix", "");
  model.fuse_unknown = boolean(json, "fuse_unk", false);
  model.byte_fallback = boolean(json, "byte_fallback", false);
  model.ignore_merges = boolean(json, "ignore_merges", false);
  return model;
}

/// vocab.json: token to id. merges.txt: a merge a line, after a line with the version.
Result<BpeModel> read_bpe_vocabulary(const TokenizerFiles& files) {
  BpeModel model;
  auto text = storage::read_file(files.vocabulary);
  if (!text) return text.error();
  auto json = parse_json(*text, files.vocabulary.string());
  if (!json) return json.error();
  for (const auto& [token, id] : json->items()) model.vocabulary.emplace_back(token, checked_integer<TokenId>(id));
  const auto merges_file = files.directory / "merges.txt";
  text = storage::read_file(merges_file);
  if (!text) return text.error();
  int number = 0;
  for (std::size_t begin = 0; begin < text->size();) {
    const std::size_t end = std::min(text->find('\n', begin), text->size());
    std::string_view line = std::string_view(*text).substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.starts_with("#version")) continue;
    auto pair = split_merge(line);
    if (!pair) return Error{"line " + std::to_string(number) + " of " + merges_file.string() + " is not a pair"};
    model.merges.push_back(std::move(*pair));
  }
  return model;
}

bool is_roberta(const TokenizerFiles& files, const Vocabulary& vocabulary) {
  const std::string name = files.tokenizer_class();
  if (!name.empty() && name != "TokenizersBackend" && name != "PreTrainedTokenizer") {
    return name.starts_with("Roberta");
  }
  if (files.has_json()) return type_of(member(files.json, "post_processor")) == "RobertaProcessing";
  if (!files.model_type.empty()) return files.model_type == "roberta";
  return std::any_of(vocabulary.begin(), vocabulary.end(), [](const auto& entry) { return entry.first == "</s>"; });
}

/// Of a folder without tokenizer.json: one splitter, one decoder, and the model's template.
Status use_usual_components(const TokenizerFiles& files, bool roberta, TextPipeline& pipeline,
                            TokenizerTraits& traits) {
  if (boolean(files.config, "add_prefix_space", false)) pipeline.pre_tokenizer.add(PreTokenizer::PrefixSpace{});
  pipeline.pre_tokenizer.add(PreTokenizer::Pattern{SplitPattern::gpt2()});
  pipeline.decoder.add(Decoder::ByteLevel{});
  if (!roberta) return {};
  if (!traits.classify || !traits.separator) {
    return Error{"its vocabulary lacks the tokens that begin and separate texts (<s> and </s>)"};
  }
  traits.sequence_template = roberta_template(*traits.classify, *traits.separator);
  // Where no file says otherwise, the mask stands for a word with the space before it.
  const Json& mask = member(files.config, "mask_token");
  for (AddedToken& token : pipeline.added_tokens) {
    const bool is_described = mask.is_object() || files.config.contains("added_tokens_decoder");
    if (token.id == traits.mask && !is_described) token.lstrip = true;
  }
  return {};
}

/// What tokenizer_config.json says of a space before the text, in place of tokenizer.json: in transformers some
/// classes of tokenizers do not look at the latter for it, and the general one does not look at the former.
std::optional<bool> prefix_space_of_class(const TokenizerFiles& files) {
  const std::string name = files.tokenizer_class();
  if (name.empty() || name == "TokenizersBackend" || name == "PreTrainedTokenizer") return std::nullopt;
  const Json& given = member(files.config, "add_prefix_space");
  if (given.is_boolean()) return given.get<bool>();
  return name.starts_with("GPT2") || name.starts_with("Roberta") ? std::optional(false) : std::nullopt;
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> load_bpe(const TokenizerFiles& files) {
  auto read =
      files.has_json() ? Result<BpeModel>(read_bpe_model(files.json.at("model"))) : read_bpe_vocabulary(files);
  if (!read) return read.error();
  BpeModel model = std::move(*read);
  const bool roberta = is_roberta(files, model.vocabulary);
  const bool gpt2 = !files.has_json() || files.tokenizer_class().starts_with("GPT2");
  const TokenRoles usual = roberta ? roberta_roles : gpt2 ? gpt2_roles : TokenRoles{};

  TextPipeline pipeline;
  pipeline.added_tokens = read_added_tokens(files, model.vocabulary, usual);
  TokenizerTraits traits = read_traits(files, read_roles(files, usual), model.vocabulary, pipeline.added_tokens);
  traits.gives_type_ids = says_type_ids(files.config).value_or(false);
  if (files.has_json()) {
    auto splitting = read_pre_tokenizer(member(files.json, "pre_tokenizer"), prefix_space_of_class(files));
    pipeline.normalizer = read_normalizer(member(files.json, "normalizer"));
    pipeline.pre_tokenizer = std::move(splitting.pre_tokenizer);
    pipeline.decoder = read_decoder(member(files.json, "decoder"));
    model.byte_level = splitting.byte_level;
    traits.sequence_template = read_post_processor(member(files.json, "post_processor"));
  } else if (auto status = use_usual_components(files, roberta, pipeline, traits); !status) {
    return status.error();
  }
  // Where tokenizer.json says what surrounds a text, transformers passes these over.
  if (!roberta && !files.has_json() &&
      (files.config.contains("add_bos_token") || files.config.contains("add_eos_token"))) {
    traits.sequence_template =
        causal_template(boolean(files.config, "add_bos_token", false) ? traits.begin : std::nullopt,
                        boolean(files.config, "add_eos_token", false) ? traits.end : std::nullopt);
  }
  auto tokenizer = BpeTokenizer::make(model, std::move(pipeline), std::move(traits));
  if (!tokenizer) return tokenizer.error();
  return std::unique_ptr<Tokenizer>(std::move(*tokenizer));
}

}  // namespace finesweep::worker
