#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/temporary_folder.h"
#include "tests/engine/word_tokenizer.h"
#include "worker/data/sequence_dataset.h"
#include "worker/data/sequence_rows.h"
#include "worker/data/text_rows.h"
#include "worker/random.h"

namespace finesweep::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::int64_t> values(const at::Tensor& tensor) {
  return {tensor.data_ptr<std::int64_t>(), tensor.data_ptr<std::int64_t>() + tensor.numel()};
}

/// As a test reads it best: the words of each row.
std::vector<std::string> words(const TokenRows& rows, const Tokenizer& tokenizer) {
  std::vector<std::string> texts;
  for (std::int64_t i = 0; i < rows.count(); ++i) texts.push_back(tokenizer.decode(rows.row(i)));
  return texts;
}

SequenceOptions decoder(std::int64_t length, const std::string& prompt = "{source}\nTL;DR: ") {
  SequenceOptions options;
  options.sequence_length = length;
  options.prompt = prompt;
  return options;
}

SequenceOptions encoder(std::int64_t length, const std::string& prompt = "") {
  SequenceOptions options = decoder(length, prompt);
  options.model = SequenceModel::encoder_decoder;
  return options;
}

TextRow pair_row(const std::string& source, const std::string& target, std::int64_t line = 1) {
  return {source, target, line};
}

class SequenceData : public ::testing::Test {
 protected:
  SequenceRows rows(const std::vector<TextRow>& texts, const SequenceOptions& options) {
    auto result = tokenize_sequences(texts, options, tokenizer, "data.jsonl");
    EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.error().message);
    return std::move(*result);
  }
  std::string error(const std::vector<TextRow>& texts, const SequenceOptions& options) {
    const auto result = tokenize_sequences(texts, options, tokenizer, "data.jsonl");
    return result.ok() ? "" : result.error().message;
  }
  DataContext context(const std::string& name, const std::string& text) {
    DataContext data;
    data.train = folder.write(name, text).string();
    return data;
  }

  TemporaryFolder folder;
  WordTokenizer tokenizer;
};

TEST_F(SequenceData, a_decoder_reads_prompt_target_and_end_and_learns_the_target) {
  const SequenceRows made = rows({pair_row("a b", "c d"), pair_row("", "e")}, decoder(20));
  EXPECT_THAT(words(made.inputs, tokenizer), ElementsAre("a b | TL;DR: c d <end>", "| TL;DR: e <end>"));
  EXPECT_THAT(made.uncounted, ElementsAre(4, 2));
  EXPECT_EQ(made.cut_texts + made.cut_targets, 0);

  const SequenceDataset data(made, SequenceModel::decoder_only, tokenizer.traits());
  EXPECT_EQ(data.predicted_tokens(0), 3);
  EXPECT_EQ(data.tokens_in_row(1), 4);
  EXPECT_FALSE(data.can_generate());
  const std::int64_t order[] = {1, 0};
  const Batch batch = data.batch(order);
  EXPECT_THAT(batch.input_ids.sizes(), ElementsAre(2, 7));
  EXPECT_THAT(values(batch.input_ids), ElementsAre(10, 11, 16, 1, 0, 0, 0, 14, 15, 10, 11, 12, 13, 1));
  EXPECT_THAT(values(batch.attention_mask), ElementsAre(1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1));
  EXPECT_THAT(values(batch.labels),
              ElementsAre(-100, -100, 16, 1, -100, -100, -100, -100, -100, -100, -100, 12, 13, 1));
  EXPECT_FALSE(batch.decoder_input_ids.defined());
  EXPECT_FALSE(batch.token_type_ids.defined());
  EXPECT_THAT(batch.row_indices, ElementsAre(1, 0));
}

TEST_F(SequenceData, with_the_loss_on_all_the_prompt_is_learnt_too) {
  SequenceOptions options = decoder(20);
  options.loss_on = LossOn::all;
  const SequenceDataset data(rows({pair_row("a b", "c d")}, options), SequenceModel::decoder_only,
                             tokenizer.traits());
  EXPECT_EQ(data.predicted_tokens(0), 6);  // all but the first
  const std::int64_t first[] = {0};
  const Batch batch = data.batch(first);
  EXPECT_EQ(values(batch.labels), values(batch.input_ids));
}

TEST_F(SequenceData, a_source_that_is_too_long_loses_its_end_and_the_target_stays) {
  const std::vector<TextRow> texts{pair_row("a b c d e f", "t u")};
  const auto at = [&](std::int64_t length) {
    return words(rows(texts, decoder(length)).inputs, tokenizer).front();
  };
  EXPECT_EQ(at(11), "a b c d e f | TL;DR: t u <end>");
  EXPECT_EQ(at(10), "a b c d e | TL;DR: t u <end>");
  EXPECT_EQ(at(6), "a | TL;DR: t u <end>");
  EXPECT_EQ(at(5), "| TL;DR: t u <end>");
  // Only where it does not fit beside the prompt's own words is the target cut; it does not end there then.
  EXPECT_EQ(at(4), "| TL;DR: t u");
  EXPECT_EQ(at(3), "| TL;DR: t");
  EXPECT_THAT(error(texts, decoder(2)), HasSubstr("sequence_length of 2 leaves no room beside the 2 tokens"));
  const SequenceRows made = rows(texts, decoder(3));
  EXPECT_EQ(made.cut_texts, 1);
  EXPECT_EQ(made.cut_targets, 1);
}

TEST_F(SequenceData, words_on_both_sides_of_the_source_stay_when_it_is_cut) {
  WordTokenizer beginning(WordTokenizer::Around::beginning);
  const auto made =
      tokenize_sequences({pair_row("a b c d", "t")}, decoder(8, "Sum up: {source} so:"), beginning, "");
  ASSERT_TRUE(made.ok()) << made.error().message;
  EXPECT_THAT(words(made->inputs, beginning), ElementsAre("<begin> Sum up: a b so: t <end>"));
  EXPECT_THAT(made->uncounted, ElementsAre(6));
}

TEST_F(SequenceData, whatever_the_lengths_no_row_is_too_long_and_none_loses_its_target_or_its_prompt) {
  RandomStream random(3, "test");
  const auto text = [&](std::uint64_t most) {
    std::string made = "w" + std::to_string(random.next_below(9));
    for (std::uint64_t i = random.next_below(most); i > 0; --i) made += " w" + std::to_string(random.next_below(9));
    return made;
  };
  for (int i = 0; i < 500; ++i) {
    const auto length = static_cast<std::int64_t>(4 + random.next_below(30));
    const TextRow row = pair_row(text(40), text(20));
    SequenceOptions options = decoder(length, "do {source} now:");
    options.prompt_length = 3 + static_cast<std::int64_t>(random.next_below(10));
    const SequenceRows made = rows({row}, options);
    ASSERT_LE(made.inputs.length(0), length);
    ASSERT_LE(made.prompts.length(0), options.prompt_length);
    ASSERT_LT(made.uncounted[0], made.inputs.length(0));
    const std::string whole = tokenizer.decode(made.inputs.row(0)), prompt = tokenizer.decode(made.prompts.row(0));
    ASSERT_TRUE(whole.starts_with("do ") && prompt.starts_with("do ") && prompt.ends_with(" now:")) << whole;
    ASSERT_EQ(tokenizer.decode(made.inputs.row(0).subspan(static_cast<std::size_t>(made.uncounted[0] - 1), 1)),
              "now:");
    const auto target = tokenizer.ids_of(*row.target);
    const auto kept = made.inputs.row(0).subspan(static_cast<std::size_t>(made.uncounted[0]));
    const bool fits = static_cast<std::int64_t>(target.size()) + 3 <= length;
    ASSERT_EQ(kept.back() == 1, fits);
    if (fits) {
      ASSERT_EQ(std::vector<TokenId>(kept.begin(), kept.end() - 1), target);
    }
    // Cut only where there was no room left.
    if (made.cut_texts > 0) {
      ASSERT_EQ(made.inputs.length(0), length);
    }
  }
}

TEST_F(SequenceData, an_encoder_reads_the_source_and_a_decoder_learns_the_target_with_its_end) {
  WordTokenizer t5(WordTokenizer::Around::end);
  const std::vector<TextRow> texts{pair_row("a b c d", "t u v w"), pair_row("a", "t")};
  auto made = tokenize_sequences(texts, encoder(5, "sum: {source}"), t5, "");
  ASSERT_TRUE(made.ok()) << made.error().message;
  EXPECT_THAT(words(made->inputs, t5), ElementsAre("sum: a b c <end>", "sum: a <end>"));
  EXPECT_THAT(words(made->targets, t5), ElementsAre("t u v w <end>", "t <end>"));
  EXPECT_EQ(made->cut_texts, 1);
  const SequenceDataset data(*made, SequenceModel::encoder_decoder, t5.traits());
  EXPECT_EQ(data.tokens_in_row(1), 5);
  EXPECT_EQ(data.predicted_tokens(1), 2);
  const std::int64_t order[] = {0, 1};
  const Batch batch = data.batch(order);
  EXPECT_THAT(values(batch.attention_mask), ElementsAre(1, 1, 1, 1, 1, 1, 1, 1, 0, 0));
  EXPECT_THAT(batch.labels.sizes(), ElementsAre(2, 5));
  const TokenId t = made->targets.row(1)[0];
  const auto labels = values(batch.labels);
  EXPECT_THAT(std::vector<std::int64_t>(labels.begin() + 5, labels.end()), ElementsAre(t, 1, -100, -100, -100));

  made = tokenize_sequences(texts, encoder(3), t5, "");
  EXPECT_THAT(words(made->inputs, t5), ElementsAre("a b <end>", "a <end>"));
  EXPECT_THAT(words(made->targets, t5), ElementsAre("t u <end>", "t <end>"));
  EXPECT_EQ(made->cut_targets, 1);
}

TEST_F(SequenceData, prompts_to_generate_from_end_at_one_place_and_references_are_whole) {
  SequenceOptions options = decoder(4);
  options.prompt_length = 5;
  const SequenceDataset data(rows({pair_row("a b c d", "t u v w x"), pair_row("a", "t")}, options),
                             SequenceModel::decoder_only, tokenizer.traits());
  ASSERT_TRUE(data.can_generate());
  const std::int64_t order[] = {1, 0};
  const Batch batch = data.prompts(order);
  const auto ids = values(batch.input_ids);
  EXPECT_THAT(tokenizer.decode(std::vector<TokenId>(ids.begin(), ids.end())),
              "<pad> <pad> a | TL;DR: a b c | TL;DR:");
  EXPECT_THAT(values(batch.attention_mask), ElementsAre(0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
  EXPECT_FALSE(batch.labels.defined());
  EXPECT_EQ(data.reference(0), "t u v w x");

  WordTokenizer t5(WordTokenizer::Around::end);
  SequenceOptions of_encoder = encoder(9);
  of_encoder.prompt_length = 9;
  const auto made = tokenize_sequences({pair_row("a b", "t"), pair_row("a", "t")}, of_encoder, t5, "");
  const std::int64_t both[] = {0, 1};
  EXPECT_THAT(
      values(SequenceDataset(*made, SequenceModel::encoder_decoder, t5.traits()).prompts(both).attention_mask),
      ElementsAre(1, 1, 1, 1, 1, 0));
}

TEST_F(SequenceData, plain_text_is_a_sample_a_row_and_rows_that_predict_nothing_are_left_out) {
  const SequenceRows made = rows({{"a b c d", {}, 1}, {"", {}, 2}, {"a", {}, 3}, {"a b", {}, 4}}, decoder(3));
  EXPECT_THAT(words(made.inputs, tokenizer), ElementsAre("a b c", "a b"));
  EXPECT_EQ(made.cut_texts, 1);
  const SequenceDataset data(made, SequenceModel::decoder_only, tokenizer.traits());
  EXPECT_EQ(data.predicted_tokens(0), 2);
  EXPECT_FALSE(data.can_generate());
  EXPECT_THAT(error({{"a", {}, 1}}, decoder(3)), HasSubstr("data.jsonl: no row has two tokens or more"));
}

TEST_F(SequenceData, blocks_are_cut_from_all_rows_with_the_end_token_between_them) {
  SequenceOptions options = decoder(3);
  options.rows = TextRows::blocks;
  const std::vector<TextRow> texts{{"a b", {}, 1}, {"", {}, 2}, {"c", {}, 3}, {"d e f", {}, 4}};
  const SequenceRows made = rows(texts, options);
  // a b <end> | c <end> d | e f
  EXPECT_THAT(words(made.inputs, tokenizer), ElementsAre("a b <end>", "c <end> d"));
  EXPECT_EQ(made.inputs.ids.size(), 6u);
  WordTokenizer beginning(WordTokenizer::Around::beginning);
  EXPECT_THAT(words(tokenize_sequences(texts, options, beginning, "")->inputs, beginning),
              ElementsAre("<begin> a b", "<end> <begin> c", "<end> <begin> d"));
  options.sequence_length = 9;
  EXPECT_THAT(error(texts, options), HasSubstr("all rows together have 8 tokens, fewer than one block"));
}

TEST_F(SequenceData, what_makes_no_sequences_is_refused_with_the_reason) {
  EXPECT_THAT(error({{"a b", {}, 1}}, encoder(8)), HasSubstr("needs rows with source and target"));
  EXPECT_THAT(error({pair_row("a", "b")}, decoder(8, "no place")), HasSubstr("must hold {source} once"));
  EXPECT_THAT(error({pair_row("a", "b")}, decoder(8, "{source}{source}")), HasSubstr("must hold {source} once"));
  EXPECT_THAT(error({pair_row("a", "b"), pair_row("", "b", 7)}, decoder(8, "{source}")),
              HasSubstr("data.jsonl:7: source and prompt give no token"));
  EXPECT_THAT(error({pair_row("a", "  ", 9)}, decoder(8)), HasSubstr("data.jsonl:9: the tokenizer finds no token"));
  EXPECT_THAT(error({}, decoder(8)), HasSubstr("there are no rows"));
  SequenceOptions options = decoder(8, "one two three {source}");
  options.prompt_length = 3;
  EXPECT_THAT(error({pair_row("a", "b")}, options), HasSubstr("prompt length of 3 leaves no room"));
  WordTokenizer endless(WordTokenizer::Around::nothing, false);
  EXPECT_THAT(tokenize_sequences({pair_row("a", "b")}, decoder(8), endless, "").error().message,
              HasSubstr("no end token"));
}

TEST_F(SequenceData, rows_are_read_with_the_fields_that_the_sweep_file_names) {
  DataContext data = context("a.jsonl", R"({"article": "long", "summary": "short", "id": [1, {"x": 2}]})"
                                        "\n");
  data.source = "article";
  data.target = "summary";
  auto read = read_text_rows(data, "train");
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(read->at(0).text, "long");
  EXPECT_EQ(read->at(0).target, "short");

  data = context("a.csv", "text,kind\n\"one,\ntwo\",a\nthree,b\n");
  read = read_text_rows(data, "train");
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(read->at(0).text, "one,\ntwo");
  EXPECT_EQ(read->at(1).line, 4);
  EXPECT_FALSE(read->at(0).target.has_value());
}

TEST_F(SequenceData, a_line_of_a_text_file_is_a_row) {
  DataContext data = context("a.txt", "\xEF\xBB\xBF first line\r\n\n   \nsecond \xE2\x80\xA8 line\nlast");
  const auto read = read_text_rows(data, "train");
  ASSERT_TRUE(read.ok()) << read.error().message;
  ASSERT_EQ(read->size(), 3u);
  EXPECT_EQ(read->at(0).text, " first line");
  EXPECT_EQ(read->at(1).text, "second \xE2\x80\xA8 line");
  EXPECT_EQ(read->at(2).line, 5);
  data.limit_train = 2;
  EXPECT_EQ(read_text_rows(data, "train")->size(), 2u);
  data.source = "source";
  EXPECT_THAT(read_text_rows(data, "train").error().message, HasSubstr("plain text has no fields"));
}

TEST_F(SequenceData, a_row_that_cannot_be_used_is_named_by_file_and_line) {
  const auto message = [&](const std::string& text) {
    DataContext data = context("a.jsonl", text);
    data.source = "source";
    const auto read = read_text_rows(data, "train");
    return read.ok() ? "" : read.error().message;
  };
  const std::string good = R"({"source": "a", "target": "b"})"
                           "\n";
  EXPECT_THAT(message(good + R"({"source": "a", "target": " \n"})"),
              HasSubstr("a.jsonl:2: field 'target' is empty"));
  EXPECT_THAT(message(good + R"({"source": null, "target": "b"})"),
              HasSubstr("a.jsonl:2: field 'source' holds null; expected text"));
  EXPECT_THAT(message(good + R"({"source": "a", "target": 5})"),
              HasSubstr("a.jsonl:2: field 'target' holds 5; expected text"));
  EXPECT_THAT(message(good + "\n" + R"({"source": "a"})"), HasSubstr("a.jsonl:3: the row has no field 'target'"));
  EXPECT_THAT(message("\n\n"), HasSubstr("the train split has no rows"));
  EXPECT_THAT(read_text_rows(DataContext(), "test").error().message, HasSubstr("names no data.test"));
}

TEST_F(SequenceData, a_bucket_sets_the_padded_length_and_not_the_rows_of_a_batch) {
  const LengthBuckets buckets = LengthBuckets::up_to(300);
  EXPECT_THAT(buckets.lengths(), ElementsAre(16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 300));
  EXPECT_EQ(buckets.fit(1), 16);
  EXPECT_EQ(buckets.fit(129), 160);
  EXPECT_EQ(buckets.fit(300), 300);
  EXPECT_EQ(buckets.fit(301), 301);
  EXPECT_EQ(LengthBuckets().fit(7), 7);
  EXPECT_THAT(LengthBuckets::up_to(1024).lengths().size(), 20u);
  EXPECT_THAT(LengthBuckets::up_to(8).lengths(), ElementsAre(8));

  const SequenceDataset data(rows({pair_row("a b", "c"), pair_row("a", "c")}, decoder(40)),
                             SequenceModel::decoder_only, tokenizer.traits());
  const std::int64_t order[] = {1, 0};
  const Batch dynamic = data.batch(order), bucketed = data.batch(order, LengthBuckets::up_to(40));
  EXPECT_EQ(dynamic.input_ids.size(1), 6);
  EXPECT_THAT(bucketed.input_ids.sizes(), ElementsAre(2, 16));
  EXPECT_THAT(bucketed.labels.sizes(), ElementsAre(2, 16));
  EXPECT_EQ(bucketed.row_indices, dynamic.row_indices);
  EXPECT_EQ(values(bucketed.input_ids.slice(1, 0, 6).contiguous()), values(dynamic.input_ids));
  EXPECT_EQ(bucketed.attention_mask.sum().item<std::int64_t>(), dynamic.attention_mask.sum().item<std::int64_t>());
  EXPECT_EQ(bucketed.labels.slice(1, 6).eq(-100).all().item<bool>(), true);
}

}  // namespace
}  // namespace finesweep::worker
