#include "worker/data/tokenized_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <thread>

#include "storage/files.h"
#include "tests/engine/gguf_bytes.h"
#include "tests/engine/temporary_folder.h"
#include "tests/engine/word_tokenizer.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;

class TokenizedCache : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string text;
    for (int i = 0; i < 20; ++i) {
      text += R"({"source": "s)" + std::to_string(i) + R"( a b", "target": "t u)" + std::to_string(i) + "\"}\n";
    }
    data.train = folder.write("train.jsonl", text).string();
    data.source = "source";
    data.target = "target";
    options.sequence_length = 6;
    options.prompt = "{source} :";
    options.prompt_length = 4;
  }
  fs::path cache() const { return folder.path() / "cache"; }
  SequenceDataset load() {
    auto made = load_or_tokenize(data, "train", options, tokenizer, {cache(), "digest"});
    EXPECT_TRUE(made.ok()) << (made.ok() ? "" : made.error().message);
    return std::move(*made);
  }
  std::vector<fs::path> files() const {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(cache())) found.push_back(entry.path());
    return found;
  }
  static void expect_same(const SequenceDataset& a, const SequenceDataset& b) {
    ASSERT_EQ(a.rows(), b.rows());
    EXPECT_EQ(a.cut_texts(), b.cut_texts());
    EXPECT_EQ(a.cut_targets(), b.cut_targets());
    ASSERT_EQ(a.can_generate(), b.can_generate());
    for (std::int64_t row = 0; row < a.rows(); ++row) {
      const std::int64_t one[] = {row};
      EXPECT_TRUE(a.batch(one).input_ids.equal(b.batch(one).input_ids));
      EXPECT_TRUE(a.batch(one).labels.equal(b.batch(one).labels));
      if (!a.can_generate()) continue;
      EXPECT_TRUE(a.prompts(one).input_ids.equal(b.prompts(one).input_ids));
      EXPECT_EQ(a.reference(row), b.reference(row));
    }
  }
  std::string key() const { return *tokenized_key(data, "train", options, "digest"); }

  TemporaryFolder folder;
  WordTokenizer tokenizer;
  DataContext data;
  SequenceOptions options;
};

TEST_F(TokenizedCache, a_second_job_reads_what_the_first_has_tokenised) {
  const SequenceDataset first = load();
  const int texts = tokenizer.texts;
  EXPECT_GT(texts, 0);
  const SequenceDataset second = load();
  EXPECT_EQ(tokenizer.texts, texts);
  EXPECT_GT(first.cut_texts(), 0);
  expect_same(first, second);
  ASSERT_EQ(files().size(), 1u);
  EXPECT_EQ(files()[0].filename(), key() + ".safetensors");
}

TEST_F(TokenizedCache, rows_of_an_encoder_and_of_plain_text_are_kept_too) {
  options.model = SequenceModel::encoder_decoder;
  expect_same(load(), load());
  options = {};
  options.sequence_length = 4;
  options.rows = TextRows::blocks;
  data.source = data.target = "";
  data.text = "source";
  const SequenceDataset blocks = load();
  EXPECT_FALSE(blocks.can_generate());
  expect_same(blocks, load());
  EXPECT_EQ(files().size(), 2u);
}

TEST_F(TokenizedCache, rows_of_a_classification_are_kept_by_their_labels_too) {
  data = {};
  data.train = folder.write("pairs.tsv", "a\tb\tlabel\none two\tthree\tyes\nfour\tfive six seven\tno\n").string();
  data.text_a = "a";
  data.text_b = "b";
  data.label = "label";
  const auto examples = [&] { return read_split(data, "train"); };
  const auto labels = Labels::find(data, *examples(), *data.train);
  data.labels = {"yes", "no"};
  const auto turned = Labels::find(data, *examples(), *data.train);
  ASSERT_TRUE(labels.ok() && turned.ok());
  int reads = 0;
  const auto load = [&](const Labels& known, std::int64_t length) {
    auto made = load_or_tokenize(data, "train", [&] { return ++reads, read_split(data, "train"); }, known, length,
                                 tokenizer, {cache(), "digest"});
    EXPECT_TRUE(made.ok()) << (made.ok() ? "" : made.error().message);
    return std::move(*made);
  };
  const std::int64_t both[] = {0, 1};
  const Batch first = load(*labels, 8).batch(both), second = load(*labels, 8).batch(both);
  EXPECT_EQ(reads, 1);
  EXPECT_TRUE(first.input_ids.equal(second.input_ids));
  EXPECT_TRUE(first.attention_mask.equal(second.attention_mask));
  EXPECT_TRUE(first.labels.equal(second.labels));
  EXPECT_TRUE(load(*turned, 8).batch(both).labels.equal(first.labels.eq(0).to(at::kLong)));
  EXPECT_EQ(load(*labels, 2).tokens_in_row(1), 2);
  EXPECT_EQ(reads, 3);
  EXPECT_EQ(files().size(), 3u);
}

TEST_F(TokenizedCache, a_damaged_file_is_made_anew_wherever_it_is_damaged) {
  const SequenceDataset first = load();
  const fs::path file = files()[0];
  const std::string good = *storage::read_file(file);
  const auto expect_repaired = [&](const std::string& bytes) {
    ASSERT_TRUE(storage::write_file_atomically(file, bytes).ok());
    expect_same(first, load());
    EXPECT_EQ(*storage::read_file(file), good);
  };
  for (std::size_t size = 0; size < good.size(); size += 97) expect_repaired(good.substr(0, size));
  for (std::size_t at = 0; at < good.size(); at += 61) {
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x20);
    expect_repaired(bytes);
  }
  EXPECT_EQ(files().size(), 1u);
}

TEST_F(TokenizedCache, the_key_follows_from_all_that_the_rows_do_and_from_nothing_else) {
  std::set<std::string> keys{key()};
  const auto expect_new = [&](auto change) {
    const DataContext data_before = data;
    const SequenceOptions options_before = options;
    change();
    EXPECT_TRUE(keys.insert(key()).second);
    data = data_before;
    options = options_before;
  };
  expect_new([&] { data.source = "target"; });
  expect_new([&] { data.limit_train = 5; });
  expect_new([&] { data.limit_train = 5, data.limit_seed = 1; });
  expect_new([&] { options.sequence_length = 7; });
  expect_new([&] { options.prompt = "{source} ;"; });
  expect_new([&] { options.prompt_length = 5; });
  expect_new([&] { options.loss_on = LossOn::all; });
  expect_new([&] { options.rows = TextRows::blocks; });
  expect_new([&] { options.model = SequenceModel::encoder_decoder; });
  expect_new(
      [&] { data.train = folder.write("other.jsonl", "{\"source\": \"a\", \"target\": \"b\"}\n").string(); });
  EXPECT_TRUE(keys.insert(*tokenized_key(data, "train", options, "other tokenizer")).second);

  fs::create_directories(folder.path() / "elsewhere");
  fs::copy_file(*data.train, folder.path() / "elsewhere" / "same.jsonl");
  const std::string before = key();
  data.train = (folder.path() / "elsewhere" / "same.jsonl").string();
  data.limit_seed = 9;  // of no limit
  EXPECT_EQ(key(), before);
}

TEST_F(TokenizedCache, many_writers_at_once_leave_one_good_file) {
  const SequenceDataset expected = load();
  fs::remove_all(cache());
  std::vector<std::thread> writers;
  for (int i = 0; i < 8; ++i) {
    writers.emplace_back([&] {
      WordTokenizer own;
      const auto made = load_or_tokenize(data, "train", options, own, {cache(), "digest"});
      ASSERT_TRUE(made.ok());
      EXPECT_EQ(made->rows(), expected.rows());
    });
  }
  for (auto& writer : writers) writer.join();
  EXPECT_EQ(files().size(), 1u);
  expect_same(expected, load());
}

TEST_F(TokenizedCache, one_that_cannot_be_written_is_done_without) {
  folder.write("cache", "a file, not a folder");
  EXPECT_EQ(load().rows(), 20);
  EXPECT_EQ(load_or_tokenize(data, "train", options, tokenizer, {"", "digest"})->rows(), 20);
}

TEST_F(TokenizedCache, errors_are_those_of_the_data) {
  data.train = folder.write("bad.jsonl", "{\"source\": \"a\"}\n").string();
  const auto made = load_or_tokenize(data, "train", options, tokenizer, {cache(), "digest"});
  EXPECT_THAT(made.error().message, ::testing::HasSubstr("bad.jsonl:1: the row has no field 'target'"));
  EXPECT_THAT(load_or_tokenize(data, "test", options, tokenizer, {cache(), "digest"}).error().message,
              ::testing::HasSubstr("names no data.test"));
}

TEST_F(TokenizedCache, what_a_process_left_that_died_while_writing_goes_after_a_day) {
  load();
  const fs::path old = cache() / ".x.safetensors.tmp-host-1-0", fresh = cache() / ".y.safetensors.tmp-host-1-0";
  for (const auto& path : {old, fresh}) ASSERT_TRUE(storage::write_file_atomically(path, "part").ok());
  fs::last_write_time(old, fs::file_time_type::clock::now() - std::chrono::hours(30));
  options.sequence_length = 8;
  load();
  EXPECT_FALSE(fs::exists(old));
  EXPECT_TRUE(fs::exists(fresh));
}

TEST_F(TokenizedCache, a_tokenizer_is_known_by_the_content_of_its_files) {
  const auto tokenizer_folder = [&](const std::string& name, const std::string& vocabulary) {
    fs::create_directories(folder.path() / name);
    folder.write(name + "/vocab.txt", vocabulary);
    folder.write(name + "/model.safetensors", name);
    return *tokenizer_digest(folder.path() / name);
  };
  EXPECT_EQ(tokenizer_folder("a", "x\n"), tokenizer_folder("b", "x\n"));
  EXPECT_NE(tokenizer_folder("a", "x\n"), tokenizer_folder("c", "y\n"));
}

TEST_F(TokenizedCache, a_gguf_file_is_known_by_what_stands_before_its_weights) {
  const auto digest = [&](const std::string& vocabulary, const std::string& weights) {
    GgufBytes bytes;
    bytes.string("tokenizer.ggml.model", vocabulary);
    bytes.tensor("a", {2}, weights);
    return *tokenizer_digest(folder.write("model.gguf", bytes.bytes()));
  };
  EXPECT_EQ(digest("x", "12345678"), digest("x", "87654321"));
  EXPECT_NE(digest("x", "12345678"), digest("y", "12345678"));
}

}  // namespace
}  // namespace finesweep::worker
