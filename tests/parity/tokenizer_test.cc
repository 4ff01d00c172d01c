#include "worker/tokenizers/tokenizer.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "tests/parity/fixtures.h"
#include "worker/tokenizers/bpe.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using parity::fixtures;

/// A copy of a tokenizer's folder with its packed files unpacked, in the layout of a Hugging Face directory.
class UnpackedFolder {
 public:
  explicit UnpackedFolder(const fs::path& from)
      : path_(fs::temp_directory_path() / ("finesweep_tokenizer_" + std::to_string(::getpid()))) {
    fs::remove_all(path_);
    fs::create_directories(path_);
    for (const auto& entry : fs::directory_iterator(from)) {
      const fs::path to = path_ / entry.path().filename();
      fs::copy_file(entry.path(), to);
      if (to.extension() == ".gz") {
        EXPECT_EQ(std::system(("gzip -df '" + to.string() + "'").c_str()), 0);
      }
    }
  }
  ~UnpackedFolder() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

void check_cases(Tokenizer& tokenizer, const fs::path& folder) {
  for (const json& row : parity::read_json_lines(folder / "cases.jsonl")) {
    const auto text = row["text"].get<std::string>();
    auto encoding = tokenizer.encode(text);
    ASSERT_TRUE(encoding.ok()) << encoding.error().message;
    const auto ids = row["ids"].get<std::vector<TokenId>>(), bare = row["ids_ns"].get<std::vector<TokenId>>();
    EXPECT_EQ(encoding->ids, ids) << text;
    EXPECT_EQ(tokenizer.ids_of(text), bare) << text;
    EXPECT_EQ(tokenizer.decode(bare), row["dec"].get<std::string>()) << text;
    EXPECT_EQ(tokenizer.decode(ids, SpecialTokens::skip), row["dec_skip"].get<std::string>()) << text;
  }
}

void check_pairs(Tokenizer& tokenizer, const fs::path& folder) {
  for (const json& row : parity::read_json_lines(folder / "pairs.jsonl")) {
    EncodeOptions options;
    options.max_length = row["max_length"].is_null() ? 0 : row["max_length"].get<std::int64_t>();
    options.pad_to_max_length = row["padding"] == "max_length";
    options.truncation = row["truncation"] == "longest_first" ? Truncation::longest_first
                         : row["truncation"] == "only_first"  ? Truncation::only_first
                         : row["truncation"] == "only_second" ? Truncation::only_second
                                                              : Truncation::none;
    const auto first = row["a"].get<std::string>();
    auto encoding = row["b"].is_null() ? tokenizer.encode(first, options)
                                       : tokenizer.encode_pair(first, row["b"].get<std::string>(), options);
    ASSERT_TRUE(encoding.ok()) << encoding.error().message << "\n" << row;
    EXPECT_EQ(json(encoding->ids), row["input_ids"]) << row;
    EXPECT_EQ(json(encoding->attention_mask), row["attention_mask"]) << row;
    EXPECT_EQ(tokenizer.traits().gives_type_ids, row.contains("token_type_ids"));
    if (row.contains("token_type_ids")) {
      EXPECT_EQ(json(encoding->type_ids), row["token_type_ids"]) << row;
    }
  }
}

/// The ways in which a folder can be read: files that are taken away first, one after the other, and what must be
/// left.
struct Layout {
  const char* without;
  std::vector<const char*> needs;
};
const std::vector<Layout> layouts{{nullptr, {"tokenizer.json"}},
                                  {"tokenizer.json", {"vocab.json", "merges.txt"}},
                                  {"vocab.json", {"spiece.model"}},
                                  {"spiece.model", {"vocab.txt"}}};

TEST(TokenizerParity, every_tokenizer_gives_the_reference_ids_texts_and_cuts_from_each_of_its_files) {
  int checked = 0;
  for (const fs::path& folder : parity::folders_in(fixtures() / "tokenizers")) {
    const UnpackedFolder unpacked(folder);
    for (const Layout& layout : layouts) {
      if (layout.without != nullptr) fs::remove(unpacked.path() / layout.without);
      if (!std::all_of(layout.needs.begin(), layout.needs.end(),
                       [&](const char* file) { return fs::exists(unpacked.path() / file); })) {
        continue;
      }
      SCOPED_TRACE(folder.string() + ", from " + layout.needs[0]);
      auto tokenizer = load_tokenizer(unpacked.path());
      ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
      check_cases(**tokenizer, unpacked.path());
      if (fs::exists(unpacked.path() / "pairs.jsonl")) check_pairs(**tokenizer, unpacked.path());
      ++checked;
    }
  }
  EXPECT_GT(checked, 0) << "no tokenizer in " << fixtures();
}

/// What a GGUF file with this tokenizer.json's vocabulary would hold.
BpeVocabulary gguf_vocabulary(const json& tokenizer) {
  BpeVocabulary vocabulary;
  const json& model = tokenizer["model"];
  vocabulary.tokens.resize(model["vocab"].size());
  vocabulary.token_types.assign(vocabulary.tokens.size(), 1);
  for (const auto& [token, id] : model["vocab"].items()) vocabulary.tokens.at(id.get<std::size_t>()) = token;
  for (const json& token : tokenizer["added_tokens"]) {
    vocabulary.token_types.at(token["id"].get<std::size_t>()) = token["special"].get<bool>() ? 3 : 4;
  }
  for (const json& merge : model["merges"]) {
    vocabulary.merges.push_back(merge.is_string()
                                    ? merge.get<std::string>()
                                    : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  vocabulary.pre_tokenizer = tokenizer["pre_tokenizer"]["type"] == "Sequence" ? "smollm" : "gpt-2";
  return vocabulary;
}

/// GGUF knows no tokens that swallow the space before them.
bool gguf_can_hold(const json& tokenizer) {
  if (tokenizer["model"]["type"] != "BPE") return false;
  const json& pre_tokenizer = tokenizer["pre_tokenizer"];
  const bool known = pre_tokenizer["type"] == "ByteLevel" ||
                     (pre_tokenizer["type"] == "Sequence" && pre_tokenizer["pretokenizers"][0]["type"] == "Digits");
  return known && std::none_of(tokenizer["added_tokens"].begin(), tokenizer["added_tokens"].end(),
                               [](const json& token) { return token["lstrip"].get<bool>(); });
}

TEST(TokenizerParity, the_metadata_of_gguf_give_the_reference_ids_and_texts) {
  int checked = 0;
  for (const fs::path& folder : parity::folders_in(fixtures() / "tokenizers")) {
    const UnpackedFolder unpacked(folder);
    if (!fs::exists(unpacked.path() / "tokenizer.json")) continue;
    const json file = parity::read_json(unpacked.path() / "tokenizer.json");
    if (!gguf_can_hold(file)) continue;
    SCOPED_TRACE(folder);
    auto tokenizer = make_bpe_tokenizer(gguf_vocabulary(file));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
    check_cases(**tokenizer, unpacked.path());
    ++checked;
  }
  EXPECT_GT(checked, 0) << "no byte-level BPE tokenizer in " << fixtures();
}

TEST(TokenizerParity, the_files_written_from_the_metadata_of_gguf_give_the_reference_ids_and_texts) {
  int checked = 0;
  for (const fs::path& folder : parity::folders_in(fixtures() / "tokenizers")) {
    const UnpackedFolder unpacked(folder);
    if (!fs::exists(unpacked.path() / "tokenizer.json")) continue;
    const json file = parity::read_json(unpacked.path() / "tokenizer.json");
    if (!gguf_can_hold(file)) continue;
    SCOPED_TRACE(folder);
    const auto written = bpe_tokenizer_json(gguf_vocabulary(file));
    ASSERT_TRUE(written.ok()) << written.error().message;
    std::ofstream(unpacked.path() / "tokenizer.json") << written->tokenizer.dump();
    std::ofstream(unpacked.path() / "tokenizer_config.json") << written->config.dump();
    auto tokenizer = load_tokenizer(unpacked.path());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
    check_cases(**tokenizer, unpacked.path());
    ++checked;
  }
  EXPECT_GT(checked, 0) << "no byte-level BPE tokenizer in " << fixtures();
}

}  // namespace
}  // namespace finesweep::worker
