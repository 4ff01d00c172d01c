#include <ATen/Parallel.h>

#include "tests/parity/models.h"
#include "worker/generation/device_steps.h"
#include "worker/generation/generate.h"
#include "worker/models/family.h"

namespace finesweep::parity {
namespace {

namespace fs = std::filesystem;
using Rows = std::vector<std::vector<std::int64_t>>;

struct GenerationCase {
  std::string family;
  std::unique_ptr<worker::Model> model;
  nlohmann::json answers;
  worker::LanguageModel& language_model() const { return *model->language_model(); }
};

/// Every file of generation/ with the model that it was made with.
std::vector<GenerationCase> generation_cases() {
  std::vector<GenerationCase> all;
  for (const auto& entry : fs::directory_iterator(fixtures() / "generation")) {
    if (entry.path().extension() != ".json") continue;
    const std::string family = entry.path().stem().string();
    auto pretrained = pretrained_of(fixtures() / "models" / family);
    EXPECT_TRUE(pretrained.ok()) << (pretrained.ok() ? "" : pretrained.error().message);
    worker::ModelOptions options;
    options.head = worker::ModelHead::language_model;
    options.frozen = true;
    auto model = worker::make_model(*pretrained, options);
    EXPECT_TRUE(model.ok()) << (model.ok() ? "" : model.error().message);
    all.push_back({family, std::move(*model), read_json(entry.path())});
  }
  EXPECT_FALSE(all.empty()) << "no case in " << fixtures() / "generation";
  return all;
}

worker::GenerationOptions options_of(const nlohmann::json& json) {
  worker::GenerationOptions options;
  options.max_new_tokens = json["max_new_tokens"];
  if (json["decoder_start_token_id"].is_number()) options.decoder_start_id = json["decoder_start_token_id"];
  if (json.contains("num_beams")) options.num_beams = json["num_beams"];
  if (json.contains("length_penalty")) options.length_penalty = json["length_penalty"];
  return options;
}

std::vector<std::vector<worker::Generated>> run(worker::LanguageModel& model, const Rows& prompts,
                                                const worker::GenerationOptions& options) {
  auto answers = worker::generate(model, prompts, options);
  EXPECT_TRUE(answers.ok()) << (answers.ok() ? "" : answers.error().message);
  return **answers;
}

Rows first_of(const std::vector<std::vector<worker::Generated>>& answers) {
  Rows rows;
  for (const auto& answer : answers) rows.push_back(answer.at(0).tokens);
  return rows;
}

TEST(GenerationParity, greedy_tokens_are_the_reference_s_with_and_without_cache) {
  for (const GenerationCase& c : generation_cases()) {
    for (const nlohmann::json& json : c.answers["greedy"]) {
      for (const bool kv_cache : {true, false}) {
        SCOPED_TRACE(c.family + (kv_cache ? " with cache" : " without cache"));
        worker::GenerationOptions options = options_of(json);
        options.kv_cache = kv_cache;
        const Rows prompts = json["prompts"];
        EXPECT_EQ(first_of(run(c.language_model(), prompts, options)), json["greedy_no_eos"].get<Rows>());

        options.end_ids = {json["eos_token_id"].get<std::int64_t>()};
        const Rows expected = json["greedy_eos_alone"];
        EXPECT_EQ(first_of(run(c.language_model(), prompts, options)), expected);
        for (std::size_t i = 0; i < prompts.size(); ++i) {
          EXPECT_EQ(first_of(run(c.language_model(), {prompts[i]}, options)).at(0), expected[i]);
        }
      }
    }
  }
}

TEST(GenerationParity, beams_and_their_scores_are_the_reference_s) {
  int compared = 0;
  for (const GenerationCase& c : generation_cases()) {
    for (const nlohmann::json& json : c.answers["beam"]) {
      for (const bool kv_cache : {true, false}) {
        SCOPED_TRACE(c.family + (kv_cache ? " with cache" : " without cache"));
        worker::GenerationOptions options = options_of(json);
        options.kv_cache = kv_cache;
        if (json["eos_token_id"].is_number()) options.end_ids = {json["eos_token_id"].get<std::int64_t>()};
        Rows sequences;
        std::vector<double> scores;
        const auto returned = json["num_return_sequences"].get<std::size_t>();
        for (const auto& answer : run(c.language_model(), json["prompts"].get<Rows>(), options)) {
          ASSERT_GE(answer.size(), returned);
          for (std::size_t i = 0; i < returned; ++i) {
            sequences.push_back(answer[i].tokens);
            scores.push_back(answer[i].score);
          }
        }
        EXPECT_EQ(sequences, json["sequences_trimmed"].get<Rows>());
        const auto expected = json["sequences_scores"].get<std::vector<double>>();
        ASSERT_EQ(scores.size(), expected.size());
        for (std::size_t i = 0; i < scores.size(); ++i) EXPECT_NEAR(scores[i], expected[i], 1e-4);
        ++compared;
      }
    }
  }
  EXPECT_GT(compared, 0);
}

TEST(GenerationParity, sampled_tokens_do_not_depend_on_cache_or_company) {
  for (const GenerationCase& c : generation_cases()) {
    SCOPED_TRACE(c.family);
    const nlohmann::json& json = c.answers["greedy"].at(0);
    worker::GenerationOptions options = options_of(json);
    options.do_sample = true;
    options.sampling.top_p = 0.9;
    options.seed = 7;
    const Rows prompts = json["prompts"];
    const Rows together = first_of(run(c.language_model(), prompts, options));
    options.kv_cache = false;
    EXPECT_EQ(first_of(run(c.language_model(), prompts, options)), together);
    options.kv_cache = true;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      options.first_row = static_cast<std::int64_t>(i);
      EXPECT_EQ(first_of(run(c.language_model(), {prompts[i]}, options)).at(0), together[i]);
    }
    options.first_row = 0;
    options.seed = 8;
    EXPECT_NE(first_of(run(c.language_model(), prompts, options)), together);
  }
}

/// Continues prompts as a GPU does, here on the CPU.
std::vector<std::vector<worker::Generated>> run_in_steps(worker::DeviceSteps& steps, const Rows& prompts,
                                                         const worker::GenerationOptions& options) {
  auto answers = steps.generate(prompts, options);
  EXPECT_TRUE(answers.has_value());
  return *answers;
}

TEST(GenerationParity, steps_that_the_device_counts_give_the_same_tokens) {
  int stepped = 0;
  for (const GenerationCase& c : generation_cases()) {
    for (const nlohmann::json& json : c.answers["greedy"]) {
      SCOPED_TRACE(c.family);
      worker::GenerationOptions options = options_of(json);
      if (!worker::DeviceSteps::can_follow(c.language_model(), options)) continue;
      ++stepped;
      worker::DeviceSteps steps(c.language_model());
      const Rows prompts = json["prompts"];
      EXPECT_EQ(first_of(run_in_steps(steps, prompts, options)), json["greedy_no_eos"].get<Rows>());
      options.end_ids = {json["eos_token_id"].get<std::int64_t>()};
      const Rows expected = json["greedy_eos_alone"];
      const auto together = run_in_steps(steps, prompts, options);
      EXPECT_EQ(first_of(together), expected);
      const auto one_by_one = run(c.language_model(), prompts, options);
      for (std::size_t i = 0; i < prompts.size(); ++i) {
        EXPECT_NEAR(together[i][0].score, one_by_one[i][0].score, 1e-4);
        EXPECT_EQ(first_of(run_in_steps(steps, {prompts[i]}, options)).at(0), expected[i]);
      }
    }
  }
  EXPECT_GT(stepped, 2);
}

TEST(GenerationParity, steps_that_the_device_counts_draw_the_same_tokens) {
  for (const GenerationCase& c : generation_cases()) {
    SCOPED_TRACE(c.family);
    const nlohmann::json& json = c.answers["greedy"].at(0);
    worker::GenerationOptions options = options_of(json);
    options.do_sample = true;
    options.sampling = {0.8, 20, 0.9};
    options.seed = 7;
    options.first_row = 3;
    if (!worker::DeviceSteps::can_follow(c.language_model(), options)) continue;
    worker::DeviceSteps steps(c.language_model());
    const Rows prompts = json["prompts"];
    EXPECT_EQ(first_of(run_in_steps(steps, prompts, options)), first_of(run(c.language_model(), prompts, options)));
  }
}

TEST(GenerationParity, a_row_of_steps_ends_at_the_model_s_longest_sequence) {
  for (const GenerationCase& c : generation_cases()) {
    SCOPED_TRACE(c.family);
    worker::GenerationOptions options;
    options.max_new_tokens = 10;
    const auto positions = c.language_model().positions();
    if (!positions || !worker::DeviceSteps::can_follow(c.language_model(), options)) continue;
    const Rows prompts = {std::vector<std::int64_t>(static_cast<std::size_t>(*positions - 4), 5), {6, 7}};
    worker::DeviceSteps steps(c.language_model());
    const Rows tokens = first_of(run_in_steps(steps, prompts, options));
    EXPECT_EQ(tokens, first_of(run(c.language_model(), prompts, options)));
    EXPECT_EQ(tokens.at(0).size(), 4u);
    EXPECT_EQ(tokens.at(1).size(), 10u);
  }
}

TEST(GenerationParity, a_generation_that_may_not_go_on_gives_nothing) {
  for (const GenerationCase& c : generation_cases()) {
    worker::GenerationOptions options;
    options.max_new_tokens = 40;
    if (!worker::DeviceSteps::can_follow(c.language_model(), options)) continue;
    worker::DeviceSteps steps(c.language_model());
    int calls = 0;
    EXPECT_FALSE(steps.generate({{5, 6}}, options, [&] { return ++calls < 20; }).has_value());
    EXPECT_EQ(calls, 20);
  }
}

TEST(GenerationParity, one_draw_under_a_vanishing_temperature_is_greedy) {
  for (const GenerationCase& c : generation_cases()) {
    SCOPED_TRACE(c.family);
    const nlohmann::json& json = c.answers["greedy"].at(0);
    worker::GenerationOptions options = options_of(json);
    options.do_sample = true;
    options.sampling.temperature = 1e-4;
    EXPECT_EQ(first_of(run(c.language_model(), json["prompts"].get<Rows>(), options)),
              json["greedy_no_eos"].get<Rows>());
  }
}

}  // namespace
}  // namespace finesweep::parity
