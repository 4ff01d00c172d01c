#include "worker/tokenizers/tokenizer.h"

#include <unistd.h>

#include "tests/parity/fixtures.h"

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

bool is_wordpiece(const fs::path& folder) {
  if (!fs::exists(folder / "tokenizer.json")) return fs::exists(folder / "vocab.txt");
  return parity::read_json(folder / "tokenizer.json")["model"]["type"] == "WordPiece";
}

void check_cases(Tokenizer& tokenizer, const fs::path& folder) {
  for (const json& row : parity::read_json_lines(folder / "cases.jsonl")) {
    const auto text = row["text"].get<std::string>();
    auto encoding = tokenizer.encode(text);
    ASSERT_TRUE(encoding.ok()) << encoding.error().message;
    const auto ids = row["ids"].get<std::vector<TokenId>>(), bare = row["ids_ns"].get<std::vector<TokenId>>();
    EXPECT_EQ(encoding->ids, ids) << text;
    EXPECT_EQ(tokenizer.ids_of(text), bare) << text;
    EXPECT_EQ(tokenizer.decode(bare), row["dec"]) << text;
    EXPECT_EQ(tokenizer.decode(ids, SpecialTokens::skip), row["dec_skip"]) << text;
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

TEST(TokenizerParity, wordpiece_gives_the_reference_ids_texts_and_cuts_from_either_file) {
  int checked = 0;
  for (const fs::path& folder : parity::folders_in(fixtures() / "tokenizers")) {
    const UnpackedFolder unpacked(folder);
    if (!is_wordpiece(unpacked.path())) continue;
    SCOPED_TRACE(folder);
    for (const bool vocabulary_alone : {false, true}) {
      if (vocabulary_alone && !fs::exists(unpacked.path() / "vocab.txt")) continue;
      if (vocabulary_alone) fs::remove(unpacked.path() / "tokenizer.json");
      auto tokenizer = load_tokenizer(unpacked.path());
      ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
      check_cases(**tokenizer, unpacked.path());
      if (fs::exists(unpacked.path() / "pairs.jsonl")) check_pairs(**tokenizer, unpacked.path());
      ++checked;
    }
  }
  EXPECT_GT(checked, 0) << "no WordPiece tokenizer in " << fixtures();
}

}  // namespace
}  // namespace finesweep::worker
