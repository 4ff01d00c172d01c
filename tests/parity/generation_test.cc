#include <ATen/Parallel.h>

#include "tests/parity/models.h"
#include "worker/generation/generate.h"
#include "worker/models/family.h"

namespace finesweep::parity {
namespace {

namespace fs = std::filesystem;
using Rows = std::vector<std::vector<std::int64_t>>;

struct Case {
  std::string family;
  std::unique_ptr<worker::Model> model;
  nlohmann::json answers;
  worker::LanguageModel& language_model() const { return *model->language_model(); }
};

/// Every file of generation/ with the model that it was made with.
std::vector<Case> cases() {
  std::vector<Case> all;
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
  for (const Case& c : cases()) {
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
  for (const Case& c : cases()) {
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
  for (const Case& c : cases()) {
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

TEST(GenerationParity, one_draw_under_a_vanishing_temperature_is_greedy) {
  for (const Case& c : cases()) {
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
