// generate, evaluate and export, with the real programs: what a sweep trained is measured and used outside of it.

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "jobs/json.h"
#include "tests/engine/tiny_tokenizer.h"
#include "tests/system/csv_table.h"
#include "tests/system/sweep_process.h"

namespace finesweep::tests {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

struct Ended {
  int exit_code;
  std::string output;
};

Ended run_to_end(std::vector<std::string> arguments, const fs::path& folder) {
  arguments.insert(arguments.begin(), finesweep_program());
  Process process(arguments, folder);
  const auto exit_code = process.wait(120s);
  return {exit_code.value_or(-1), process.output()};
}

/// The cells of one column of results.csv, by the trial's label.
std::map<std::string, std::string> column(const fs::path& csv, const std::string& name) {
  std::map<std::string, std::string> found;
  const CsvTable table(csv);
  for (const auto& row : table.rows()) found[row.at("label")] = row.at(name);
  return found;
}

double metric(const Ended& ended, const std::string& name) {
  EXPECT_EQ(ended.exit_code, 0) << ended.output;
  const Json metrics = Json::parse(ended.output, nullptr, false);
  EXPECT_TRUE(metrics.is_object()) << ended.output;
  return metrics.is_object() ? metrics.value(name, -1.0) : -1;
}

/// A sweep that has ended, shared by the tests about what it left.
class Export : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    workspace_ = new Workspace;
    const fs::path sweep = workspace_->make_small_sweep(40);
    const auto ended = run_to_end({"run", sweep, "--set", "sweep.repeats=1"}, workspace_->path());
    ASSERT_EQ(ended.exit_code, 0) << ended.output;
    losses_ = column(run() / "reports/results.csv", "evaluate.loss");
    names_ = column(run() / "reports/results.csv", "trial");
    ASSERT_EQ(names_.size(), 2u);
  }
  static void TearDownTestSuite() {
    delete workspace_;
    workspace_ = nullptr;
  }

  static fs::path run() { return *workspace_ / "runs/small"; }
  static Ended command(const std::vector<std::string>& arguments) {
    return run_to_end(arguments, workspace_->path());
  }
  static double loss_of(const std::string& model, const std::string& adapter = "") {
    std::vector<std::string> arguments{"evaluate",
                                       "--model",
                                       model,
                                       "--task",
                                       "classification",
                                       "--data",
                                       "data/test.jsonl",
                                       "--fields",
                                       "text_a=text_a,text_b=text_b,label=label",
                                       "--sequence-length",
                                       "48",
                                       "--device",
                                       "cpu",
                                       "--json"};
    if (!adapter.empty()) arguments.insert(arguments.end(), {"--adapter", adapter});
    return metric(command(arguments), "loss");
  }

  static inline Workspace* workspace_ = nullptr;
  static inline std::map<std::string, std::string> losses_, names_;
};

TEST_F(Export, an_exported_adapter_measures_as_in_the_sweep_and_so_does_the_merged_model) {
  const auto exported = command({"export", "runs/small", "lora", "--to", "adapter"});
  ASSERT_EQ(exported.exit_code, 0) << exported.output;
  EXPECT_TRUE(fs::exists(*workspace_ / "adapter/adapter_model.safetensors"));
  EXPECT_NEAR(loss_of("model", "adapter"), std::stod(losses_.at("lora")), 1e-6);
  const auto merged =
      command({"export", "runs/small", names_.at("lora").substr(0, 6), "--to", "merged", "--merge"});
  ASSERT_EQ(merged.exit_code, 0) << merged.output;
  for (const char* file : {"config.json", "model.safetensors", "vocab.txt"}) {
    EXPECT_TRUE(fs::exists(*workspace_ / "merged" / file)) << file;
  }
  EXPECT_NEAR(loss_of("merged"), std::stod(losses_.at("lora")), 1e-4);
}

TEST_F(Export, a_fully_finetuned_model_is_exported_whole) {
  const auto exported = command({"export", "runs/small", names_.at("full"), "--to", "whole"});
  ASSERT_EQ(exported.exit_code, 0) << exported.output;
  EXPECT_NEAR(loss_of("whole"), std::stod(losses_.at("full")), 1e-6);
}

TEST_F(Export, nothing_is_written_over_and_what_cannot_be_is_named) {
  workspace_->write("taken", "mine");
  const auto taken = command({"export", "runs/small", "lora", "--to", "taken"});
  EXPECT_EQ(taken.exit_code, 2);
  EXPECT_NE(taken.output.find("exists already"), std::string::npos) << taken.output;
  EXPECT_EQ(read_text(*workspace_ / "taken"), "mine");
  const auto unknown = command({"export", "runs/small", "ia3", "--to", "unknown"});
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_NE(unknown.output.find(names_.at("lora")), std::string::npos) << unknown.output;
  EXPECT_FALSE(fs::exists(*workspace_ / "unknown"));
  EXPECT_EQ(command({"export", "model", "lora", "--to", "x"}).exit_code, 2);
}

TEST_F(Export, what_a_killed_one_left_is_taken_away_by_the_next) {
  Process ended({"true"}, workspace_->path());
  ASSERT_EQ(ended.wait(10s), 0);
  char host[256] = "";
  ASSERT_EQ(gethostname(host, sizeof host - 1), 0);
  const auto partial = [&](const std::string& where, pid_t pid) {
    return *workspace_ / (".again.partial." + where + "." + std::to_string(pid));
  };
  const fs::path deserted = partial(host, ended.pid()), at_work = partial(host, getpid()),
                 elsewhere = partial("another-host", ended.pid());
  for (const fs::path& folder : {deserted, at_work, elsewhere}) fs::create_directory(folder);
  const auto exported = command({"export", "runs/small", "lora", "--to", "again"});
  EXPECT_EQ(exported.exit_code, 0) << exported.output;
  EXPECT_FALSE(fs::exists(deserted));
  EXPECT_TRUE(fs::exists(at_work));
  EXPECT_TRUE(fs::exists(elsewhere)) << "nobody here knows whether that process lives";
}

TEST_F(Export, an_answer_that_cannot_be_written_is_no_success) {
  for (const char* arguments : {"status runs/small --json", "report runs/small", "init", "plan sweep.yaml"}) {
    Process process({"bash", "-c", "exec \"$0\" " + std::string(arguments) + " >/dev/full", finesweep_program()},
                    workspace_->path());
    EXPECT_EQ(process.wait(120s), 4) << arguments;
    EXPECT_NE(process.output().find("not all could be written to standard output"), std::string::npos)
        << process.output();
  }
}

TEST_F(Export, a_damaged_artifact_is_not_exported) {
  Workspace copy;
  fs::copy(run(), copy / "run", fs::copy_options::recursive);
  for (const auto& artifact : fs::directory_iterator(copy / "run/artifacts")) {
    const fs::path weights = artifact.path() / "adapter/adapter_model.safetensors";
    if (fs::exists(weights)) fs::resize_file(weights, fs::file_size(weights) - 1);
  }
  const auto damaged = run_to_end({"export", "run", "lora", "--to", "adapter"}, copy.path());
  EXPECT_NE(damaged.exit_code, 0);
  EXPECT_NE(damaged.output.find("adapter_model.safetensors"), std::string::npos) << damaged.output;
  EXPECT_FALSE(fs::exists(copy / "adapter"));
}

TEST_F(Export, a_wrong_evaluation_says_all_that_is_wrong) {
  const auto wrong = command({"evaluate", "--model", "model", "--task", "classification", "--data",
                              "data/test.jsonl", "--metrics", "rouge1", "--sequence-length", "4000"});
  EXPECT_EQ(wrong.exit_code, 2);
  for (const char* words :
       {"'rouge1' does not go with task classification", "positions of the model", "no field 'text'"})
    EXPECT_NE(wrong.output.find(words), std::string::npos) << wrong.output;
}

class Generate : public ::testing::Test {
 protected:
  Generate() {
    const fs::path fixtures = fs::path(FINESWEEP_SOURCE_DIR) / "tests/fixtures/models/gpt2";
    fs::create_directories(workspace_ / "gpt2");
    for (const char* file : {"config.json", "model.safetensors", "generation_config.json"})
      fs::copy_file(fixtures / file, workspace_ / "gpt2" / file);
    const Json config = Json::parse(read_text(fixtures / "config.json"));
    workspace_.write("gpt2/tokenizer.json", worker::byte_level_tokenizer(config.at("eos_token_id")).dump());
    workspace_.write("gpt2/tokenizer_config.json", R"({"eos_token": "<|endoftext|>"})");
  }
  Ended generate(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"generate", "--model", "gpt2", "--device", "cpu"});
    return run_to_end(arguments, workspace_.path());
  }
  Workspace workspace_;
};

std::vector<Json> json_lines(const std::string& text) {
  std::vector<Json> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(Json::parse(line, nullptr, false));
  return lines;
}

TEST_F(Generate, each_prompt_of_a_file_is_gone_on_with_in_order) {
  workspace_.write("prompts.jsonl", "{\"prompt\": \"one\"}\n{\"prompt\": \"two and\"}\n{\"prompt\": \"three\"}\n");
  const auto ended =
      generate({"--prompts", "prompts.jsonl", "--max-new-tokens", "5", "--batch-size", "2", "--json"});
  ASSERT_EQ(ended.exit_code, 0) << ended.output;
  const auto lines = json_lines(ended.output);
  ASSERT_EQ(lines.size(), 3u) << ended.output;
  EXPECT_EQ(lines[1].at("prompt"), "two and");
  EXPECT_LE(lines[1].at("tokens").get<int>(), 5);
  const auto alone = generate({"--prompt", "two and", "--max-new-tokens", "5", "--json"});
  EXPECT_EQ(json_lines(alone.output).at(0), lines[1]);
  const auto without_cache =
      generate({"--prompt", "two and", "--max-new-tokens", "5", "--kv-cache", "false", "--json"});
  EXPECT_EQ(json_lines(without_cache.output).at(0), lines[1]);
}

TEST_F(Generate, draws_follow_from_the_seed) {
  const auto draw = [&](const char* seed) {
    return generate({"--prompt", "one", "--sample", "--top-k", "0", "--seed", seed, "--json"}).output;
  };
  EXPECT_EQ(draw("1"), draw("1"));
  EXPECT_NE(draw("1"), draw("2"));
}

TEST_F(Generate, what_is_wrong_is_named) {
  EXPECT_EQ(generate({}).exit_code, 2);
  EXPECT_EQ(generate({"--prompt", "x", "--prompts", "y"}).exit_code, 2);
  EXPECT_EQ(generate({"--prompt", "x", "--precision", "fp8"}).exit_code, 2);
  const auto beams = generate({"--prompt", "x", "--num-beams", "2", "--sample"});
  EXPECT_EQ(beams.exit_code, 2) << beams.output;
  const auto missing = run_to_end({"generate", "--model", "nowhere", "--prompt", "x"}, workspace_.path());
  EXPECT_EQ(missing.exit_code, 2);
  EXPECT_NE(missing.output.find("--model nowhere"), std::string::npos) << missing.output;
  fs::remove(workspace_ / "gpt2/model.safetensors");
  const auto no_weights = generate({"--prompt", "x"});
  EXPECT_EQ(no_weights.exit_code, 2) << no_weights.output;
  EXPECT_NE(no_weights.output.find("model.safetensors"), std::string::npos) << no_weights.output;
}

TEST_F(Generate, a_runner_ends_with_the_program_that_started_it) {
  Process process({finesweep_program(), "generate", "--model", "gpt2", "--device", "cpu", "--prompt", "x",
                   "--sample", "--kv-cache", "false", "--max-new-tokens", "60", "--num-beams", "1"},
                  workspace_.path());
  ASSERT_TRUE(wait_for([&] { return process.family().size() > 1; }, 30s));
  process.signal(SIGKILL);
  EXPECT_TRUE(process.wait_until_gone(5s).empty());
}

}  // namespace
}  // namespace finesweep::tests
