#include "worker/tokenizers/components.h"

namespace finesweep::worker {
namespace {

constexpr int max_depth = 16;

void check_depth(int depth) {
  if (depth > max_depth) throw Unsupported{"a Sequence nested more than " + std::to_string(max_depth) + " deep"};
}

struct Searched {
  std::string text;
  std::shared_ptr<RegularExpression> expression;
};

/// {"String": …} or {"Regex": …}.
Searched read_pattern(const Json& json) {
  Searched found;
  if (json.contains("String")) {
    found.text = json["String"].get<std::string>();
    return found;
  }
  auto compiled = RegularExpression::compile(json.at("Regex").get<std::string>());
  if (!compiled) throw Unsupported{compiled.error().message};
  found.expression = std::move(*compiled);
  return found;
}

void add_normalizer(const Json& json, int depth, Normalizer& normalizer) {
  check_depth(depth);
  if (json.is_null()) return;
  const std::string type = type_of(json);
  if (type == "Sequence") {
    for (const Json& part : json.at("normalizers")) add_normalizer(part, depth + 1, normalizer);
  } else if (type == "Precompiled") {
    if (json.at("precompiled_charsmap").is_null()) return;
    const auto bytes = decode_base64(json["precompiled_charsmap"].get<std::string>());
    if (!bytes) throw Unsupported{"a precompiled_charsmap that is not base64"};
    auto map = Charsmap::parse(*bytes);
    if (!map) throw Unsupported{"a Precompiled normalizer that cannot be read (" + map.error().message + ")"};
    normalizer.add(std::move(*map));
  } else if (type == "Replace") {
    Searched searched = read_pattern(json.at("pattern"));
    normalizer.add(Normalizer::Replace{std::move(searched.text), std::move(searched.expression),
                                       json.at("content").get<std::string>()});
  } else if (type == "Prepend") {
    normalizer.add(Normalizer::Prepend{json.at("prepend").get<std::string>()});
  } else if (type == "Strip") {
    normalizer.add(Normalizer::Strip{boolean(json, "strip_left", true), boolean(json, "strip_right", true)});
  } else if (type == "Lowercase") {
    normalizer.add(Normalizer::Lowercase{});
  } else if (type == "StripAccents") {
    normalizer.add(Normalizer::StripAccents{});
  } else if (type == "NFC") {
    normalizer.add(Normalizer::Form::nfc);
  } else if (type == "NFD") {
    normalizer.add(Normalizer::Form::nfd);
  } else if (type == "NFKC") {
    normalizer.add(Normalizer::Form::nfkc);
  } else if (type == "NFKD") {
    normalizer.add(Normalizer::Form::nfkd);
  } else {
    throw Unsupported{"the normalizer '" + type + "'"};
  }
}

PreTokenizer::Metaspace read_metaspace(const Json& json) {
  PreTokenizer::Metaspace step;
  step.replacement = text_or(json, "replacement", step.replacement);
  if (decode_utf8(step.replacement).size() != 1) {
    throw Unsupported{"a Metaspace with the replacement '" + step.replacement.substr(0, 40) + "'"};
  }
  const std::string scheme = text_or(json, "prepend_scheme", "always");
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    throw Unsupported{"the prepend_scheme '" + scheme + "'"};
  }
  step.prepend = scheme == "always"  ? PreTokenizer::Metaspace::Prepend::always
                 : scheme == "first" ? PreTokenizer::Metaspace::Prepend::first
                                     : PreTokenizer::Metaspace::Prepend::never;
  if (!boolean(json, "add_prefix_space", true)) step.prepend = PreTokenizer::Metaspace::Prepend::never;
  step.split = boolean(json, "split", true);
  return step;
}

void add_split(const Json& json, PreTokenizer& pre_tokenizer) {
  static const std::pair<const char*, PreTokenizer::Delimiter> behaviors[] = {
      {"Removed", PreTokenizer::Delimiter::removed},
      {"Isolated", PreTokenizer::Delimiter::isolated},
      {"MergedWithPrevious", PreTokenizer::Delimiter::merged_with_previous},
      {"MergedWithNext", PreTokenizer::Delimiter::merged_with_next},
      {"Contiguous", PreTokenizer::Delimiter::contiguous}};
  const auto name = json.at("behavior").get<std::string>();
  PreTokenizer::Split step;
  bool is_known = false;
  for (const auto& [known, delimiter] : behaviors) {
    if (name != known) continue;
    step.delimiter = delimiter;
    is_known = true;
  }
  if (!is_known) throw Unsupported{"the behavior '" + name.substr(0, 40) + "' of a Split"};
  step.invert = boolean(json, "invert", false);
  const Json& pattern = json.at("pattern");
  const bool leaves_matches = step.delimiter == PreTokenizer::Delimiter::isolated ||
                              (step.delimiter == PreTokenizer::Delimiter::removed && step.invert);
  if (leaves_matches && pattern.contains("Regex")) {
    if (const auto known = SplitPattern::known(pattern["Regex"].get<std::string>())) {
      return pre_tokenizer.add(PreTokenizer::Pattern{*known});
    }
  }
  Searched searched = read_pattern(pattern);
  step.text = std::move(searched.text);
  step.expression = std::move(searched.expression);
  pre_tokenizer.add(std::move(step));
}

void add_pre_tokenizer(const Json& json, int depth, PreTokenization& read) {
  check_depth(depth);
  if (json.is_null()) return;
  const std::string type = type_of(json);
  if (type == "Sequence") {
    for (const Json& part : json.at("pretokenizers")) add_pre_tokenizer(part, depth + 1, read);
    return;
  }
  // It would see letters for bytes, which we never spell out.
  if (read.byte_level) throw Unsupported{"the pre-tokenizer '" + type + "' after ByteLevel"};
  if (type == "ByteLevel") {
    if (boolean(json, "add_prefix_space", true)) read.pre_tokenizer.add(PreTokenizer::PrefixSpace{});
    if (boolean(json, "use_regex", true)) read.pre_tokenizer.add(PreTokenizer::Pattern{SplitPattern::gpt2()});
    read.byte_level = true;
  } else if (type == "Digits") {
    read.pre_tokenizer.add(PreTokenizer::Digits{boolean(json, "individual_digits", false)});
  } else if (type == "Split") {
    add_split(json, read.pre_tokenizer);
  } else if (type == "WhitespaceSplit") {
    read.pre_tokenizer.add(PreTokenizer::WhitespaceSplit{});
  } else if (type == "Metaspace") {
    read.pre_tokenizer.add(read_metaspace(json));
  } else {
    throw Unsupported{"the pre-tokenizer '" + type + "'"};
  }
}

void add_decoder(const Json& json, int depth, Decoder& decoder) {
  check_depth(depth);
  if (json.is_null()) return;
  const std::string type = type_of(json);
  if (type == "Sequence") {
    for (const Json& part : json.at("decoders")) add_decoder(part, depth + 1, decoder);
  } else if (type == "ByteLevel") {
    decoder.add(Decoder::ByteLevel{});
  } else if (type == "Metaspace") {
    const auto step = read_metaspace(json);
    decoder.add(Decoder::Metaspace{step.replacement, step.prepend != PreTokenizer::Metaspace::Prepend::never});
  } else if (type == "BPEDecoder") {
    decoder.add(Decoder::Bpe{text_or(json, "suffix", "</w>")});
  } else if (type == "ByteFallback") {
    decoder.add(Decoder::ByteFallback{});
  } else if (type == "Fuse") {
    decoder.add(Decoder::Fuse{});
  } else if (type == "Strip") {
    Decoder::Strip step;
    step.content = json.at("content").get<std::string>();
    if (decode_utf8(step.content).size() != 1) throw Unsupported{"a Strip of more than one character"};
    step.start = checked_integer<std::uint32_t>(json.at("start"));
    step.stop = checked_integer<std::uint32_t>(json.at("stop"));
    decoder.add(std::move(step));
  } else if (type == "Replace") {
    Searched searched = read_pattern(json.at("pattern"));
    decoder.add(Decoder::Replace{std::move(searched.text), std::move(searched.expression),
                                 json.at("content").get<std::string>()});
  } else {
    throw Unsupported{"the decoder '" + type + "'"};
  }
}

std::vector<SequenceTemplate::Piece> read_pieces(const Json& pieces, const Json& special_tokens) {
  std::vector<SequenceTemplate::Piece> result;
  for (const Json& piece : pieces) {
    SequenceTemplate::Piece made;
    const bool is_text = piece.contains("Sequence");
    const Json& body = piece.at(is_text ? "Sequence" : "SpecialToken");
    made.type_id = checked_integer<TokenId>(body.at("type_id"));
    if (is_text) {
      made.sequence = body.at("id") == "A" ? 0 : 1;
    } else {
      for (const Json& id : special_tokens.at(body.at("id").get<std::string>()).at("ids")) {
        made.ids.push_back(checked_integer<TokenId>(id));
      }
    }
    result.push_back(std::move(made));
  }
  return result;
}

std::optional<SequenceTemplate> find_template(const Json& json, int depth) {
  check_depth(depth);
  if (json.is_null()) return std::nullopt;
  const std::string type = type_of(json);
  const auto id = [&](const char* key) { return checked_integer<TokenId>(json.at(key).at(1)); };
  if (type == "ByteLevel") return std::nullopt;  // it works on offsets alone
  if (type == "BertProcessing") return bert_template(id("cls"), id("sep"));
  if (type == "RobertaProcessing") return roberta_template(id("cls"), id("sep"));
  if (type == "TemplateProcessing") {
    SequenceTemplate around;
    around.single = read_pieces(json.at("single"), member(json, "special_tokens"));
    around.pair = read_pieces(json.at("pair"), member(json, "special_tokens"));
    return around;
  }
  if (type != "Sequence") throw Unsupported{"the post-processor '" + type + "'"};
  std::optional<SequenceTemplate> found;
  for (const Json& part : json.at("processors")) {
    auto one = find_template(part, depth + 1);
    if (one && found) throw Unsupported{"a Sequence of two post-processors that add tokens"};
    if (one) found = std::move(one);
  }
  return found;
}

}  // namespace

Normalizer read_normalizer(const Json& json) {
  Normalizer normalizer;
  add_normalizer(json, 0, normalizer);
  return normalizer;
}

PreTokenization read_pre_tokenizer(const Json& json, std::optional<bool> prefix_space) {
  PreTokenization read;
  if (prefix_space && type_of(json) == "ByteLevel") {
    Json changed = json;
    changed["add_prefix_space"] = *prefix_space;
    add_pre_tokenizer(changed, 0, read);
  } else {
    add_pre_tokenizer(json, 0, read);
  }
  return read;
}

Decoder read_decoder(const Json& json) {
  Decoder decoder;
  add_decoder(json, 0, decoder);
  return decoder;
}

SequenceTemplate read_post_processor(const Json& json) {
  return find_template(json, 0).value_or(SequenceTemplate{});
}

SequenceTemplate bert_template(TokenId classify, TokenId separator) {
  SequenceTemplate around;
  around.single = {{-1, {classify}, 0}, {0, {}, 0}, {-1, {separator}, 0}};
  around.pair = around.single;
  around.pair.push_back({1, {}, 1});
  around.pair.push_back({-1, {separator}, 1});
  return around;
}

SequenceTemplate roberta_template(TokenId classify, TokenId separator) {
  SequenceTemplate around;
  around.single = {{-1, {classify}, 0}, {0, {}, 0}, {-1, {separator}, 0}};
  around.pair = around.single;
  around.pair.push_back({-1, {separator}, 0});
  around.pair.push_back({1, {}, 0});
  around.pair.push_back({-1, {separator}, 0});
  return around;
}

SequenceTemplate causal_template(std::optional<TokenId> begin, std::optional<TokenId> end) {
  SequenceTemplate around;
  around.single.clear();
  if (begin) around.single.push_back({-1, {*begin}, 0});
  around.single.push_back({0, {}, 0});
  if (end) around.single.push_back({-1, {*end}, 0});
  around.pair = around.single;
  if (begin) around.pair.push_back({-1, {*begin}, 1});
  around.pair.push_back({1, {}, 1});
  if (end) around.pair.push_back({-1, {*end}, 1});
  return around;
}

}  // namespace finesweep::worker
