#include "worker/models/language_model.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>

#include "tests/parity/models.h"
#include "worker/generation/generate.h"
#include "worker/models/family.h"

namespace finesweep::parity {
namespace {

namespace fs = std::filesystem;

/// A decoder-only model and what is known of it.
struct LanguageModelCase {
  fs::path folder;
  Tensors tensors;
  nlohmann::json facts;
  worker::Batch batch;

  bool has_facts() const { return facts.is_object(); }
};

/// [rows, length, …] to the tokens under the mask, as the engine returns them.
at::Tensor of_tokens(const at::Tensor& padded, const at::Tensor& mask) {
  return padded.index({mask.to(at::kBool)});
}

/// The reference answers of a directory; those of "gpt2" for one called "gpt2_…" that has none of its own.
fs::path answers_of(const fs::path& folder) {
  for (std::string name = folder.filename().string();; name = name.substr(0, name.rfind('_'))) {
    const fs::path answers = fixtures() / "expected" / (name + ".safetensors");
    if (fs::exists(answers) || name.find('_') == std::string::npos) return answers;
  }
}

std::vector<LanguageModelCase> language_model_cases() {
  std::vector<LanguageModelCase> all;
  for (const fs::path& folder : folders_in(fixtures() / "models")) {
    const nlohmann::json config = read_json(folder / "config.json");
    const std::string architecture = config.value("architectures", nlohmann::json::array({""})).at(0);
    if (!architecture.ends_with("LMHeadModel") && !architecture.ends_with("ForCausalLM")) continue;
    EXPECT_NE(worker::find_family(config.value("model_type", "")), nullptr) << folder << " is of no family";
    const fs::path answers = answers_of(folder);
    LanguageModelCase one{folder, read_tensors(answers), {}, {}};
    fs::path facts = answers;
    facts.replace_extension(".json");
    if (fs::exists(facts)) one.facts = read_json(facts);
    one.batch = batch_of(one.tensors, "in.");
    all.push_back(std::move(one));
  }
  EXPECT_FALSE(all.empty()) << "no decoder-only model in " << fixtures() / "models";
  return all;
}

at::Tensor expected_logits(const LanguageModelCase& one) {
  return of_tokens(one.tensors.at("logits"), one.batch.attention_mask);
}

TEST(LanguageModelParity, logits_are_the_reference_s) {
  for (const LanguageModelCase& one : language_model_cases()) {
    SCOPED_TRACE(one.folder);
    const auto model = language_model(one.folder, false);
    EXPECT_TRUE(model->check(one.batch).ok());
    EXPECT_LE(largest_difference(logits_of(*model, one.batch), expected_logits(one)), 1e-4);
  }
}

TEST(LanguageModelParity, a_left_padded_batch_has_the_reference_s_logits_with_and_without_position_ids) {
  int compared = 0;
  for (const LanguageModelCase& one : language_model_cases()) {
    if (!one.tensors.contains("left.logits")) continue;
    SCOPED_TRACE(one.folder);
    const auto model = language_model(one.folder, false);
    worker::Batch batch = batch_of(one.tensors, "left.");
    const at::Tensor expected = of_tokens(one.tensors.at("left.logits"), batch.attention_mask);
    ASSERT_TRUE(batch.position_ids.defined());
    EXPECT_TRUE(model->check(batch).ok());
    EXPECT_LE(largest_difference(logits_of(*model, batch), expected), 1e-4);
    batch.position_ids.reset();
    EXPECT_LE(largest_difference(logits_of(*model, batch), expected), 1e-4);
    ++compared;
  }
  EXPECT_GT(compared, 0);
}

TEST(LanguageModelParity, hidden_states_of_every_layer_are_the_reference_s) {
  int compared = 0;
  for (const LanguageModelCase& one : language_model_cases()) {
    if (!one.tensors.contains("hidden.0")) continue;
    SCOPED_TRACE(one.folder);
    const at::NoGradGuard no_graph;
    std::vector<at::Tensor> hidden;
    worker::Pass pass;
    pass.hidden_states = &hidden;
    language_model(one.folder, false)->logits(one.batch, pass);
    const at::Tensor mask = one.batch.attention_mask[0];
    const std::int64_t tokens = mask.sum().item<std::int64_t>();
    for (std::size_t i = 0; i < hidden.size(); ++i) {
      SCOPED_TRACE(i);
      const at::Tensor reference = of_tokens(one.tensors.at("hidden." + std::to_string(i))[0], mask);
      EXPECT_LE(largest_difference(hidden[i].narrow(0, 0, tokens), reference), 1e-4);
    }
    EXPECT_FALSE(one.tensors.contains("hidden." + std::to_string(hidden.size())));
    ++compared;
  }
  EXPECT_GT(compared, 0);
}

TEST(LanguageModelParity, loss_and_gradients_of_all_parameters_are_the_reference_s) {
  int compared = 0;
  for (const LanguageModelCase& one : language_model_cases()) {
    if (!one.has_facts()) continue;
    SCOPED_TRACE(one.folder);
    const auto model = language_model(one.folder, true);
    EXPECT_NEAR(loss_and_gradients(*model, one.batch), one.facts["loss"].get<double>(), 2e-5);
    const Tensors mine = gradients_of(worker::trained_parameters(*model));
    EXPECT_GT(expect_same_gradients(one.tensors, mine, 3e-4), 0);
    expect_same_gradient_norms(one.facts, mine);
    ++compared;
  }
  EXPECT_GT(compared, 0);
}

TEST(LanguageModelParity, configs_as_older_files_spell_them_load_to_the_same_model) {
  int compared = 0;
  for (const LanguageModelCase& one : language_model_cases()) {
    if (!fs::exists(one.folder / "config_hub_style.json")) continue;
    SCOPED_TRACE(one.folder);
    const fs::path older = model_variant(one.folder, "older", [&](Tensors&, nlohmann::json& config) {
      config = read_json(one.folder / "config_hub_style.json");
    });
    EXPECT_TRUE(at::equal(logits_of(*language_model(older, false), one.batch),
                          logits_of(*language_model(one.folder, false), one.batch)));
    ++compared;
  }
  EXPECT_GT(compared, 0);
}

TEST(LanguageModelParity, half_precision_agrees_loosely_with_fp32) {
  for (const LanguageModelCase& one : language_model_cases()) {
    const at::Tensor expected = expected_logits(one);
    const double spread = expected.abs().max().item<double>();
    const auto exact = language_model(one.folder, true);
    if (one.has_facts()) loss_and_gradients(*exact, one.batch);
    const Tensors exact_gradients = gradients_of(worker::trained_parameters(*exact));
    for (const Precision precision : {Precision::bf16, Precision::fp16}) {
      SCOPED_TRACE(one.folder.string() + (precision == Precision::bf16 ? " in bf16" : " in fp16"));
      const auto model = language_model(one.folder, true, precision);
      const double difference = largest_difference(logits_of(*model, one.batch), expected);
      EXPECT_LE(difference, 0.12 * spread + 0.05);
      EXPECT_GT(difference, 1e-5) << "computed in fp32";
      if (!one.has_facts()) continue;
      loss_and_gradients(*model, one.batch);
      EXPECT_GT(gradient_cosine(exact_gradients, gradients_of(worker::trained_parameters(*model))), 0.9);
    }
  }
}

TEST(LanguageModelParity, weights_kept_in_half_precision_compute_in_any) {
  for (const LanguageModelCase& one : language_model_cases()) {
    const at::Tensor expected = expected_logits(one);
    const double spread = expected.abs().max().item<double>();
    for (const at::ScalarType storage : {at::kBFloat16, at::kHalf}) {
      SCOPED_TRACE(one.folder.string() + " in " + c10::toString(storage));
      const auto pretrained = pretrained_of(one.folder, storage);
      ASSERT_TRUE(pretrained.ok()) << pretrained.error().message;
      for (const Precision precision : {Precision::fp32, Precision::bf16, Precision::fp16}) {
        worker::ModelOptions options;
        options.head = worker::ModelHead::language_model;
        options.precision = precision;
        options.frozen = true;
        const auto model = worker::make_model(*pretrained, options);
        ASSERT_TRUE(model.ok()) << model.error().message;
        EXPECT_LE(largest_difference(logits_of(**model, one.batch), expected), 0.12 * spread + 0.05);
        EXPECT_TRUE(worker::trained_parameters(**model).empty());
      }
    }
  }
}

/// Loss of `batch` with dropout, and with what a test wants of the pass.
double loss_with(worker::Model& model, const worker::Batch& batch, const worker::Pass& pass, double denominator) {
  const at::NoGradGuard no_graph;
  const worker::Var loss = model.loss(batch, pass, denominator);
  if (pass.tape != nullptr) worker::backward(*pass.tape, loss);
  return loss.value.item<double>();
}

std::unique_ptr<worker::Model> with_dropout(const fs::path& folder, double rate) {
  worker::ModelOptions options;
  options.head = worker::ModelHead::language_model;
  options.model_dropout = rate;
  options.train_all = true;
  return std::move(*worker::make_model(*pretrained_of(folder), options));
}

TEST(LanguageModelParity, recomputed_layers_give_the_same_gradients_with_dropout_too) {
  for (const LanguageModelCase& one : language_model_cases()) {
    if (!one.has_facts()) continue;
    SCOPED_TRACE(one.folder);
    Tensors gradients[2];
    for (const bool recompute : {false, true}) {
      const auto model = with_dropout(one.folder, 0.2);
      worker::Tape tape;
      worker::Pass pass;
      pass.tape = &tape;
      pass.dropout = {true, 3, 1};
      pass.recompute_layers = recompute;
      loss_with(*model, one.batch, pass, 10);
      gradients[recompute] = gradients_of(worker::trained_parameters(*model));
    }
    for (const auto& [name, gradient] : gradients[0]) {
      const double scale = gradient.abs().max().item<double>() + 1e-6;
      EXPECT_LE(largest_difference(gradient, gradients[1].at(name)) / scale, 1e-4) << name;
    }
  }
}

worker::Batch rows_of(const worker::Batch& batch, std::int64_t begin, std::int64_t count) {
  worker::Batch part = batch;
  for (at::Tensor* tensor : {&part.input_ids, &part.attention_mask, &part.labels}) {
    *tensor = tensor->narrow(0, begin, count).contiguous();
  }
  part.row_indices.resize(static_cast<std::size_t>(count));
  return part;
}

TEST(LanguageModelParity, dropout_depends_on_step_and_row_and_not_on_how_a_batch_is_split) {
  for (const LanguageModelCase& one : language_model_cases()) {
    if (!one.has_facts()) continue;
    SCOPED_TRACE(one.folder);
    const auto model = with_dropout(one.folder, 0.3);
    const double denominator = static_cast<double>(model->counted(one.batch));
    const auto loss = [&](const worker::Batch& batch, std::int64_t first_row, std::int64_t step) {
      worker::Pass pass;
      pass.dropout = {true, 7, step};
      pass.first_row = first_row;
      return loss_with(*model, batch, pass, denominator);
    };
    const double whole = loss(one.batch, 0, 0);
    const std::int64_t all = one.batch.rows();
    ASSERT_GT(all, 1);
    EXPECT_NEAR(loss(rows_of(one.batch, 0, 1), 0, 0) + loss(rows_of(one.batch, 1, all - 1), 1, 0), whole, 1e-4);
    EXPECT_GT(std::abs(loss(one.batch, 0, 1) - whole), 1e-4) << "another step, the same masks";
    EXPECT_GT(std::abs(one.facts["loss"].get<double>() - whole), 1e-4) << "no dropout";
  }
}

TEST(LanguageModelParity, a_label_counts_where_the_token_before_it_is_real) {
  for (const LanguageModelCase& one : language_model_cases()) {
    if (!one.has_facts()) continue;
    SCOPED_TRACE(one.folder);
    const auto model = language_model(one.folder, false);
    worker::Batch batch = batch_of(one.tensors, "left.");
    batch.labels = batch.input_ids.masked_fill(batch.attention_mask.eq(0), -100);
    const at::Tensor tokens = batch.attention_mask.sum(1);
    EXPECT_EQ(model->counted(batch), (tokens - 1).sum().item<std::int64_t>());

    const at::Tensor log_probabilities = at::log_softmax(logits_of(*model, batch), 1);
    double expected = 0;
    for (std::int64_t r = 0, first = 0; r < batch.rows(); first += tokens[r++].item<std::int64_t>()) {
      const at::Tensor ids = of_tokens(batch.input_ids[r], batch.attention_mask[r]);
      for (std::int64_t i = 0; i + 1 < ids.size(0); ++i) {
        expected -= log_probabilities[first + i][ids[i + 1].item<std::int64_t>()].item<double>();
      }
    }
    EXPECT_NEAR(loss_with(*model, batch, {}, 1), expected, 1e-4 * std::abs(expected));
  }
}

/// Rows `ids`[r][begin[r] … end[r]), padded on the left.
worker::Batch pieces(const std::vector<at::Tensor>& ids, const std::vector<std::int64_t>& begin,
                     const std::vector<std::int64_t>& end) {
  std::int64_t longest = 0;
  for (std::size_t r = 0; r < ids.size(); ++r) longest = std::max(longest, end[r] - begin[r]);
  worker::Batch batch;
  batch.input_ids = at::zeros({static_cast<std::int64_t>(ids.size()), longest}, at::kLong);
  batch.attention_mask = at::zeros_like(batch.input_ids);
  for (std::size_t r = 0; r < ids.size(); ++r) {
    const std::int64_t count = end[r] - begin[r];
    const auto row = static_cast<std::int64_t>(r);
    batch.input_ids[row].narrow(0, longest - count, count).copy_(ids[r].narrow(0, begin[r], count));
    batch.attention_mask[row].narrow(0, longest - count, count).fill_(1);
    batch.row_indices.push_back(row);
  }
  return batch;
}

TEST(LanguageModelParity, a_cache_changes_no_logits_token_by_token_and_in_chunks_over_uneven_rows) {
  for (const LanguageModelCase& one : language_model_cases()) {
    for (const std::int64_t chunk : {1, 4}) {
      SCOPED_TRACE(one.folder.string() + ", " + std::to_string(chunk) + " at a time");
      const at::NoGradGuard no_graph;
      const auto model = language_model(one.folder, false);
      worker::LanguageModel& decoder = *model->language_model();
      const std::int64_t rows = one.batch.rows();
      std::vector<at::Tensor> ids;
      std::vector<std::int64_t> begin(static_cast<std::size_t>(rows), 0), end, lengths;
      for (std::int64_t r = 0; r < rows; ++r) {
        ids.push_back(of_tokens(one.batch.input_ids[r], one.batch.attention_mask[r]));
        lengths.push_back(ids.back().size(0));
        end.push_back(1 + r % 3);  // prompts of different lengths
      }
      worker::KeyValueCache cache;
      cache.capacity = one.batch.input_ids.size(1);
      worker::Decoding cached{&cache, {}}, whole;
      for (int step = 0;; ++step) {
        SCOPED_TRACE(step);
        const at::Tensor with = decoder.next_logits(pieces(ids, begin, end), cached);
        const at::Tensor without =
            decoder.next_logits(pieces(ids, std::vector<std::int64_t>(ids.size(), 0), end), whole);
        for (std::int64_t r = 0; r < rows; ++r) {
          const std::int64_t last = end[static_cast<std::size_t>(r)] - 1;
          const at::Tensor row = one.tensors.at("logits")[r];
          const at::Tensor exact = of_tokens(row, one.batch.attention_mask[r])[last];
          EXPECT_LE(largest_difference(with[r], exact), 1e-4) << r;
          EXPECT_LE(largest_difference(without[r], exact), 1e-4) << r;
        }
        EXPECT_EQ(cache.lengths, end);
        begin = end;
        bool over = false;
        for (std::size_t r = 0; r < ids.size(); ++r) {
          end[r] += r % 2 == 0 ? chunk : std::max<std::int64_t>(1, chunk - 1);
          over |= end[r] > lengths[r];
        }
        if (over) break;
      }
    }
  }
}

TEST(LanguageModelParity, a_saved_model_loads_with_the_same_logits_and_holds_the_same_tensors) {
  for (const LanguageModelCase& one : language_model_cases()) {
    SCOPED_TRACE(one.folder);
    const auto model = language_model(one.folder, false);
    const fs::path saved = fs::path(testing::TempDir()) / ("saved_" + one.folder.filename().string());
    ASSERT_TRUE(worker::save_pretrained(*model, saved).ok());
    EXPECT_TRUE(at::equal(logits_of(*language_model(saved, false), one.batch), logits_of(*model, one.batch)));
    if (!one.facts.contains("grad_norms")) continue;
    // The gradients' names are transformers' parameters.
    const Tensors after = read_tensors(saved / "model.safetensors");
    EXPECT_EQ(after.size(), one.facts["grad_norms"].size());
    for (const auto& [name, norm] : one.facts["grad_norms"].items()) EXPECT_TRUE(after.contains(name)) << name;
    if (!fs::exists(one.folder / "model.safetensors")) continue;
    const Tensors before = read_tensors(one.folder / "model.safetensors");
    for (const auto& [name, tensor] : after) {
      const auto same = before.find(name);
      if (same != before.end()) EXPECT_TRUE(at::equal(tensor, same->second.to(at::kFloat))) << name;
    }
  }
}

TEST(LanguageModelParity, a_gguf_file_continues_prompts_as_the_reference_does) {
  const auto files = known_gguf_files();
  if (files.empty()) GTEST_SKIP() << "no GGUF file of the fixtures is in models/";
  for (const auto& [facts, file] : files) {
    SCOPED_TRACE(file);
    const at::NoGradGuard no_graph;
    const auto model = language_model(file, false);
    worker::GenerationOptions options;
    for (const nlohmann::json& prompt : facts.at("greedy")) {
      SCOPED_TRACE(prompt["prompt"]);
      const worker::Prompts prompts = {prompt["prompt_ids"].get<std::vector<std::int64_t>>()};
      const auto expected = prompt["new_ids"].get<std::vector<std::int64_t>>();
      options.max_new_tokens = static_cast<std::int64_t>(expected.size());
      const auto answers = worker::generate(*model->language_model(), prompts, options);
      ASSERT_TRUE(answers.ok()) << answers.error().message;
      EXPECT_EQ((**answers)[0][0].tokens, expected);

      worker::Batch batch;
      batch.input_ids = at::tensor(prompts[0], at::kLong).unsqueeze(0);
      batch.attention_mask = at::ones_like(batch.input_ids);
      worker::Decoding decoding;
      const at::Tensor logits = model->language_model()->next_logits(batch, decoding)[0];
      const nlohmann::json& best = prompt["last_prompt_position_top5"];
      for (std::size_t i = 0; i < best["ids"].size(); ++i) {
        EXPECT_NEAR(logits[best["ids"][i].get<std::int64_t>()].item<double>(), best["logits"][i].get<double>(),
                    1e-3);
      }
    }
  }
}

}  // namespace
}  // namespace finesweep::parity
