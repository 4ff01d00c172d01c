#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <gmock/gmock.h>

#include <functional>

#include "tests/parity/models.h"
#include "worker/formats/safetensors.h"

namespace finesweep::parity {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

fs::path bert() {
  return repository_fixtures() / "models" / "bert";
}

/// A copy of a model directory with other tensors or another config.
fs::path variant(const std::string& name, const std::function<void(Tensors&, nlohmann::json&)>& change) {
  const fs::path folder = fs::path(testing::TempDir()) / ("loading_" + name);
  fs::create_directories(folder);
  Tensors tensors = read_tensors(bert() / "model.safetensors");
  nlohmann::json config = read_json(bert() / "config.json");
  change(tensors, config);
  EXPECT_TRUE(worker::write_safetensors(folder / "model.safetensors", {tensors.begin(), tensors.end()}).ok());
  std::ofstream(folder / "config.json") << config.dump();
  return folder;
}

void rename(Tensors& tensors, const std::string& from, const std::string& to) {
  auto node = tensors.extract(from);
  node.key() = to;
  tensors.insert(std::move(node));
}

std::string error_of(const fs::path& folder) {
  const auto loaded = worker::load_pretrained(folder);
  return loaded.ok() ? "loaded" : loaded.error().message;
}

std::unique_ptr<worker::Model> model_of(const fs::path& folder, std::uint64_t seed = 0,
                                        Pooling pooling = Pooling::cls) {
  auto pretrained = worker::load_pretrained(folder);
  EXPECT_TRUE(pretrained.ok()) << (pretrained.ok() ? "" : pretrained.error().message);
  worker::ModelOptions options;
  options.labels = 3;
  options.seed = seed;
  options.pooling = pooling;
  auto model = worker::make_model(*pretrained, options);
  EXPECT_TRUE(model.ok()) << (model.ok() ? "" : model.error().message);
  return std::move(*model);
}

worker::Batch reference_batch() {
  return batch_of(read_tensors(repository_fixtures() / "expected" / "bert.safetensors"), "in.");
}

at::Tensor head_of(worker::Model& model) {
  return model.parameters()[model.parameters().size() - 2]->value;
}

TEST(ModelFiles, older_names_and_the_heads_of_pretraining_load_to_the_same_model) {
  const fs::path older = variant("older", [](Tensors& tensors, nlohmann::json&) {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : tensors) names.push_back(name);
    for (const std::string& name : names) {
      std::string other = name.starts_with("bert.") ? name.substr(5) : name;
      if (other.ends_with("LayerNorm.weight")) other.replace(other.size() - 6, 6, "gamma");
      if (other.ends_with("LayerNorm.bias")) other.replace(other.size() - 4, 4, "beta");
      if (other != name) rename(tensors, name, other);
    }
    tensors["embeddings.position_ids"] = at::arange(64).unsqueeze(0);
    tensors["cls.predictions.bias"] = at::zeros({601});
    tensors["cls.seq_relationship.weight"] = at::zeros({2, 48});
  });
  const worker::Batch batch = reference_batch();
  EXPECT_TRUE(at::equal(logits_of(*model_of(older), batch), logits_of(*model_of(bert()), batch)));
}

TEST(ModelFiles, a_missing_unknown_or_ill_shaped_tensor_is_named_with_its_file) {
  const std::string missing = error_of(variant("missing", [](Tensors& tensors, nlohmann::json&) {
    tensors.erase("bert.encoder.layer.1.attention.self.key.weight");
  }));
  EXPECT_THAT(missing, HasSubstr("\"bert.encoder.layer.1.attention.self.key.weight\" is missing"));
  EXPECT_THAT(missing, HasSubstr("loading_missing"));

  const std::string unknown = error_of(variant("unknown", [](Tensors& tensors, nlohmann::json&) {
    tensors["bert.encoder.layer.3.output.dense.weight"] = at::zeros({48, 120});
  }));
  EXPECT_THAT(unknown, HasSubstr("unknown tensor \"bert.encoder.layer.3.output.dense.weight\""));
  EXPECT_THAT(unknown, HasSubstr("model.safetensors"));

  const std::string shape = error_of(variant("shape", [](Tensors& tensors, nlohmann::json&) {
    tensors["bert.encoder.layer.0.output.dense.weight"] = at::zeros({48, 119});
  }));
  EXPECT_THAT(shape, HasSubstr("\"bert.encoder.layer.0.output.dense.weight\" has shape [48, 119]"));
  EXPECT_THAT(shape, HasSubstr("asks for [48, 120]"));

  const std::string type = error_of(variant("type", [](Tensors& tensors, nlohmann::json&) {
    tensors["bert.pooler.dense.bias"] = at::zeros({48}, at::kLong);
  }));
  EXPECT_THAT(type, HasSubstr("has type I64"));

  const std::string twice = error_of(variant("twice", [](Tensors& tensors, nlohmann::json&) {
    tensors["bert.embeddings.LayerNorm.gamma"] = at::zeros({48});
  }));
  EXPECT_THAT(twice, HasSubstr("are the same weight"));
}

TEST(ModelFiles, a_config_that_is_not_supported_says_which_key) {
  const auto error_with = [](const char* key, const nlohmann::json& value) {
    return error_of(variant("config", [&](Tensors&, nlohmann::json& config) { config[key] = value; }));
  };
  EXPECT_THAT(error_with("model_type", "mamba"), HasSubstr("model_type \"mamba\" is not supported"));
  EXPECT_THAT(error_with("hidden_act", "mish"), HasSubstr("\"hidden_act\" \"mish\""));
  EXPECT_THAT(error_with("position_embedding_type", "relative_key"), HasSubstr("position_embedding_type"));
  EXPECT_THAT(error_with("num_attention_heads", 5), HasSubstr("not a multiple"));
  EXPECT_THAT(error_with("hidden_size", "big"), HasSubstr("\"hidden_size\" must be a positive integer"));
  EXPECT_THAT(error_with("is_decoder", true), HasSubstr("\"is_decoder\" is not supported"));
  EXPECT_THAT(error_with("layer_norm_eps", "tiny"), HasSubstr("\"layer_norm_eps\" must be a number"));
}

TEST(ModelFiles, a_missing_head_is_initialised_from_the_seed) {
  const fs::path headless = variant("headless", [](Tensors& tensors, nlohmann::json&) {
    tensors.erase("classifier.weight");
    tensors.erase("classifier.bias");
  });
  const at::Tensor head = head_of(*model_of(headless, 1));
  EXPECT_TRUE(at::equal(head, head_of(*model_of(headless, 1))));
  EXPECT_FALSE(at::equal(head, head_of(*model_of(headless, 2))));
  EXPECT_NEAR(head.std().item<double>(), 0.02, 0.005);
  const auto model = model_of(headless, 1);
  EXPECT_EQ(model->parameters().back()->value.abs().max().item<float>(), 0);
}

TEST(ModelFiles, a_head_for_another_number_of_labels_is_refused_with_advice) {
  worker::ModelOptions options;
  options.labels = 7;
  const auto model = worker::make_model(*worker::load_pretrained(bert()), options);
  ASSERT_FALSE(model.ok());
  EXPECT_THAT(model.error().message, HasSubstr("3 labels and the data has 7"));
}

TEST(ModelFiles, without_a_pooler_only_mean_pooling_works) {
  const fs::path folder = variant("poolerless", [](Tensors& tensors, nlohmann::json&) {
    tensors.erase("bert.pooler.dense.weight");
    tensors.erase("bert.pooler.dense.bias");
  });
  const auto pretrained = worker::load_pretrained(folder);
  ASSERT_TRUE(pretrained.ok());
  worker::ModelOptions options;
  options.labels = 3;
  const auto model = worker::make_model(*pretrained, options);
  ASSERT_FALSE(model.ok());
  EXPECT_THAT(model.error().message, HasSubstr("use pooling: mean"));
  logits_of(*model_of(folder, 0, Pooling::mean), reference_batch());
}

TEST(ModelFiles, what_a_model_does_not_have_is_refused_in_a_batch) {
  const auto model = model_of(bert());
  const auto error_with = [&](const std::function<void(worker::Batch&)>& change) {
    worker::Batch batch = reference_batch();
    for (at::Tensor* tensor : {&batch.input_ids, &batch.token_type_ids, &batch.labels}) *tensor = tensor->clone();
    change(batch);
    const Status status = model->check(batch);
    return status.ok() ? std::string("fits") : status.error().message;
  };
  EXPECT_EQ(error_with([](worker::Batch&) {}), "fits");
  EXPECT_THAT(error_with([](worker::Batch& b) { b.input_ids[0][1] = 601; }), HasSubstr("token id 601"));
  EXPECT_THAT(error_with([](worker::Batch& b) { b.input_ids[0][1] = -1; }), HasSubstr("token id -1"));
  EXPECT_THAT(error_with([](worker::Batch& b) { b.token_type_ids[0][1] = 2; }), HasSubstr("token type 2"));
  EXPECT_THAT(error_with([](worker::Batch& b) { b.labels[0] = 3; }), HasSubstr("label 3"));
  EXPECT_THAT(error_with([](worker::Batch& b) {
                b.input_ids = at::ones({4, 65}, at::kLong);
              }),
              HasSubstr("longer than the model's 64 positions"));
}

}  // namespace
}  // namespace finesweep::parity
