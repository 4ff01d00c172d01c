#include <algorithm>

#include "storage/files.h"
#include "worker/tokenizers/components.h"
#include "worker/tokenizers/unigram.h"

namespace finesweep::worker {
namespace {

const TokenRoles t5_roles{"<pad>", "<unk>", "", "", "", "", "</s>"};

constexpr std::int64_t max_extra_ids = 10000;

UnigramModel read_unigram_model(const Json& json) {
  UnigramModel model;
  for (const Json& entry : json.at("vocab")) {
    model.pieces.emplace_back(entry.at(0).get<std::string>(), entry.at(1).get<double>());
  }
  const Json& unknown = member(json, "unk_id");
  if (unknown.is_null()) throw Unsupported{"a Unigram model without unk_id"};
  model.unknown = checked_integer<TokenId>(unknown);
  model.byte_fallback = boolean(json, "byte_fallback", false);
  return model;
}

/// spiece.model with what T5 makes of it: the extra ids stand behind the pieces, the last of them first; words are
/// cut at white space; the text ends with </s>.
Result<UnigramModel> read_t5(const TokenizerFiles& files, TextPipeline& pipeline) {
  auto bytes = storage::read_file(files.vocabulary);
  if (!bytes) return bytes.error();
  auto read = parse_sentencepiece(*bytes);
  if (!read) return read.error();
  if (read->model_type != 1) {
    return Error{"it is a SentencePiece model of another kind than unigram; tokenizer.json is needed beside it"};
  }
  UnigramModel model;
  model.byte_fallback = read->byte_fallback;
  model.unknown = -1;
  for (auto& piece : read->pieces) {
    if (piece.type == 2) model.unknown = static_cast<TokenId>(model.pieces.size());
    model.pieces.emplace_back(std::move(piece.text), piece.score);
  }
  std::int64_t extra_ids = 100;
  if (const Json& said = member(files.config, "extra_ids"); said.is_number_integer()) extra_ids = said;
  if (extra_ids < 0 || extra_ids > max_extra_ids) {
    throw Unsupported{"extra_ids " + std::to_string(extra_ids) + " in tokenizer_config.json"};
  }
  for (std::int64_t i = extra_ids; i-- > 0;) model.pieces.emplace_back("<extra_id_" + std::to_string(i) + ">", 0.0);
  if (!read->charsmap.empty()) {
    auto map = Charsmap::parse(read->charsmap);
    if (!map) return map.error();
    pipeline.normalizer.add(std::move(*map));
  }
  pipeline.pre_tokenizer.add(PreTokenizer::WhitespaceSplit{});
  pipeline.pre_tokenizer.add(PreTokenizer::Metaspace{});
  pipeline.decoder.add(Decoder::Metaspace{});
  return model;
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> load_unigram(const TokenizerFiles& files) {
  TextPipeline pipeline;
  auto read = files.has_json() ? Result<UnigramModel>(read_unigram_model(files.json.at("model")))
                               : read_t5(files, pipeline);
  if (!read) return read.error();
  const UnigramModel model = std::move(*read);
  Vocabulary vocabulary;
  for (const auto& [piece, score] : model.pieces) {
    vocabulary.emplace_back(piece, static_cast<TokenId>(vocabulary.size()));
  }
  pipeline.added_tokens = read_added_tokens(files, vocabulary, t5_roles);
  TokenizerTraits traits = read_traits(files, read_roles(files, t5_roles), vocabulary, pipeline.added_tokens);
  traits.gives_type_ids = says_type_ids(files.config).value_or(false);
  if (files.has_json()) {
    auto splitting = read_pre_tokenizer(member(files.json, "pre_tokenizer"));
    if (splitting.byte_level) throw Unsupported{"a Unigram model behind the pre-tokenizer 'ByteLevel'"};
    pipeline.pre_tokenizer = std::move(splitting.pre_tokenizer);
    pipeline.normalizer = read_normalizer(member(files.json, "normalizer"));
    pipeline.decoder = read_decoder(member(files.json, "decoder"));
    traits.sequence_template = read_post_processor(member(files.json, "post_processor"));
  } else {
    if (!traits.end) return Error{"its vocabulary lacks the token that ends texts (</s>)"};
    traits.sequence_template.single = {{0, {}, 0}, {-1, {*traits.end}, 0}};
    traits.sequence_template.pair = {{0, {}, 0}, {-1, {*traits.end}, 0}, {1, {}, 0}, {-1, {*traits.end}, 0}};
    for (const auto& [piece, id] : vocabulary) {
      if (!piece.starts_with("<extra_id_")) continue;
      const auto same = [id = id](const AddedToken& token) { return token.id == id; };  // clang before 16
      if (std::any_of(pipeline.added_tokens.begin(), pipeline.added_tokens.end(), same)) continue;
      AddedToken token;
      token.content = piece;
      token.id = id;
      token.special = true;
      pipeline.added_tokens.push_back(std::move(token));
    }
  }
  auto tokenizer = UnigramTokenizer::make(model, std::move(pipeline), std::move(traits));
  if (!tokenizer) return tokenizer.error();
  return std::unique_ptr<Tokenizer>(std::move(*tokenizer));
}

}  // namespace finesweep::worker
