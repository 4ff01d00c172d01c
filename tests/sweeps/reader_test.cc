// YAML as strangers write it: bounds, positions, and writing back.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sweeps/yaml_reader.h"
#include "tests/sweeps/world.h"

namespace finesweep::sweeps {
namespace {

using ::testing::HasSubstr;

std::optional<Node> read(const std::string& text, std::string* messages = nullptr) {
  Diagnostics diagnostics;
  auto node = read_yaml(text, 0, diagnostics);
  if (messages) *messages = format_diagnostics(diagnostics.sorted(), "f");
  return diagnostics.has_errors() ? std::nullopt : std::move(node);
}

TEST(YamlReaderTest, long_runs_of_indicators_neither_crash_nor_hang) {
  for (const char* piece : {"[",    "{", "- ", "? ", "[{",  "{a: [", "- - ? ", "&a [", "!t [", ": ", "[[[\n",
                            "- \n", "!", "&",  "*",  "|\n", "'",     "\"",     "%",    "# \n", "x, "}) {
    std::string text;
    while (text.size() < 100'000) text += piece;
    std::string messages;
    const auto node = read(text, &messages);
    EXPECT_TRUE(node.has_value() || !messages.empty()) << piece;
  }
}

TEST(YamlReaderTest, a_megabyte_of_brackets_is_refused_for_its_depth) {
  std::string messages;
  EXPECT_FALSE(read(std::string(1 << 20, '['), &messages).has_value());
  EXPECT_THAT(messages, HasSubstr("32 levels"));
}

TEST(YamlReaderTest, a_text_above_the_bound_is_refused_unread) {
  std::string messages;
  EXPECT_FALSE(read(std::string((1 << 20) + 1, '#'), &messages).has_value());
  EXPECT_THAT(messages, HasSubstr("larger than 1024 KiB"));
  EXPECT_TRUE(read("# " + std::string((1 << 20) - 2, 'x')).has_value());
}

TEST(YamlReaderTest, aliases_count_as_often_as_they_are_used) {
  std::string text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 12; ++i) {
    text += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [";
    for (int k = 0; k < 10; ++k) text += (k ? ", *a" : "*a") + std::to_string(i - 1);
    text += "]\n";
  }
  std::string messages;
  EXPECT_FALSE(read(text, &messages).has_value());
  EXPECT_THAT(messages, HasSubstr("more than 100000 values"));
}

TEST(YamlReaderTest, depth_is_counted_through_aliases) {
  std::string text = "a0: &a0 [x]\n";
  for (int i = 1; i < 40; ++i)
    text += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [*a" + std::to_string(i - 1) + "]\n";
  std::string messages;
  EXPECT_FALSE(read(text, &messages).has_value());
  EXPECT_THAT(messages, HasSubstr("32 levels"));
}

TEST(YamlReaderTest, columns_count_characters_and_lines_survive_windows_line_ends) {
  std::string messages;
  EXPECT_FALSE(read("ä: {é: 1, é: 2}\r\nb: 1\r\nb: 2\r\n", &messages).has_value());
  EXPECT_EQ(
      messages,
      "f:1:11: error: é: key given twice; first at line 1\nf:3:1: error: b: key given twice; first at line 2\n");
}

TEST(YamlReaderTest, a_byte_order_mark_at_the_start_is_passed_over) {
  const auto node = read(
      "\xEF\xBB\xBF"
      "a: 1\n");
  ASSERT_TRUE(node.has_value());
  EXPECT_NE(node->find("a"), nullptr);
}

TEST(YamlReaderTest, what_is_written_reads_back_the_same) {
  for (const char* text :
       {"a: 1\n", "a: [1, two, 'three 3', \"4\"]\n", "- a\n- {b: c}\n- [d, [e]]\n", "a: {}\nb: []\nc:\nd: ~\n",
        "text: |\n  several\n  lines: of {it}\n", "q: 'it''s'\n", "odd: \"\\u00e9 \\x07 \\t \\\\ \\\" #\"\n",
        "n: 'null'\nt: 'true'\n", "? 'odd key: #'\n: value\n", "- - - deep\n",
        "k: '- x'\nl: '? y'\nm: '...'\nn: '---'\no: ' lead'\np: 'trail '\n",
        "long: [aaaaaaaaaaaaaaaaaaaaaaaaaaaa, bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb, "
        "cccccccccccccccccccccccccccccccccccccc, dddddddd]\n",
        "-1\n", "./a/b.c\n", "'x: y'\n"}) {
    const auto node = read(text);
    ASSERT_TRUE(node.has_value()) << text;
    const std::string written = write_yaml(*node);
    std::string messages;
    const auto again = read(written, &messages);
    ASSERT_TRUE(again.has_value()) << written << messages;
    EXPECT_TRUE(same_value(*node, *again)) << text << "\n→\n" << written;
    EXPECT_EQ(write_yaml(*again), written);
  }
}

TEST(DidYouMeanTest, near_names_are_offered_and_far_ones_are_not) {
  const std::vector<std::string> names{"rank", "learning_rate", "sequence_length", "epochs"};
  EXPECT_EQ(did_you_mean("rnak", names), "; did you mean 'rank'?");
  EXPECT_EQ(did_you_mean("learning_rte", names), "; did you mean 'learning_rate'?");
  EXPECT_EQ(did_you_mean("length", names), "; did you mean 'sequence_length'?");
  EXPECT_EQ(did_you_mean("zzz", names), "");
  EXPECT_EQ(did_you_mean(std::string(100, 'r'), names), "");
}

TEST(SweepFileTest, a_missing_file_a_folder_and_a_large_file_are_told_apart) {
  MemoryFiles world = make_world();
  SweepRequest request;
  auto message = [&](const char* file) {
    request.file = file;
    const SweepParse parse = parse_sweep(request, world);
    EXPECT_FALSE(parse.sweep.has_value());
    return format_diagnostics(parse.diagnostics, file);
  };
  EXPECT_EQ(message("/w/none.yaml"), "/w/none.yaml: error: no such file\n");
  EXPECT_EQ(message("/w/data"), "/w/data: error: is a folder; give the sweep file\n");
  world.files["/w/large.yaml"] = std::string(2 << 20, ' ');
  EXPECT_THAT(message("/w/large.yaml"), HasSubstr("larger than"));
}

TEST(SweepFileTest, comments_and_layout_are_kept_where_only_paths_change) {
  MemoryFiles world = make_world();
  const std::string text =
      "# why\nname: kept\nmodel: models/bert   # which\ntask: classification\n"
      "data: {train: 'data/train.jsonl', validation: \"data/validation.jsonl\"}\npipeline:\n  - finetune:  # how\n "
      " - evaluate\n";
  const SweepParse parse = parse_in_world(text, world);
  ASSERT_TRUE(parse.sweep.has_value()) << format_diagnostics(parse.diagnostics, "f");
  EXPECT_EQ(parse.sweep->resolved_text,
            "# why\nname: kept\nmodel: /w/models/bert   # which\ntask: classification\n"
            "data: {train: '/w/data/train.jsonl', validation: \"/w/data/validation.jsonl\"}\npipeline:\n  - "
            "finetune:  # how\n  - evaluate\n");
}

TEST(SweepFileTest, a_path_in_an_override_starts_at_the_current_folder) {
  MemoryFiles world = make_world();
  world.files["/elsewhere/here.jsonl"] = R"({"text": "a", "label": 0})"
                                         "\n";
  SweepRequest request;
  request.file = "/w/sweep.yaml";
  request.overrides = {"data.train=here.jsonl"};
  request.override_base = "/elsewhere";
  const SweepParse parse = parse_sweep_text(
      "model: models/bert\ntask: classification\ndata: {train: data/train.jsonl}\npipeline: [finetune]\n", request,
      world);
  ASSERT_TRUE(parse.sweep.has_value()) << format_diagnostics(parse.diagnostics, "f");
  EXPECT_EQ(parse.sweep->plan.jobs.at(0).context["data"]["train"], "/elsewhere/here.jsonl");
}

}  // namespace
}  // namespace finesweep::sweeps
