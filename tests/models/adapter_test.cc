#include "worker/adapters/adapter.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <gmock/gmock.h>

#include <functional>
#include <set>

#include "tests/models/repository_models.h"
#include "tests/parity/adapter_cases.h"
#include "worker/adapters/targets.h"
#include "worker/formats/safetensors.h"
#include "worker/models/family.h"
#include "worker/models/language_model.h"
#include "worker/random.h"

namespace finesweep::parity {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using worker::Adapter;
using worker::AdapterKind;
using worker::AdapterOptions;

fs::path fixture(const std::string& name) {
  return repository_fixtures() / "models" / name;
}

void randomise(Adapter& adapter, std::uint64_t seed) {
  for (worker::Parameter* parameter : adapter.parameters()) {
    const at::Tensor values = at::zeros(parameter->master.sizes(), at::kFloat);
    worker::fill_normal(values.mutable_data_ptr<float>(), static_cast<std::size_t>(values.numel()),
                        adapter.kind() == AdapterKind::ia3 ? 1.0f : 0.0f, 0.2f,
                        worker::RandomStream(seed, "test", {worker::hash_name(parameter->parts[0].name)}));
    parameter->master.copy_(values);
    parameter->refresh_value();
  }
}

AdapterOptions lora(std::vector<std::string> targets) {
  AdapterOptions options;
  options.rank = 4;
  options.alpha = 8;
  options.targets = std::move(targets);
  return options;
}

AdapterOptions ia3(std::vector<std::string> targets, std::vector<std::string> feedforward) {
  AdapterOptions options;
  options.kind = AdapterKind::ia3;
  options.targets = std::move(targets);
  options.feedforward_targets = std::move(feedforward);
  return options;
}

std::string error_of(const fs::path& folder, const AdapterOptions& options) {
  const auto model = parity::model_of(folder, Trains::head);
  const auto adapter = worker::make_adapter(*model, options, 1);
  return adapter.ok() ? "made" : adapter.error().message;
}

TEST(Adapters, a_target_matches_a_whole_path_or_its_end_after_a_dot) {
  EXPECT_TRUE(worker::target_matches("query", "bert.encoder.layer.0.attention.self.query"));
  EXPECT_TRUE(worker::target_matches("output.dense", "bert.encoder.layer.0.attention.output.dense"));
  EXPECT_TRUE(worker::target_matches("classifier", "classifier"));
  EXPECT_FALSE(worker::target_matches("ery", "bert.encoder.layer.0.attention.self.query"));
  EXPECT_FALSE(worker::target_matches("encoder", "bert.encoder.layer.0.attention.self.query"));
  EXPECT_FALSE(worker::target_matches("", "classifier"));
}

TEST(Adapters, any_linear_can_be_a_target_and_b_of_zeros_changes_nothing) {
  const auto model = parity::model_of(fixture("bert"), Trains::head);
  const worker::Batch batch = some_batch(*model);
  const at::Tensor before = logits_of(*model, batch);
  const auto adapter = require(worker::make_adapter(*model, lora({"query", "key", "value", "dense"}), 1));
  // Three attention inputs and three dense layers in each of three layers, and the pooler: A and B each.
  EXPECT_EQ(adapter->parameters().size(), 2u * (3 * 6 + 1));
  EXPECT_LE(largest_difference(logits_of(*model, batch), before), 1e-6);
  mean_loss_and_gradients(*model, batch);
  for (const worker::Parameter* p : adapter->parameters()) {
    const bool is_b = p->parts[0].name.ends_with("lora_B.weight");
    EXPECT_EQ(p->grad.abs().max().item<float>() > 0, is_b) << p->parts[0].name;
  }
  const double bound = 1 / std::sqrt(48.0);
  const at::Tensor a = adapter->parameters()[0]->master;
  EXPECT_LE(a.abs().max().item<double>(), bound);
  EXPECT_GT(a.abs().max().item<double>(), 0.8 * bound);
}

TEST(Adapters, of_the_family_s_targets_a_new_one_changes_nothing_and_is_trained) {
  for (const fs::path& folder : every_model()) {
    for (const AdapterKind kind : {AdapterKind::lora, AdapterKind::ia3}) {
      SCOPED_TRACE(folder.string() + (kind == AdapterKind::lora ? " lora" : " ia3"));
      const auto model = parity::model_of(folder, Trains::head);
      const worker::Batch batch = some_batch(*model);
      const at::Tensor before = logits_of(*model, batch);
      AdapterOptions options;
      options.kind = kind;
      const auto adapter = require(worker::make_adapter(*model, options, 1));
      EXPECT_FALSE(adapter->options().targets.empty());
      EXPECT_LE(largest_difference(logits_of(*model, batch), before), 1e-5);
      randomise(*adapter, 3);
      EXPECT_GT(largest_difference(logits_of(*model, batch), before), 1e-3);
      mean_loss_and_gradients(*model, batch);
      for (const worker::Parameter* p : adapter->parameters()) {
        EXPECT_GT(p->grad.abs().max().item<float>(), 0) << p->parts[0].name;
      }
    }
  }
}

TEST(Adapters, of_any_targets_merge_unmerge_and_survive_their_files_to_the_bit) {
  for (const fs::path& folder : every_model()) {
    for (const bool rslora : {false, true}) {
      for (const AdapterKind kind : {AdapterKind::lora, AdapterKind::ia3}) {
        SCOPED_TRACE(folder.string() + (kind == AdapterKind::lora ? " lora" : " ia3"));
        const auto model = parity::model_of(folder, Trains::head);
        const worker::Batch batch = some_batch(*model);
        AdapterOptions options = lora({std::string(worker::kAllLinear)});
        options.kind = kind;
        options.rslora = rslora;
        options.rank = rslora ? 3 : 5;
        options.dropout = 0.25;  // not while evaluating
        auto adapter = require(worker::make_adapter(*model, options, 1));
        randomise(*adapter, 4);
        const at::Tensor before = logits_of(*model, batch);
        const double scale = before.abs().max().item<double>();
        const fs::path saved = fs::path(testing::TempDir()) / "all_linear_adapter";
        ASSERT_TRUE(worker::write_adapter(*adapter, "base", saved).ok());
        const auto report = require(worker::merge(*model, *adapter));
        EXPECT_EQ(report.largest_rounding, 0);
        EXPECT_LE(largest_difference(logits_of(*model, batch), before), 1e-4 * std::max(1.0, scale));
        EXPECT_THAT(worker::merge(*model, *adapter).error().message, HasSubstr("merged already"));
        ASSERT_TRUE(worker::unmerge(*model, *adapter).ok());
        EXPECT_TRUE(logits_of(*model, batch).equal(before));
        adapter.reset();
        const auto again = require(worker::read_adapter(*model, saved));
        EXPECT_TRUE(logits_of(*model, batch).equal(before));
        EXPECT_EQ(again->options().rslora, kind == AdapterKind::lora && rslora);
      }
    }
  }
}

TEST(Adapters, all_linear_is_everything_but_the_head_and_the_output_embedding) {
  for (const fs::path& folder : every_model()) {
    SCOPED_TRACE(folder);
    const auto model = parity::model_of(folder, Trains::head);
    std::set<std::string> expected, chosen;
    for (const worker::LinearModule* module : model->linear_modules()) {
      for (const std::string& path : module->paths) {
        if (!worker::is_head_module(*model, path) && path != "lm_head") expected.insert(path);
      }
    }
    for (const auto& target :
         *worker::find_targets(*model, lora({"all-linear"}), worker::UnmatchedTargets::refuse)) {
      chosen.insert(target.path);
    }
    EXPECT_EQ(chosen, expected);
    EXPECT_FALSE(chosen.empty());
  }
}

TEST(Adapters, an_expression_chooses_by_whole_paths) {
  const auto model = parity::model_of(fixture("bert"), Trains::head);
  AdapterOptions options = lora({});
  options.target_expression = R"(.*layer\.[02]\.attention.*(query|dense))";
  const auto adapter = require(worker::make_adapter(*model, options, 1));
  EXPECT_EQ(adapter->parameters().size(), 2u * 4);
  const fs::path saved = fs::path(testing::TempDir()) / "expression_adapter";
  ASSERT_TRUE(worker::write_adapter(*adapter, "base", saved).ok());
  EXPECT_EQ(read_json(saved / "adapter_config.json")["target_modules"], options.target_expression);
  options.target_expression = "attention";  // not the whole path
  EXPECT_THAT(error_of(fixture("bert"), options), HasSubstr("names no linear module"));
  options.target_expression = "(";
  EXPECT_THAT(error_of(fixture("bert"), options), HasSubstr("is not a regular expression"));
  for (const char* pythons : {R"(.*query\Z)", R"(\A.*query)", ".*[]q]uery", ".*[^]x]uery"}) {
    options.target_expression = pythons;
    EXPECT_THAT(error_of(fixture("bert"), options), HasSubstr("is not a regular expression")) << pythons;
  }
  options.target_expression = R"(.*[qk]uer[\]y]|.*\\Zoo)";  // a bracket and a backslash that are meant
  EXPECT_TRUE(worker::make_adapter(*model, options, 1).ok());
  options.target_expression = ".*(query|word_embeddings)";
  EXPECT_THAT(error_of(fixture("bert"), options),
              HasSubstr("matches the embedding bert.embeddings.word_embeddings"));
}

TEST(Adapters, ranks_and_alphas_of_single_modules_follow_their_patterns) {
  const auto model = parity::model_of(fixture("bert"), Trains::head);
  const worker::Batch batch = some_batch(*model);
  AdapterOptions options = lora({"query", "output.dense"});
  options.rank_pattern = {{R"(layer\.1\.output\.dense)", 2}, {"query", 3}};
  options.alpha_pattern = {{"query", 3.5}};
  const auto adapter = require(worker::make_adapter(*model, options, 1));
  for (const worker::Parameter* p : adapter->parameters()) {
    const std::string& name = p->parts[0].name;
    const std::int64_t rank = name.find("query") != std::string::npos                  ? 3
                              : name.find("layer.1.output.dense") != std::string::npos ? 2
                                                                                       : 4;
    EXPECT_EQ(p->master.size(name.ends_with("lora_A.weight") ? 0 : 1), rank) << name;
  }
  randomise(*adapter, 5);
  const at::Tensor before = logits_of(*model, batch);
  const fs::path saved = fs::path(testing::TempDir()) / "pattern_adapter";
  ASSERT_TRUE(worker::write_adapter(*adapter, "base", saved).ok());
  const nlohmann::json config = read_json(saved / "adapter_config.json");
  EXPECT_EQ(config["rank_pattern"]["query"], 3);
  EXPECT_EQ(config["alpha_pattern"]["query"], 3.5);
  const auto other = parity::model_of(fixture("bert"), Trains::head);
  const auto again = require(worker::read_adapter(*other, saved));
  EXPECT_TRUE(logits_of(*other, batch).equal(before));
}

TEST(Adapters, what_does_not_fit_the_model_is_refused_by_name) {
  EXPECT_THAT(error_of(fixture("bert"), lora({"query", "c_attn"})),
              HasSubstr("lora: target \"c_attn\" names no linear module of this bert; there are: query, key"));
  EXPECT_THAT(error_of(fixture("bert"), lora({"classifier"})), HasSubstr("that is not trained anyway"));
  EXPECT_THAT(error_of(fixture("bert"), lora({"word_embeddings"})), HasSubstr("adapters are for linear modules"));
  EXPECT_THAT(error_of(fixture("bert"), ia3({"key", "output.dense"}, {"query"})),
              HasSubstr("ia3: feed-forward target \"query\" matches none"));
  EXPECT_THAT(error_of(fixture("bert"), ia3({"key"}, {"key"})), HasSubstr("its input cannot"));
  AdapterOptions options = lora({});
  options.rank = 0;
  EXPECT_THAT(error_of(fixture("bert"), options), HasSubstr("rank"));
  options.rank = 2;
  options.dropout = 1;
  EXPECT_THAT(error_of(fixture("bert"), options), HasSubstr("dropout"));
}

TEST(Adapters, a_feed_forward_target_scales_the_input_and_others_the_output_with_its_bias) {
  const auto model = parity::model_of(fixture("bert"), Trains::head);
  const auto adapter = require(worker::make_adapter(*model, ia3({"key", "output.dense"}, {"output.dense"}), 1));
  for (const worker::Parameter* p : adapter->parameters()) {
    const bool feedforward = p->parts[0].name.find("output.dense") != std::string::npos;
    EXPECT_EQ(p->master.size(feedforward ? 0 : 1), 1) << p->parts[0].name;
    EXPECT_TRUE(p->master.eq(1).all().item<bool>());
  }
}

TEST(Adapters, an_output_embedding_is_adapted_but_not_merged_where_it_is_the_input_s) {
  int tied = 0;
  for (const fs::path& folder : every_model()) {
    const auto model = parity::model_of(folder, Trains::head);
    if (model->language_model() == nullptr) continue;
    SCOPED_TRACE(folder);
    const worker::Batch batch = some_batch(*model);
    const at::Tensor before = logits_of(*model, batch);
    const auto adapter = require(worker::make_adapter(*model, lora({"lm_head"}), 1));
    randomise(*adapter, 6);
    const at::Tensor adapted = logits_of(*model, batch);
    EXPECT_GT(largest_difference(adapted, before), 1e-3);
    mean_loss_and_gradients(*model, batch);
    for (const worker::Parameter* p : adapter->parameters()) EXPECT_GT(p->grad.abs().max().item<float>(), 0);
    const auto merged = worker::merge(*model, *adapter);
    if (merged.ok()) {
      EXPECT_LE(largest_difference(logits_of(*model, batch), adapted), 1e-4);
    } else {
      EXPECT_THAT(merged.error().message, HasSubstr("input embedding"));
      ++tied;
    }

    // PEFT writes the frozen weight beside such an adapter; another one is refused.
    const fs::path saved = fs::path(testing::TempDir()) / "head_adapter";
    if (adapter->merged()) {
      ASSERT_TRUE(worker::unmerge(*model, *adapter).ok());
    }
    ASSERT_TRUE(worker::write_adapter(*adapter, "base", saved).ok());
    for (const bool changed : {false, true}) {
      Tensors tensors = read_tensors(saved / "adapter_model.safetensors");
      for (const worker::LinearModule* module : model->linear_modules()) {
        if (module->paths[0] != "lm_head") continue;
        tensors["base_model.model.lm_head.base_layer.weight"] = module->weight->value + (changed ? 1 : 0);
      }
      ASSERT_TRUE(
          worker::write_safetensors(saved / "adapter_model.safetensors", {tensors.begin(), tensors.end()}).ok());
      const auto read = worker::read_adapter(*model, saved);
      ASSERT_EQ(read.ok(), !changed) << (read.ok() ? "" : read.error().message);
      if (read.ok()) continue;
      EXPECT_THAT(read.error().message, HasSubstr("is not the base model's weight"));
    }
  }
  EXPECT_GT(tied, 0);
}

/// Reads the reference's adapter after a change to it.
std::string error_with(const std::string& name, const std::function<void(Tensors&, nlohmann::json&)>& change) {
  const fs::path source = repository_fixtures() / "adapters" / name;
  const fs::path folder = fs::path(testing::TempDir()) / "refused_adapter";
  fs::create_directories(folder);
  Tensors tensors = read_tensors(source / "adapter_model.safetensors");
  nlohmann::json config = read_json(source / "adapter_config.json");
  change(tensors, config);
  EXPECT_TRUE(
      worker::write_safetensors(folder / "adapter_model.safetensors", {tensors.begin(), tensors.end()}).ok());
  std::ofstream(folder / "adapter_config.json") << config.dump();
  const auto model = parity::model_of(fixture("bert"), Trains::head);
  const auto adapter = worker::read_adapter(*model, folder);
  return adapter.ok() ? "read" : adapter.error().message;
}

TEST(AdapterFiles, what_is_not_plain_lora_or_ia3_over_this_model_is_refused_by_name) {
  const auto lora_with = [](const std::function<void(nlohmann::json&)>& change) {
    return error_with("bert_lora", [&](Tensors&, nlohmann::json& config) { change(config); });
  };
  const auto ia3_with = [](const std::function<void(nlohmann::json&)>& change) {
    return error_with("bert_ia3", [&](Tensors&, nlohmann::json& config) { change(config); });
  };
  using Config = nlohmann::json;
  EXPECT_EQ(lora_with([](Config&) {}), "read");
  EXPECT_EQ(ia3_with([](Config&) {}), "read");
  EXPECT_THAT(lora_with([](Config& c) { c["peft_type"] = "LOHA"; }), HasSubstr("\"peft_type\" is \"LOHA\""));
  EXPECT_THAT(lora_with([](Config& c) { c["task_type"] = "CAUSAL_LM"; }), HasSubstr("\"task_type\""));
  EXPECT_THAT(lora_with([](Config& c) { c["use_dora"] = true; }), HasSubstr("\"use_dora\""));
  EXPECT_THAT(lora_with([](Config& c) { c["init_lora_weights"] = "pissa"; }), HasSubstr("\"init_lora_weights\""));
  EXPECT_THAT(lora_with([](Config& c) { c["layers_to_transform"] = {1}; }), HasSubstr("\"layers_to_transform\""));
  EXPECT_THAT(lora_with([](Config& c) { c["rank_pattern"]["query"] = "two"; }), HasSubstr("\"rank_pattern\""));
  EXPECT_THAT(lora_with([](Config& c) { c["rank_pattern"]["query"] = 2; }), HasSubstr("expected [2, 48]"));
  EXPECT_THAT(lora_with([](Config& c) { c["target_modules"] = Config::array(); }), HasSubstr("\"target_modules\""));
  EXPECT_THAT(lora_with([](Config& c) { c["target_modules"] = {"c_attn"}; }),
              HasSubstr("target \"c_attn\" names no linear module"));
  EXPECT_THAT(lora_with([](Config& c) {
                c["target_modules"] = {"query", "value", "word_embeddings"};
              }),
              HasSubstr("adapters are for linear modules"));
  EXPECT_THAT(lora_with([](Config& c) { c["r"] = 5; }), HasSubstr("expected [5, 48]"));
  EXPECT_THAT(lora_with([](Config& c) {
                c["modules_to_save"] = {"classifier", "bert.pooler"};
              }),
              HasSubstr("\"modules_to_save\""));
  EXPECT_THAT(ia3_with([](Config& c) { c.erase("feedforward_modules"); }), HasSubstr("\"feedforward_modules\""));
  EXPECT_THAT(ia3_with([](Config& c) { c["exclude_modules"] = {"key"}; }), HasSubstr("\"exclude_modules\""));
  EXPECT_THAT(error_with("bert_lora", [](Tensors& t, Config&) { t.erase("base_model.model.classifier.bias"); }),
              HasSubstr("\"base_model.model.classifier.bias\" is missing"));
  EXPECT_THAT(error_with("bert_lora", [](Tensors& t, Config&) { t["extra"] = at::zeros({1}); }),
              HasSubstr("unknown tensor \"extra\""));
}

TEST(AdapterFiles, lists_for_several_families_and_other_spellings_read) {
  using Config = nlohmann::json;
  const auto lora_with = [](const std::function<void(Tensors&, Config&)>& change) {
    return error_with("bert_lora", change);
  };
  EXPECT_EQ(lora_with([](Tensors&, Config& c) { c["target_modules"] = {"c_attn", "value", "query"}; }), "read");
  EXPECT_EQ(lora_with([](Tensors&, Config& c) { c["target_modules"] = ".*(query|value)"; }), "read");
  EXPECT_EQ(lora_with([](Tensors&, Config& c) {
              for (const char* key : {"task_type", "rank_pattern", "use_rslora", "init_lora_weights"}) c.erase(key);
            }),
            "read");
  // A head that was not trained is not in the file.
  EXPECT_EQ(lora_with([](Tensors& t, Config& c) {
              c["modules_to_save"] = nullptr;
              t.erase("base_model.model.classifier.weight");
              t.erase("base_model.model.classifier.bias");
            }),
            "read");
  EXPECT_EQ(error_with("bert_ia3", [](Tensors&, Config& c) { c["feedforward_modules"] = R"(.*output\.dense)"; }),
            "read");
}

TEST(AdapterFiles, feed_forward_targets_that_are_no_part_of_the_targets_are_written_as_paths) {
  const auto model = parity::model_of(fixture("bert"), Trains::head);
  const auto adapter = require(worker::make_adapter(*model, ia3({"dense"}, {"layer.0.output.dense"}), 1));
  const fs::path saved = fs::path(testing::TempDir()) / "paths_adapter";
  ASSERT_TRUE(worker::write_adapter(*adapter, "base", saved).ok());
  const nlohmann::json config = read_json(saved / "adapter_config.json");
  EXPECT_EQ(config["feedforward_modules"], nlohmann::json({"bert.encoder.layer.0.output.dense"}));
  EXPECT_EQ(config["target_modules"].size(), 3u * 3 + 1);
  EXPECT_TRUE(worker::read_adapter(*model, saved).ok());
}

}  // namespace
}  // namespace finesweep::parity
