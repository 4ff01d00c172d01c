// A tokenizer that leaves its GGUF file as tokenizer.json stays the same.

#include <gtest/gtest.h>

#include "tests/engine/temporary_folder.h"
#include "tests/engine/tiny_tokenizer.h"
#include "worker/tokenizers/bpe.h"

namespace finesweep::worker {
namespace {

/// A token for each byte, three merges, a special token and one that a user added.
BpeVocabulary vocabulary(const std::string& pre_tokenizer) {
  BpeVocabulary made;
  made.pre_tokenizer = pre_tokenizer;
  made.tokens = {"<s>", "</s>", "<|user|>"};
  made.token_types = {3, 3, 4};
  made.tokens.resize(259);
  const Json bytes = byte_level_tokenizer(300)["model"]["vocab"];
  for (const auto& [letter, id] : bytes.items()) {
    if (id < 259) made.tokens[id.get<std::size_t>()] = letter;
  }
  for (const char* merged : {"th", "Ġth", "12"}) made.tokens.emplace_back(merged);
  made.token_types.resize(made.tokens.size(), 1);
  made.merges = {"t h", "Ġ th", "1 2"};
  made.begin = 0;
  made.end = 1;
  return made;
}

class WrittenBpe : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(PreTokenizers, WrittenBpe, ::testing::Values("gpt-2", "smollm", "llama-bpe", "qwen2"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::erase(name, '-');
                           return name;
                         });

TEST_P(WrittenBpe, gives_the_same_ids_and_texts_as_the_metadata) {
  for (const bool around : {false, true}) {
    for (const bool prefix_space : {false, true}) {
      BpeVocabulary from = vocabulary(GetParam());
      from.add_begin = from.add_end = around;
      from.add_space_prefix = prefix_space;
      const bool splits_first = from.pre_tokenizer == "llama-bpe" || from.pre_tokenizer == "qwen2";
      if (prefix_space && splits_first) {
        EXPECT_FALSE(bpe_tokenizer_json(from).ok());
        continue;
      }
      const auto direct = make_bpe_tokenizer(from);
      ASSERT_TRUE(direct.ok()) << direct.error().message;
      const auto written = bpe_tokenizer_json(from);
      ASSERT_TRUE(written.ok()) << written.error().message;
      TemporaryFolder folder;
      folder.write("tokenizer.json", written->tokenizer.dump());
      folder.write("tokenizer_config.json", written->config.dump());
      const auto loaded = load_tokenizer(folder.path());
      ASSERT_TRUE(loaded.ok()) << loaded.error().message;
      for (const char* text :
           {"the 12 thin", " the\n\nother  thing 1234.5!", "<|user|>it's THE'LL</s> e\u0301 \u00e9", "", "\t x"}) {
        const auto one = (*direct)->encode(text), other = (*loaded)->encode(text);
        ASSERT_TRUE(one.ok() && other.ok());
        EXPECT_EQ(one->ids, other->ids) << text;
        EXPECT_EQ((*direct)->decode(one->ids), (*loaded)->decode(other->ids)) << text;
        const auto pair = (*direct)->encode_pair(text, "the"), other_pair = (*loaded)->encode_pair(text, "the");
        EXPECT_EQ(pair->ids, other_pair->ids) << text;
      }
      EXPECT_EQ((*direct)->traits().end, (*loaded)->traits().end);
      EXPECT_EQ((*direct)->traits().begin, (*loaded)->traits().begin);
    }
  }
}

TEST(BpeJson, what_cannot_be_used_says_why) {
  EXPECT_FALSE(bpe_tokenizer_json(vocabulary("nonsense")).ok());
  BpeVocabulary broken = vocabulary("gpt-2");
  broken.merges = {"alone"};
  EXPECT_FALSE(bpe_tokenizer_json(broken).ok());
}

}  // namespace
}  // namespace finesweep::worker
