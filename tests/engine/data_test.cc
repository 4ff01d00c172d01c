#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "tests/engine/temporary_folder.h"
#include "worker/data/dataset.h"
#include "worker/data/examples.h"
#include "worker/data/table.h"

namespace finesweep::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Data : public ::testing::Test {
 protected:
  std::vector<std::vector<std::string>> cells(const std::string& name, const std::string& text,
                                              const std::vector<std::string>& columns) {
    const auto rows = read_table(folder_.write(name, text), columns);
    EXPECT_TRUE(rows.ok()) << (rows.ok() ? "" : rows.error().message);
    std::vector<std::vector<std::string>> result;
    for (const auto& row : *rows) {
      result.emplace_back();
      for (const auto& cell : row.cells) result.back().push_back(std::get<std::string>(cell));
    }
    return result;
  }
  std::string error(const std::string& name, const std::string& text, const std::vector<std::string>& columns,
                    const TableLimits& limits = {}) {
    const auto rows = read_table(folder_.write(name, text), columns, limits);
    return rows.ok() ? "" : rows.error().message;
  }
  DataContext context(const std::string& train, const std::string& name = "train.jsonl") {
    DataContext data;
    data.train = folder_.write(name, train).string();
    return data;
  }
  Result<Labels> labels_of(const std::string& train) {
    const DataContext data = context(train);
    const auto examples = read_split(data, "train");
    if (!examples) return examples.error();
    return Labels::find(data, *examples, *data.train);
  }

  TemporaryFolder folder_;
};

TEST_F(Data, csv_is_read_with_quotes_separators_and_line_ends_inside_quotes) {
  EXPECT_THAT(cells("a.csv", "\xEF\xBB\xBFtext,x,label\r\n\"a, \"\"b\"\"\nc\",1,d\r\n\r\n,,\r\nlast,2,e",
                    {"label", "text"}),
              ElementsAre(ElementsAre("d", "a, \"b\"\nc"), ElementsAre("", ""), ElementsAre("e", "last")));
  EXPECT_THAT(cells("a.tsv", "text\tlabel\nsay \"hi\"\tb,c\n", {"text", "label"}),
              ElementsAre(ElementsAre("say \"hi\"", "b,c")));
}

TEST_F(Data, json_lines_keep_line_separators_of_unicode_inside_text) {
  EXPECT_THAT(cells("a.jsonl",
                    "{\"t\": \"a\xE2\x80\xA8"
                    "b\"}\n\n{\"t\": \"c\", \"u\": []}\r\n",
                    {"t"}),
              ElementsAre(ElementsAre("a\xE2\x80\xA8"
                                      "b"),
                          ElementsAre("c")));
}

TEST_F(Data, a_bad_row_is_named_by_file_line_and_reason) {
  EXPECT_THAT(error("a.csv", "t,l\na,b\nc\n", {"t"}), HasSubstr("a.csv:3: the row has 1 fields, the header has 2"));
  EXPECT_THAT(error("a.csv", "t,l\na,\"b\nc\nd", {"t"}), HasSubstr("a.csv:2: the quote that opens here is never"));
  EXPECT_THAT(error("a.csv", "t,l\n\"a\"b,c\n", {"t"}), HasSubstr("a.csv:2: text follows a closing quote"));
  EXPECT_THAT(error("a.csv", "t,l\na,\xff\n", {"l"}), HasSubstr("a.csv:2: the row is not valid UTF-8"));
  EXPECT_THAT(error("a.csv", "t,l\na,b\n", {"label"}), HasSubstr("no column 'label'; it has: t, l"));
  EXPECT_THAT(error("a.csv", "", {"label"}), HasSubstr("a.csv:1: the file is empty"));
  EXPECT_THAT(error("a.jsonl", "{}\n[1]\n", {}), HasSubstr("a.jsonl:2: expected a JSON object"));
  EXPECT_THAT(error("a.jsonl", "{\"t\": \"\xff\"}\n", {"t"}), HasSubstr("a.jsonl:1: not valid JSON"));
  EXPECT_THAT(error("a.jsonl", "{\"t\": [1]}\n", {"t"}), HasSubstr("a.jsonl:1: field 't' holds a list"));
  EXPECT_THAT(error("a.parquet", "", {"t"}), HasSubstr("expected a file that ends in .jsonl, .csv, .tsv or .txt"));
  TableLimits limits;
  limits.row_bytes = 10;
  EXPECT_THAT(error("a.jsonl", "{\"t\": \"long enough\"}\n", {"t"}, limits),
              HasSubstr("a.jsonl:1: the row is longer"));
  EXPECT_THAT(error("a.csv", "t\n\"never ending ending ending", {"t"}, limits), HasSubstr("a.csv:2:"));
}

/// A message must be valid UTF-8 and short enough to be read, whatever the file holds.
void expect_readable(const std::string& message) {
  EXPECT_LT(message.size(), 700u);
  EXPECT_NO_THROW((void)nlohmann::json(message).dump()) << message.substr(0, 200);
}

TEST_F(Data, hostile_files_are_refused_in_words_that_can_be_read) {
  const std::string deep(300'000, '['), wide(3'000'000, 'x'), e_acute = "\xC3\xA9";
  std::string long_word;
  for (int i = 0; i < 100; ++i) long_word += e_acute;
  const auto expect_error = [&](const std::string& name, const std::string& text, const std::string& part) {
    const std::string message = error(name, text, {"t"});
    EXPECT_THAT(message.substr(0, 700), HasSubstr(part));
    expect_readable(message);
  };
  expect_error("a.jsonl", "{\"t\": " + deep, "a.jsonl:1: the JSON is nested deeper than 200 levels");
  expect_error("a.jsonl", "{\"u\": " + deep + "\n", "a.jsonl:1: the JSON is nested deeper");
  expect_error("a.jsonl", deep, "a.jsonl:1: expected a JSON object");
  expect_error("a.jsonl", "{\"t\": \"" + wide + "\xff\"}", "a.jsonl:1: not valid JSON");
  expect_error("a.jsonl", "{\"t\": " + wide + "}", "a.jsonl:1: not valid JSON");
  expect_error("a.jsonl", "{\"t\": 1" + std::string(500, '0') + "}", "a.jsonl:1: not valid JSON");
  expect_error("a.jsonl", "{\"t\": \"\\ud800\"}", "a.jsonl:1: not valid JSON");
  expect_error("a.jsonl", std::string("{\"t\": \"a\0b\"}", 12), "a.jsonl:1: not valid JSON");
  expect_error("a.jsonl", "{\"t\": \"a\"} {\"t\": \"b\"}", "a.jsonl:1: not valid JSON");
  expect_error("a.jsonl", "{\"" + long_word + wide + "\": 1}", "the row has no field 't'");
  expect_error("a.jsonl", std::string(20'000'000, '{'), "a.jsonl:1: the row is longer than the limit of 16 MiB");
  expect_error("a.csv", "t\n" + std::string("a\0b\n", 4), "a.csv:2: the row holds a NUL byte");
  expect_error("a.csv", "\xff" + wide + "\na\n", "a.csv:1: the row is not valid UTF-8");
  expect_error("a.csv", long_word + wide + ",b\na,b\n", "the file has no column 't'");
  expect_error("a.txt", "good\n\xC3(\n", "a.txt:2: the row is not valid UTF-8");
  expect_error("a.txt", std::string("a\0b", 3), "a.txt:1: the row holds a NUL byte");
  expect_error("a.txt", std::string(17u << 20, 'x'), "a.txt:1: the row is longer than the limit");
  expect_error("a.txt", std::string("\xFF\xFEt\0", 4), "it is UTF-16. Save it as UTF-8");
}

TEST_F(Data, what_a_row_holds_beside_its_columns_does_not_matter) {
  EXPECT_THAT(cells("a.jsonl", R"({"u": {"t": "inner", "v": [1, {"t": 2}]}, "t": "outer", "w": [[]]})", {"t"}),
              ElementsAre(ElementsAre("outer")));
  EXPECT_THAT(cells("a.jsonl", R"({"t": [1], "t": "last", "s": "\u0000"})", {"t", "t"}),
              ElementsAre(ElementsAre("last", "last")));
}

TEST_F(Data, labels_are_integers_as_given_else_names_in_the_order_of_code_points) {
  auto labels = labels_of(R"({"text": "a", "label": 3})"
                          "\n"
                          R"({"text": "a", "label": 0})"
                          "\n");
  EXPECT_EQ(labels->count(), 4);
  EXPECT_EQ(*labels->number_of(Cell(std::int64_t{3})), 3);
  EXPECT_THAT(labels->number_of(Cell(std::int64_t{4})).error().message, HasSubstr("the training split has 0 to 3"));

  labels = labels_of(R"({"text": "a", "label": "z"})"
                     "\n"
                     R"({"text": "a", "label": "é"})"
                     "\n"
                     R"({"text": "a", "label": "B"})"
                     "\n");
  EXPECT_THAT(labels->names(), ElementsAre("B", "z", "é"));
  EXPECT_EQ(*labels->number_of(Cell(std::string("é"))), 2);
  EXPECT_THAT(labels->number_of(Cell(std::string("y"))).error().message, HasSubstr("known are B, z, é"));
  EXPECT_EQ(*Labels::from_json(labels->to_json())->number_of(Cell(std::string("z"))), 1);

  labels = labels_of(R"({"text": "a", "label": 0.5})"
                     "\n"
                     R"({"text": "a", "label": 2})"
                     "\n");
  EXPECT_TRUE(labels->is_regression());
  EXPECT_EQ(labels->count(), 1);
  EXPECT_EQ(*labels->number_of(Cell(1.25)), 1.25);
}

TEST_F(Data, labels_mean_the_same_in_csv_as_in_json_lines) {
  const auto of_csv = [&](const std::vector<std::string>& labels) {
    std::string text = "text,label\n";
    for (const std::string& label : labels) text += "a," + label + "\n";
    DataContext data;
    data.train = folder_.write("train.csv", text);
    const auto examples = read_split(data, "train");
    return Labels::find(data, *examples, *data.train);
  };
  EXPECT_FALSE(of_csv({"1.0", "0.0"})->is_regression());
  EXPECT_EQ(of_csv({"1.0", "3", "0"})->count(), 4);
  EXPECT_EQ(*of_csv({"1.0", "3", "0"})->number_of(Cell(std::string("2.00"))), 2);
  EXPECT_TRUE(of_csv({"1.0", "2.5"})->is_regression());
  EXPECT_THAT(of_csv({"1.", "b"})->names(), ElementsAre("1.", "b"));
  EXPECT_THAT(of_csv({"inf", "b"})->names(), ElementsAre("b", "inf"));
  EXPECT_THAT(of_csv({"0.5", "1.5", ""}).error().message, HasSubstr("train.csv:4: the label is empty"));
  EXPECT_THAT(of_csv({"a", "", "b"}).error().message, HasSubstr("train.csv:3: the label is empty"));
  EXPECT_THAT(of_csv({"0", "1", "nan"}).error().message, HasSubstr("train.csv:4: the label nan is no number"));
}

TEST_F(Data, labels_of_the_sweep_file_name_numbers_too) {
  DataContext data = context(R"({"text": "a", "label": 1})"
                             "\n"
                             R"({"text": "a", "label": "no"})"
                             "\n");
  data.labels = {"no", "yes"};
  const auto examples = read_split(data, "train");
  const auto labels = Labels::find(data, *examples, *data.train);
  EXPECT_EQ(*labels->number_of((*examples)[0].label), 1);
  EXPECT_EQ(*labels->number_of((*examples)[1].label), 0);
  data.labels = {"no", "no"};
  EXPECT_FALSE(Labels::find(data, *examples, *data.train).ok());
}

TEST_F(Data, labels_of_the_sweep_file_may_be_numbers) {
  DataContext data = context(R"({"text": "a", "label": 30})"
                             "\n"
                             R"({"text": "a", "label": "10"})"
                             "\n"
                             R"({"text": "a", "label": 20.0})"
                             "\n"
                             R"({"text": "a", "label": 40})"
                             "\n");
  data.labels = {"10", "20", "30"};
  const auto examples = read_split(data, "train");
  const auto labels = Labels::find(data, *examples, *data.train);
  EXPECT_EQ(*labels->number_of((*examples)[0].label), 2);
  EXPECT_EQ(*labels->number_of((*examples)[1].label), 0);
  EXPECT_EQ(*labels->number_of((*examples)[2].label), 1);
  EXPECT_THAT(labels->number_of((*examples)[3].label).error().message,
              HasSubstr("'40' is not known; known are 10"));
  EXPECT_FALSE(labels->number_of(Cell(std::int64_t{1})).ok());
  EXPECT_FALSE(Labels::from_json(labels->to_json())->number_of(Cell(std::int64_t{1})).ok());
}

TEST_F(Data, labels_that_make_no_classification_are_refused) {
  EXPECT_THAT(labels_of(R"({"text": "a", "label": -1})"
                        "\n")
                  .error()
                  .message,
              HasSubstr("train.jsonl:1: the label -1"));
  EXPECT_THAT(labels_of(R"({"text": "a", "label": "x"})"
                        "\n")
                  .error()
                  .message,
              HasSubstr("every row has the label 'x'"));
  EXPECT_THAT(labels_of(R"({"text": "a", "label": null})"
                        "\n")
                  .error()
                  .message,
              HasSubstr("the label is null"));
  EXPECT_THAT(labels_of(R"({"text": "a", "label": 123456789})"
                        "\n")
                  .error()
                  .message,
              HasSubstr("too many classes"));
}

TEST_F(Data, a_limit_takes_the_same_rows_for_a_seed_and_a_smaller_limit_some_of_them) {
  std::string rows;
  for (int i = 0; i < 50; ++i)
    rows += R"({"text": ")" + std::to_string(i) +
            R"(", "label": 0})"
            "\n";
  DataContext data = context(rows);
  const auto texts = [&](std::int64_t limit, std::uint64_t seed) {
    data.limit_train = limit;
    data.limit_seed = seed;
    std::vector<std::string> result;
    const auto examples = read_split(data, "train");
    for (const auto& example : *examples) result.push_back(example.text);
    return result;
  };
  const auto ten = texts(10, 1), twenty = texts(20, 1);
  EXPECT_EQ(ten, texts(10, 1));
  EXPECT_NE(ten, texts(10, 2));
  EXPECT_EQ(ten, std::vector<std::string>(twenty.begin(), twenty.begin() + 10));
  EXPECT_EQ(std::set<std::string>(ten.begin(), ten.end()).size(), 10u);
  EXPECT_EQ(texts(80, 1).size(), 50u);
}

TEST(EpochPlan, every_row_is_seen_once_an_epoch_in_batches_and_steps_the_last_of_which_are_partial) {
  EpochPlan plan(23, 4, 2, 5);  // six batches, three steps
  EXPECT_EQ(plan.steps_per_epoch(), 3);
  std::vector<std::vector<std::int64_t>> orders;
  for (std::int64_t epoch : {0, 1}) {
    std::vector<std::int64_t> seen;
    std::vector<std::size_t> sizes;
    for (std::int64_t step = 0; step < 3; ++step) {
      for (const auto& batch : plan.step(epoch, step)) {
        sizes.push_back(batch.size());
        seen.insert(seen.end(), batch.begin(), batch.end());
      }
    }
    EXPECT_THAT(sizes, ElementsAre(4, 4, 4, 4, 4, 3));
    orders.push_back(seen);
    std::sort(seen.begin(), seen.end());
    std::vector<std::int64_t> all(23);
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(seen, all);
  }
  EXPECT_NE(orders[0], orders[1]);
  EpochPlan same(23, 4, 2, 5), other(23, 4, 2, 6);
  EXPECT_EQ(same.step(1, 1), plan.step(1, 1));
  EXPECT_NE(other.step(1, 1), plan.step(1, 1));
}

TEST_F(Data, a_batch_is_padded_to_its_longest_row) {
  folder_.write("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\n");
  auto tokenizer = load_tokenizer(folder_.path());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  DataContext data = context(R"({"x": "a", "y": "b", "label": 1})"
                             "\n"
                             R"({"x": "a a a a a a", "y": "b b", "label": 0})"
                             "\n");
  data.text_a = "x";
  data.text_b = "y";
  const auto examples = read_split(data, "train");
  ASSERT_TRUE(examples.ok()) << examples.error().message;
  const auto labels = Labels::find(data, *examples, *data.train);
  auto tokenized = tokenize_examples(*examples, *labels, **tokenizer, 8, *data.train);
  ASSERT_TRUE(tokenized.ok()) << tokenized.error().message;
  const ClassificationDataset dataset(std::move(*tokenized), false, (*tokenizer)->traits());
  const std::int64_t rows[] = {1, 0};
  const Batch batch = dataset.batch(rows);
  const auto values = [](const at::Tensor& tensor) {
    return std::vector<std::int64_t>(tensor.data_ptr<std::int64_t>(),
                                     tensor.data_ptr<std::int64_t>() + tensor.numel());
  };
  EXPECT_THAT(values(batch.input_ids), ElementsAre(2, 4, 4, 4, 3, 5, 5, 3, 2, 4, 3, 5, 3, 0, 0, 0));
  EXPECT_THAT(values(batch.attention_mask), ElementsAre(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0));
  EXPECT_THAT(values(batch.token_type_ids), ElementsAre(0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0));
  EXPECT_THAT(values(batch.labels), ElementsAre(0, 1));
  EXPECT_THAT(batch.row_indices, ElementsAre(1, 0));
}

TEST_F(Data, what_a_row_ends_in_is_left_off_where_it_is_taken_for_padding) {
  ClassificationRows rows;
  for (const std::vector<TokenId>& ids : {std::vector<TokenId>{7, 0, 4, 0, 0}, {0, 0}, {5}}) {
    rows.tokens.add(ids);
    rows.labels.push_back(1);
  }
  TokenizerTraits traits;
  traits.gives_type_ids = false;
  ClassificationDataset dataset(rows, false, traits);
  EXPECT_EQ(dataset.tokens_in_row(0), 5);
  dataset.leave_off_at_end(0);
  EXPECT_EQ(dataset.tokens_in_row(0), 3) << "not what stands between";
  EXPECT_EQ(dataset.tokens_in_row(1), 1) << "the first one stays";
  const std::int64_t both[] = {0, 2};
  const Batch batch = dataset.batch(both);
  EXPECT_TRUE(at::equal(batch.input_ids, at::tensor({7, 0, 4, 5, 0, 0}, at::kLong).view({2, 3})));
  EXPECT_TRUE(at::equal(batch.attention_mask, at::tensor({1, 1, 1, 1, 0, 0}, at::kLong).view({2, 3})));
}

}  // namespace
}  // namespace finesweep::worker
