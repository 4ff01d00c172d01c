#include "worker/tokenizers/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "tests/engine/temporary_folder.h"
#include "worker/tokenizers/bpe.h"

namespace finesweep::worker {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class WordPiece : public ::testing::Test {
 protected:
  WordPiece() {
    tokenizer_ = {{"model",
                   {{"type", "WordPiece"},
                    {"unk_token", "[UNK]"},
                    {"continuing_subword_prefix", "##"},
                    {"max_input_chars_per_word", 10},
                    {"vocab",
                     {{"[PAD]", 0},
                      {"[UNK]", 1},
                      {"[CLS]", 2},
                      {"[SEP]", 3},
                      {"un", 4},
                      {"##aff", 5},
                      {"##able", 6},
                      {"Un", 7},
                      {"é", 8},
                      {"e", 9},
                      {"!", 10},
                      {"##!", 11},
                      {"unaff", 12}}}}},
                  {"normalizer",
                   {{"type", "BertNormalizer"},
                    {"clean_text", true},
                    {"handle_chinese_chars", true},
                    {"strip_accents", nullptr},
                    {"lowercase", true}}},
                  {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
                  {"post_processor", {{"type", "BertProcessing"}, {"sep", {"[SEP]", 3}}, {"cls", {"[CLS]", 2}}}},
                  {"decoder", {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}}},
                  {"added_tokens", json::array({{{"id", 3}, {"content", "[SEP]"}, {"special", true}}})}};
  }

  std::unique_ptr<Tokenizer> load() {
    folder_.write("tokenizer.json", tokenizer_.dump());
    auto loaded = load_tokenizer(folder_.path());
    EXPECT_TRUE(loaded.ok()) << (loaded.ok() ? "" : loaded.error().message);
    return std::move(*loaded);
  }
  std::string load_error() {
    folder_.write("tokenizer.json", tokenizer_.dump());
    const auto loaded = load_tokenizer(folder_.path());
    return loaded.ok() ? "" : loaded.error().message;
  }

  json tokenizer_;
  TemporaryFolder folder_;
};

TEST_F(WordPiece, the_longest_piece_wins_and_a_word_that_cannot_be_cut_is_unknown) {
  const auto tokenizer = load();
  EXPECT_THAT(tokenizer->ids_of("Unaffable unable UNX é!"), ElementsAre(12, 6, 4, 6, 1, 9, 10));
  EXPECT_THAT(tokenizer->ids_of("eeeeeeeeeee"), ElementsAre(1));
  EXPECT_EQ(tokenizer->decode(std::vector<TokenId>{2, 12, 6, 10, 3, 99, -1}), "[CLS] unaffable! [SEP]");
  EXPECT_EQ(tokenizer->decode(std::vector<TokenId>{12, 6, 10, 3}, SpecialTokens::skip), "unaffable!");
}

TEST_F(WordPiece, a_cased_tokenizer_keeps_case_and_accents) {
  tokenizer_["normalizer"]["lowercase"] = false;
  EXPECT_THAT(load()->ids_of("Un un é"), ElementsAre(7, 4, 8));
  tokenizer_["normalizer"]["strip_accents"] = true;
  EXPECT_THAT(load()->ids_of("Un un é"), ElementsAre(7, 4, 9));
}

TEST_F(WordPiece, what_tokenizer_config_says_explicitly_wins) {
  folder_.write("tokenizer_config.json", R"({"do_lower_case": false, "padding_side": "left", "pad_token": "[PAD]",
                                            "model_max_length": 1e30})");
  const auto tokenizer = load();
  EXPECT_THAT(tokenizer->ids_of("Un é"), ElementsAre(7, 8));
  EXPECT_EQ(tokenizer->traits().padding_side, Side::left);
  EXPECT_FALSE(tokenizer->traits().model_max_length.has_value());
  EncodeOptions options;
  options.max_length = 5;
  options.pad_to_max_length = true;
  EXPECT_THAT(tokenizer->encode("e", options)->attention_mask, ElementsAre(0, 0, 1, 1, 1));
}

TEST_F(WordPiece, text_that_repeats_is_taken_from_the_cache_unchanged) {
  const auto tokenizer = load();
  const auto first = tokenizer->ids_of("unaffable é! unaffable é!");
  EXPECT_EQ(first, tokenizer->ids_of("unaffable é! unaffable é!"));
  EXPECT_THAT(first, ElementsAre(12, 6, 9, 10, 12, 6, 9, 10));
}

TEST_F(WordPiece, added_tokens_honour_their_flags) {
  tokenizer_["added_tokens"] =
      json::array({{{"id", 20}, {"content", "<x>"}, {"lstrip", true}, {"rstrip", true}},
                   {{"id", 21}, {"content", "<x>y"}, {"normalized", false}},
                   {{"id", 22}, {"content", "e"}, {"single_word", true}, {"normalized", false}},
                   {{"id", 23}, {"content", "NÉ"}, {"normalized", true}}});
  tokenizer_["added_tokens"][0]["normalized"] = false;
  const auto tokenizer = load();
  EXPECT_THAT(tokenizer->ids_of("un  <x> un<x>y e ee ne"), ElementsAre(4, 20, 4, 21, 22, 1, 23));
  EXPECT_EQ(tokenizer->vocabulary_size(), 24);
}

TEST_F(WordPiece, invalid_utf8_is_read_as_a_replacement_character) {
  // Which cleaning drops; the bracket that follows is a word of its own.
  EXPECT_THAT(load()->ids_of("un\xff\xfe\xe2\x28un"), ElementsAre(4, 1, 4));
}

TEST_F(WordPiece, a_length_without_room_and_a_text_too_short_to_cut_are_errors) {
  const auto tokenizer = load();
  EncodeOptions options;
  options.truncation = Truncation::longest_first;
  options.max_length = 1;
  EXPECT_THAT(tokenizer->encode("un un", options).error().message,
              HasSubstr("no room beside the 2 special tokens"));
  options.max_length = 2;
  EXPECT_THAT(tokenizer->encode("un un", options)->ids, ElementsAre(2, 3));
  options.truncation = Truncation::only_first;
  options.max_length = 5;
  EXPECT_THAT(tokenizer->encode_pair("un", "un un un un", options).error().message,
              HasSubstr("from the first text"));
}

TEST_F(WordPiece, files_that_cannot_be_used_are_named_with_the_reason) {
  EXPECT_THAT(load_tokenizer(folder_.path()).error().message, HasSubstr("it holds neither tokenizer.json nor"));
  tokenizer_["normalizer"]["type"] = "Precompiled";
  EXPECT_THAT(load_error(), HasSubstr("tokenizer.json: the normalizer 'Precompiled' is not supported"));
  tokenizer_["normalizer"] = nullptr;
  tokenizer_["model"]["type"] = "WordLevel";
  EXPECT_THAT(load_error(), HasSubstr("the tokenizer model 'WordLevel' is not supported"));
  tokenizer_["model"]["type"] = "WordPiece";
  tokenizer_["model"]["vocab"].erase("[UNK]");
  EXPECT_THAT(load_error(), HasSubstr("lacks the unknown token '[UNK]'"));
  tokenizer_["model"]["vocab"]["[UNK]"] = -5;
  EXPECT_THAT(load_error(), HasSubstr("has the id -5"));
  tokenizer_.erase("model");
  EXPECT_THAT(load_error(), HasSubstr("it is damaged"));
}

class Bpe : public ::testing::Test {
 protected:
  Bpe() {
    vocabulary_.tokens = {"<s>", "a", "b", "c", "Ġ", "ab", "abab", "Ġc", "ca", "cab", "Ã"};
    vocabulary_.merges = {"a b", "ab ab", "Ġ c", "c a"};
    vocabulary_.token_types = {3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    vocabulary_.begin = 0;
  }
  std::unique_ptr<Tokenizer> make() {
    auto made = make_bpe_tokenizer(vocabulary_);
    EXPECT_TRUE(made.ok()) << (made.ok() ? "" : made.error().message);
    return std::move(*made);
  }
  std::string make_error() { return make_bpe_tokenizer(vocabulary_).error().message; }
  /// The same as a folder of GPT-2.
  void write_folder() const {
    json ids = json::object();
    for (std::size_t i = 0; i < vocabulary_.tokens.size(); ++i) ids[vocabulary_.tokens[i]] = i;
    std::string merges = "#version: 0.2\n";
    for (const std::string& merge : vocabulary_.merges) merges += merge + "\n";
    folder_.write("vocab.json", ids.dump());
    folder_.write("merges.txt", merges);
  }

  BpeVocabulary vocabulary_;
  TemporaryFolder folder_;
};

TEST_F(Bpe, the_best_pair_is_merged_first_and_of_equal_ones_the_leftmost) {
  const auto tokenizer = make();
  EXPECT_THAT(tokenizer->ids_of("ababab cab"), ElementsAre(6, 5, 7, 5));
  EXPECT_THAT(tokenizer->ids_of("ca<s>c a"), ElementsAre(8, 0, 3, 4, 1));
  EXPECT_EQ(tokenizer->decode(std::vector<TokenId>{0, 6, 7, 99, -1}), "<s>abab c");
  EXPECT_EQ(tokenizer->decode(std::vector<TokenId>{0, 6, 7}, SpecialTokens::skip), "abab c");
}

TEST_F(Bpe, words_of_any_length_are_merged_alike) {
  const auto tokenizer = make();
  for (std::size_t length = 1; length < 200; ++length) {
    std::string text(1, 'c');
    for (std::size_t i = 0; i < length; ++i) text += "ab";
    std::vector<TokenId> expected{3};
    expected.insert(expected.end(), length / 2, 6);
    if (length % 2 == 1) expected.push_back(5);
    ASSERT_EQ(tokenizer->ids_of(text), expected) << length;
  }
}

TEST_F(Bpe, bytes_that_the_vocabulary_lacks_vanish_and_their_neighbours_meet) {
  const auto tokenizer = make();
  EXPECT_THAT(tokenizer->ids_of("a\u00e9"), ElementsAre(1, 10));  // C3 is there, A9 is not
  vocabulary_.tokens.push_back("xyz");
  vocabulary_.token_types.clear();
  EXPECT_THAT(make()->ids_of("axb"), ElementsAre(5));
  EXPECT_EQ(tokenizer->decode(std::vector<TokenId>{10, 1}), "\uFFFDa");
}

TEST_F(Bpe, gguf_metadata_name_the_splitter_and_the_tokens_around) {
  vocabulary_.pre_tokenizer = "llama-bpe";
  vocabulary_.add_begin = true;
  const auto tokenizer = make();
  EXPECT_THAT(tokenizer->ids_of("cab"), ElementsAre(9)) << "a word of the vocabulary needs no merges";
  EXPECT_THAT(tokenizer->encode_pair("a", "b")->ids, ElementsAre(0, 1, 0, 2));
  EXPECT_FALSE(tokenizer->traits().gives_type_ids);
}

TEST_F(Bpe, gguf_metadata_that_cannot_be_used_are_refused_with_the_reason) {
  vocabulary_.pre_tokenizer = "klingon";
  EXPECT_THAT(make_error(), HasSubstr("pre-tokenizer 'klingon' is not one of gpt-2"));
  vocabulary_.pre_tokenizer = "smollm";
  vocabulary_.merges.push_back("b z");
  EXPECT_THAT(make_error(), HasSubstr("merge 5 ('b' and 'z') needs the token 'z'"));
  vocabulary_.merges.back() = "b c";
  EXPECT_THAT(make_error(), HasSubstr("needs the token 'bc', which the vocabulary lacks"));
  vocabulary_.merges.back() = "b c a";
  EXPECT_THAT(make_error(), HasSubstr("'b c a' does not have two parts"));
  vocabulary_.merges.pop_back();
  vocabulary_.end = 11;
  EXPECT_THAT(make_error(), HasSubstr("a special token has the id 11, but there are 11 tokens"));
  vocabulary_.token_types.pop_back();
  EXPECT_THAT(make_error(), HasSubstr("11 tokens but 10 token types"));
  vocabulary_.token_types.push_back(9);
  EXPECT_THAT(make_error(), HasSubstr("the id 10 has the type 9"));
}

TEST_F(Bpe, vocab_and_merges_alone_make_a_tokenizer_as_the_settings_beside_them_say) {
  write_folder();
  folder_.write("tokenizer_config.json", R"({"add_prefix_space": true, "pad_token": {"content": "<pad>"}})");
  folder_.write("special_tokens_map.json", R"({"bos_token": "<s>", "pad_token": "ignored"})");
  auto tokenizer = load_tokenizer(folder_.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  EXPECT_THAT((*tokenizer)->ids_of("cab<s>c<pad>"), ElementsAre(7, 5, 0, 7, 11));
  EXPECT_EQ((*tokenizer)->traits().pad, 11);
  EXPECT_EQ((*tokenizer)->traits().begin, 0);
  EXPECT_EQ((*tokenizer)->vocabulary_size(), 12);
  folder_.write("merges.txt", "a b\nab\n");
  EXPECT_THAT(load_tokenizer(folder_.path()).error().message, HasSubstr("line 2 of"));
  std::filesystem::remove(folder_.path() / "merges.txt");
  EXPECT_THAT(load_tokenizer(folder_.path()).error().message, HasSubstr("it holds vocab.json but not merges.txt"));
}

TEST_F(Bpe, hostile_files_are_errors_and_not_crashes) {
  const auto error_of = [&](const json& tokenizer) {
    folder_.write("tokenizer.json", tokenizer.dump());
    const auto loaded = load_tokenizer(folder_.path());
    return loaded.ok() ? "" : loaded.error().message;
  };
  const json good = {{"model", {{"type", "BPE"}, {"vocab", {{"a", 0}, {"b", 1}, {"ab", 2}}}, {"merges", {"a b"}}}},
                     {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
                     {"decoder", {{"type", "ByteLevel"}}}};
  EXPECT_EQ(error_of(good), "");
  json bad = good;
  bad["model"]["vocab"]["ab"] = 2000000;
  EXPECT_THAT(error_of(bad), HasSubstr("the token 'ab' has the id 2000000, in a vocabulary of 3 tokens"));
  bad["model"]["vocab"]["ab"] = "2";
  EXPECT_THAT(error_of(bad), HasSubstr("it is damaged (expected an integer)"));
  bad["model"]["vocab"]["ab"] = 1e18;
  EXPECT_THAT(error_of(bad), HasSubstr("it is damaged"));
  std::string deep = "null";
  for (int depth = 0; depth < 2000; ++depth) deep = R"({"type":"Sequence","pretokenizers":[)" + deep + "]}";
  folder_.write("tokenizer.json",
                R"({"model":{"type":"BPE","vocab":{},"merges":[]},"pre_tokenizer":)" + deep + "}");
  EXPECT_THAT(load_tokenizer(folder_.path()).error().message,
              HasSubstr("a Sequence nested more than 16 deep is not supported"));
  bad = good;
  bad["pre_tokenizer"] = {
      {"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}, {"invert", false}};
  EXPECT_THAT(error_of(bad), HasSubstr("the regular expression '(a' is not understood"));
  bad = good;
  bad["post_processor"] = {{"type", "RobertaProcessing"}, {"sep", {"</s>", 7}}, {"cls", {"<s>", 0}}};
  EXPECT_THAT(error_of(bad), HasSubstr("adds the id 7, which no token has"));
  bad = good;
  bad["model"]["dropout"] = 0.1;
  EXPECT_THAT(error_of(bad), HasSubstr("a dropout of merges is not supported"));
  bad = good;
  bad["model"]["merges"] = json::array({json::array({"a"})});
  EXPECT_THAT(error_of(bad), HasSubstr("it is damaged"));
  folder_.write("tokenizer.json", "[1, 2");
  EXPECT_THAT(load_tokenizer(folder_.path()).error().message, HasSubstr("not valid JSON"));
}

/// As transformers 5.17 reads them.
TEST_F(Bpe, what_the_settings_may_say_beside_tokenizer_json) {
  const auto ids_with = [&](bool prefix_space, const json& settings) {
    const json tokenizer = {
        {"model", {{"type", "BPE"}, {"vocab", {{"a", 0}, {"Ġ", 1}, {"<s>", 2}}}, {"merges", json::array()}}},
        {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", prefix_space}}},
        {"decoder", {{"type", "ByteLevel"}}},
        {"added_tokens", {{{"id", 2}, {"content", "<s>"}, {"special", true}}}},
        {"post_processor",
         {{"type", "TemplateProcessing"},
          {"single",
           {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
          {"pair", json::array()},
          {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {2}}, {"tokens", {"<s>"}}}}}}}}};
    folder_.write("tokenizer.json", tokenizer.dump());
    folder_.write("tokenizer_config.json", settings.dump());
    auto loaded = load_tokenizer(folder_.path());
    EXPECT_TRUE(loaded.ok()) << loaded.error().message;
    return loaded.ok() ? (*loaded)->encode("a", {})->ids : std::vector<TokenId>();
  };
  const std::vector<TokenId> bare{2, 0}, spaced{2, 1, 0};
  EXPECT_EQ(ids_with(false, json::object()), bare);
  EXPECT_EQ(ids_with(true, json::object()), spaced);
  EXPECT_EQ(ids_with(false, {{"add_bos_token", false}, {"add_eos_token", true}}), bare)
      << "the file's template counts";
  EXPECT_EQ(ids_with(false, {{"add_prefix_space", true}, {"tokenizer_class", "PreTrainedTokenizerFast"}}), bare);
  EXPECT_EQ(ids_with(true, {{"add_prefix_space", false}, {"tokenizer_class", "PreTrainedTokenizerFast"}}), spaced);
  EXPECT_EQ(ids_with(false, {{"add_prefix_space", true}, {"tokenizer_class", "GPT2Tokenizer"}}), spaced);
  EXPECT_EQ(ids_with(true, {{"tokenizer_class", "GPT2Tokenizer"}}), bare) << "the class's own default";
}

TEST_F(Bpe, a_pattern_that_would_take_for_ever_ends) {
  folder_.write(
      "tokenizer.json",
      json{{"model", {{"type", "BPE"}, {"vocab", {{"a", 0}}}, {"merges", json::array()}}},
           {"pre_tokenizer",
            {{"type", "Split"}, {"pattern", {{"Regex", "(a+)+$"}}}, {"behavior", "Isolated"}, {"invert", false}}}}
          .dump());
  auto tokenizer = load_tokenizer(folder_.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  EXPECT_EQ((*tokenizer)->ids_of(std::string(40, 'a') + "b").size(), 40);
}

class Unigram : public ::testing::Test {
 protected:
  Unigram() {
    tokenizer_ = json::parse(R"({
      "model": {"type": "Unigram", "unk_id": 2, "vocab": [["<pad>", 0], ["</s>", 0], ["<unk>", 0], ["▁", -2],
                ["▁a", -3], ["b", -3], ["ab", -2.5], ["<0xC3>", -9], ["<0xA9>", -9]]},
      "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Metaspace"}]},
      "decoder": {"type": "Metaspace", "replacement": "▁"}})");
  }
  std::unique_ptr<Tokenizer> load() {
    folder_.write("tokenizer.json", tokenizer_.dump());
    auto loaded = load_tokenizer(folder_.path());
    EXPECT_TRUE(loaded.ok()) << (loaded.ok() ? "" : loaded.error().message);
    return std::move(*loaded);
  }
  std::string load_error() {
    const auto loaded = load_tokenizer(folder_.path());
    return loaded.ok() ? "" : loaded.error().message;
  }
  /// A field of a protocol buffer that holds bytes.
  static std::string field(int number, const std::string& bytes) {
    return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())} + bytes;
  }
  static std::string piece(const std::string& text, float score, char type) {
    std::string bytes(4, '\0');
    std::memcpy(bytes.data(), &score, 4);
    return field(1, field(1, text) + "\x15" + bytes + "\x18" + type);
  }

  json tokenizer_;
  TemporaryFolder folder_;
};

TEST_F(Unigram, the_likeliest_cut_wins_and_what_no_piece_covers_is_one_unknown) {
  const auto tokenizer = load();
  EXPECT_THAT(tokenizer->ids_of("ab  abb"), ElementsAre(3, 6, 3, 6, 5));
  EXPECT_THAT(tokenizer->ids_of("a\u00e9\u00e9b"), ElementsAre(4, 2, 5));
  EXPECT_EQ(tokenizer->decode(std::vector<TokenId>{4, 5, 4, 100}), "ab a");
  tokenizer_["model"]["byte_fallback"] = true;
  EXPECT_THAT(load()->ids_of("a\u00e9\u00e8"), ElementsAre(4, 2));
  EXPECT_THAT(load()->ids_of("a\u00e9\u00e9"), ElementsAre(4, 7, 8, 7, 8));
}

TEST_F(Unigram, spiece_model_alone_follows_the_conventions_of_t5) {
  const std::string model = piece("<pad>", 0, 3) + piece("</s>", 0, 3) + piece("<unk>", 0, 2) +
                            piece("\u2581", -2, 1) + piece("a", -3, 1);
  folder_.write("tokenizer_config.json", R"({"extra_ids": 2})");
  folder_.write("spiece.model", model);
  auto tokenizer = load_tokenizer(folder_.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  EXPECT_THAT((*tokenizer)->encode("a<extra_id_0>a <extra_id_1>")->ids, ElementsAre(3, 4, 6, 3, 4, 5, 1));
  EXPECT_THAT((*tokenizer)->encode_pair("a", "a")->ids, ElementsAre(3, 4, 1, 3, 4, 1));
  EXPECT_EQ((*tokenizer)->traits().pad, 0);
  const std::size_t last_piece = model.size() - piece("a", -3, 1).size();
  for (std::size_t size = last_piece + 1; size < model.size(); ++size) {
    folder_.write("spiece.model", model.substr(0, size));
    EXPECT_THAT(load_error(), HasSubstr("it is damaged: it ends")) << size;
  }
  folder_.write("spiece.model", model + field(2, "\x18\x02"));
  EXPECT_THAT(load_error(), HasSubstr("of another kind than unigram; tokenizer.json is needed"));
}

TEST_F(Unigram, files_that_cannot_be_used_are_named_with_the_reason) {
  const auto error_with = [&](const char* pointer, const json& value) {
    json changed = tokenizer_;
    changed[json::json_pointer(pointer)] = value;
    folder_.write("tokenizer.json", changed.dump());
    return load_error();
  };
  EXPECT_THAT(error_with("/model/unk_id", nullptr), HasSubstr("a Unigram model without unk_id is not supported"));
  EXPECT_THAT(error_with("/model/unk_id", 9), HasSubstr("unknown token has the id 9, but there are 9 pieces"));
  EXPECT_THAT(error_with("/model/vocab", json::array()), HasSubstr("its vocabulary is empty"));
  EXPECT_THAT(error_with("/decoder/replacement", "xy"), HasSubstr("a Metaspace with the replacement 'xy'"));
  const auto charsmap = [](const char* base64) {
    return json{{"type", "Precompiled"}, {"precompiled_charsmap", base64}};
  };
  EXPECT_THAT(error_with("/normalizer", charsmap("***")), HasSubstr("that is not base64"));
  EXPECT_THAT(error_with("/normalizer", charsmap("/////w==")), HasSubstr("its map of characters is cut off"));
  // Units that point far outside.
  EXPECT_EQ(error_with("/normalizer", charsmap("CAAAAP////8A////")), "");
  EXPECT_THAT(load_tokenizer(folder_.path()).value()->ids_of("a \u00e9"), ElementsAre(4, 3, 2));
}

}  // namespace
}  // namespace finesweep::worker
