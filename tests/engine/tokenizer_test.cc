#include "worker/tokenizers/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/engine/temporary_folder.h"

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
  EXPECT_THAT(load_tokenizer(folder_.path()).error().message, HasSubstr("neither tokenizer.json nor vocab.txt"));
  tokenizer_["normalizer"]["type"] = "Precompiled";
  EXPECT_THAT(load_error(), HasSubstr("tokenizer.json: the normalizer 'Precompiled' is not supported"));
  tokenizer_["normalizer"] = nullptr;
  tokenizer_["model"]["type"] = "Unigram";
  EXPECT_THAT(load_error(), HasSubstr("the tokenizer model 'Unigram' is not supported"));
  tokenizer_["model"]["type"] = "WordPiece";
  tokenizer_["model"]["vocab"].erase("[UNK]");
  EXPECT_THAT(load_error(), HasSubstr("lacks the unknown token '[UNK]'"));
  tokenizer_["model"]["vocab"]["[UNK]"] = -5;
  EXPECT_THAT(load_error(), HasSubstr("has the id -5"));
  tokenizer_.erase("model");
  EXPECT_THAT(load_error(), HasSubstr("it is damaged"));
}

}  // namespace
}  // namespace finesweep::worker
