#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>

#include "tests/parity/models.h"
#include "worker/models/language_model.h"

namespace finesweep::parity {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using Change = std::function<void(Tensors&, nlohmann::json&)>;

const char* const kModels[] = {"gpt2", "gpt_neo", "llama", "llama_rope3"};

fs::path model_of(const std::string& name) {
  return repository_fixtures() / "models" / name;
}

worker::Batch batch_for(const std::string& name) {
  return batch_of(read_tensors(repository_fixtures() / "expected" / (name + ".safetensors")), "in.");
}

std::string error_of(const std::string& name, const Change& change) {
  const auto loaded = worker::load_pretrained(model_variant(model_of(name), "changed", change));
  return loaded.ok() ? "loaded" : loaded.error().message;
}

std::string error_with(const std::string& name, const char* key, const nlohmann::json& value) {
  return error_of(name, [&](Tensors&, nlohmann::json& config) { config[key] = value; });
}

at::Tensor logits_with(const std::string& name, const Change& change) {
  const auto model = language_model(model_variant(model_of(name), "changed", change), false);
  return logits_of(*model, batch_for(name));
}

at::Tensor logits_as_it_is(const std::string& name) {
  return logits_of(*language_model(model_of(name), false), batch_for(name));
}

std::unique_ptr<worker::Model> classifier_of(const fs::path& folder, std::int64_t labels, Pooling pooling,
                                             bool train_all = false, std::uint64_t seed = 5) {
  worker::ModelOptions options;
  options.labels = labels;
  options.pooling = pooling;
  options.train_all = train_all;
  options.seed = seed;
  auto model = worker::make_model(*worker::load_pretrained(folder), options);
  EXPECT_TRUE(model.ok()) << (model.ok() ? "" : model.error().message);
  return std::move(*model);
}

worker::Batch labelled(worker::Batch batch) {
  batch.labels = at::arange(batch.rows(), at::kLong).remainder(3);
  return batch;
}

TEST(DecoderFiles, older_names_load_to_the_same_model) {
  const auto without = [](const std::string& prefix, Tensors& tensors) {
    Tensors renamed;
    for (const auto& [name, tensor] : tensors) {
      renamed[name.starts_with(prefix) ? name.substr(prefix.size()) : name] = tensor;
    }
    tensors = renamed;
  };
  const at::Tensor gpt2 = logits_with("gpt2", [&](Tensors& tensors, nlohmann::json& config) {
    without("transformer.", tensors);
    tensors["h.0.attn.bias"] = at::ones({1, 1, 64, 64});
    tensors["h.0.attn.masked_bias"] = at::full({}, -1e4);
    for (const auto& [older, key] : std::map<std::string, std::string>{{"hidden_size", "n_embd"},
                                                                       {"max_position_embeddings", "n_positions"},
                                                                       {"num_attention_heads", "n_head"},
                                                                       {"num_hidden_layers", "n_layer"}}) {
      config[older] = config[key];
      config.erase(key);
    }
  });
  EXPECT_TRUE(at::equal(gpt2, logits_as_it_is("gpt2")));

  const at::Tensor gpt_neo = logits_with("gpt_neo", [&](Tensors& tensors, nlohmann::json& config) {
    without("transformer.", tensors);
    tensors["h.1.attn.attention.bias"] = at::ones({1, 1, 64, 64});
    tensors["h.1.attn.attention.masked_bias"] = at::full({}, -1e9);
    config.erase("attention_types");
  });
  EXPECT_TRUE(at::equal(gpt_neo, logits_as_it_is("gpt_neo")));

  const at::Tensor llama = logits_with("llama", [&](Tensors& tensors, nlohmann::json& config) {
    without("model.", tensors);
    tensors["layers.0.self_attn.rotary_emb.inv_freq"] = at::ones({4});
    config["rope_theta"] = config["rope_parameters"]["rope_theta"];
    config["rope_scaling"] = nullptr;
    for (const char* key : {"rope_parameters", "head_dim", "attention_bias", "mlp_bias"}) config.erase(key);
  });
  EXPECT_TRUE(at::equal(llama, logits_as_it_is("llama")));
}

TEST(DecoderFiles, a_head_in_the_files_is_used_unless_it_is_the_embedding_once_more) {
  for (const std::string name : {"gpt2", "gpt_neo", "llama"}) {
    SCOPED_TRACE(name);
    const std::string words = name == "llama" ? "model.embed_tokens.weight" : "transformer.wte.weight";
    const auto with_head = [&](double factor) {
      return model_variant(model_of(name), "head", [&](Tensors& tensors, nlohmann::json&) {
        tensors["lm_head.weight"] = tensors[words] * factor;
      });
    };
    const worker::Batch batch = batch_for(name);
    const auto tied = language_model(with_head(1), true);
    EXPECT_TRUE(at::equal(logits_of(*tied, batch), logits_as_it_is(name)));
    EXPECT_EQ(tied->config()["tie_word_embeddings"], true);
    EXPECT_EQ(tied->parameters().size(), language_model(model_of(name), true)->parameters().size());

    const auto untied = language_model(with_head(2), true);
    EXPECT_LE(largest_difference(logits_of(*untied, batch), 2 * logits_as_it_is(name)), 1e-4);
    EXPECT_EQ(untied->config()["tie_word_embeddings"], false);
    const fs::path saved = fs::path(testing::TempDir()) / "untied";
    ASSERT_TRUE(worker::save_pretrained(*untied, saved).ok());
    EXPECT_TRUE(at::equal(logits_of(*language_model(saved, false), batch), logits_of(*untied, batch)));
  }
  const fs::path headless =
      model_variant(model_of("llama_rope3"), "headless",
                    [](Tensors& tensors, nlohmann::json&) { tensors.erase("lm_head.weight"); });
  worker::ModelOptions options;
  options.head = worker::ModelHead::language_model;
  const auto model = worker::make_model(*worker::load_pretrained(headless), options);
  ASSERT_FALSE(model.ok());
  EXPECT_THAT(model.error().message, HasSubstr("\"lm_head.weight\" is missing"));
  EXPECT_EQ(logits_of(*classifier_of(headless, 3, Pooling::cls), batch_for("llama_rope3")).size(1), 3);
}

TEST(DecoderFiles, a_config_that_is_not_supported_says_which_key) {
  const auto types = [](const char* text) { return nlohmann::json::parse(text); };
  EXPECT_THAT(error_with("gpt2", "add_cross_attention", true), HasSubstr("\"add_cross_attention\": true"));
  EXPECT_THAT(error_with("gpt2", "activation_function", "mish"), HasSubstr("\"activation_function\" \"mish\""));
  EXPECT_THAT(error_with("gpt2", "n_head", 5), HasSubstr("\"n_embd\" 48 is not a multiple of \"n_head\" 5"));
  EXPECT_THAT(error_with("gpt2", "n_layer", 0), HasSubstr("\"n_layer\" must be a positive integer"));
  EXPECT_THAT(error_with("gpt2", "attn_pdrop", 1.0), HasSubstr("\"attn_pdrop\" must be at least 0 and below 1"));
  EXPECT_THAT(error_with("gpt2", "tie_word_embeddings", "yes"), HasSubstr("\"tie_word_embeddings\" must be true"));
  EXPECT_THAT(error_of("gpt2", [](Tensors&, nlohmann::json& c) { c.erase("n_positions"); }),
              HasSubstr("\"n_positions\" is missing"));
  EXPECT_THAT(error_with("gpt_neo", "attention_types", types(R"([[["global"], 3]])")),
              HasSubstr("not one for each of the \"num_layers\" 4"));
  EXPECT_THAT(error_with("gpt_neo", "attention_types", types(R"([[["global", "sparse"], 2]])")),
              HasSubstr("\"sparse\" is not supported"));
  EXPECT_THAT(error_with("gpt_neo", "attention_types", types(R"([[["local"], 4]])")),
              HasSubstr("\"attention_types\" and \"attention_layers\" contradict each other"));
  EXPECT_THAT(error_with("gpt_neo", "attention_types", "local"), HasSubstr("\"attention_types\" must be a list"));
  EXPECT_THAT(error_with("gpt_neo", "attention_types", types("[[[], 1000000000]]")),
              HasSubstr("\"attention_types\""));
  EXPECT_THAT(error_with("llama", "num_key_value_heads", 4), HasSubstr("\"num_key_value_heads\" 4"));
  EXPECT_THAT(error_with("llama", "head_dim", 7), HasSubstr("\"head_dim\" 7 is odd"));
  EXPECT_THAT(error_with("llama", "rope_parameters", {{"rope_type", "longrope"}}),
              HasSubstr("\"rope_parameters\": \"rope_type\" \"longrope\" is not supported"));
  EXPECT_THAT(error_with("llama", "rope_scaling", {{"type", "linear"}}),
              HasSubstr("\"rope_scaling\": \"factor\" is missing"));
  EXPECT_THAT(error_with("llama", "rope_scaling", {{"type", "linear"}, {"factor", "two"}}),
              HasSubstr("\"factor\" must be a positive number"));
  EXPECT_THAT(error_with("llama", "rope_scaling", 2), HasSubstr("\"rope_scaling\": must be an object"));
  EXPECT_THAT(error_with("llama", "partial_rotary_factor", 0.5), HasSubstr("\"partial_rotary_factor\" 0.5"));
}

TEST(DecoderFiles, a_missing_or_ill_shaped_part_of_a_stacked_module_is_named) {
  EXPECT_THAT(
      error_of("llama", [](Tensors& t, nlohmann::json&) { t.erase("model.layers.1.self_attn.k_proj.weight"); }),
      HasSubstr("\"model.layers.1.self_attn.k_proj.weight\" is missing"));
  EXPECT_THAT(error_of("llama",
                       [](Tensors& t, nlohmann::json&) {
                         t["model.layers.1.self_attn.k_proj.weight"] = at::zeros({48, 48});
                       }),
              HasSubstr("asks for [16, 48]"));
  EXPECT_THAT(error_of("gpt2",
                       [](Tensors& t, nlohmann::json&) {
                         t["transformer.h.0.attn.c_attn.weight"] = at::zeros({144, 48});
                       }),
              HasSubstr("asks for [48, 144]"));
}

TEST(DecoderBatches, what_a_model_does_not_have_is_refused) {
  for (const std::string name : kModels) {
    SCOPED_TRACE(name);
    const auto model = language_model(model_of(name), false);
    const std::int64_t vocabulary = model->language_model()->vocabulary();
    const std::int64_t positions = *model->language_model()->positions();
    const auto error_after = [&](const std::function<void(worker::Batch&)>& change) {
      worker::Batch batch = batch_for(name);
      batch.input_ids = batch.input_ids.clone();
      batch.labels = batch.labels.clone();
      change(batch);
      const Status status = model->check(batch);
      return status.ok() ? std::string("fits") : status.error().message;
    };
    EXPECT_EQ(error_after([](worker::Batch&) {}), "fits");
    EXPECT_THAT(error_after([&](worker::Batch& b) { b.input_ids[0][1] = vocabulary; }), HasSubstr("token id"));
    EXPECT_THAT(error_after([&](worker::Batch& b) { b.labels[0][1] = vocabulary; }), HasSubstr("label"));
    EXPECT_THAT(error_after([&](worker::Batch& b) { b.position_ids = at::full_like(b.input_ids, positions); }),
                HasSubstr("position"));
    const auto rows_of_length = [](worker::Batch& b, std::int64_t length) {
      b.input_ids = b.attention_mask = b.labels = at::ones({1, length}, at::kLong);
    };
    EXPECT_EQ(error_after([&](worker::Batch& b) { rows_of_length(b, positions); }), "fits");
    EXPECT_THAT(error_after([&](worker::Batch& b) { rows_of_length(b, positions + 1); }),
                HasSubstr("longer than the model's"));
  }
}

TEST(DecoderClassifier, reads_the_last_token_or_the_mean_of_the_tokens) {
  for (const std::string name : kModels) {
    SCOPED_TRACE(name);
    const at::NoGradGuard no_graph;
    const worker::Batch batch = labelled(batch_for(name));
    std::vector<at::Tensor> hidden;
    worker::Pass pass;
    pass.hidden_states = &hidden;
    language_model(model_of(name), false)->logits(batch, pass);
    for (const Pooling pooling : {Pooling::cls, Pooling::mean}) {
      const auto model = classifier_of(model_of(name), 3, pooling);
      EXPECT_EQ(model->language_model(), nullptr);
      ASSERT_TRUE(model->check(batch).ok());
      EXPECT_EQ(model->counted(batch), batch.rows());
      const at::Tensor score = model->parameters().back()->value;
      std::vector<at::Tensor> expected;
      for (std::int64_t r = 0, first = 0; r < batch.rows(); ++r) {
        const std::int64_t tokens = batch.attention_mask[r].sum().item<std::int64_t>();
        const at::Tensor row = hidden.back().narrow(0, first, tokens);
        const at::Tensor pooled = pooling == Pooling::mean ? row.mean(0) : row[tokens - 1];
        expected.push_back(at::mv(score, pooled));
        first += tokens;
      }
      EXPECT_LE(largest_difference(logits_of(*model, batch), at::stack(expected)), 1e-5);
    }
  }
}

TEST(DecoderClassifier, trains_its_head_alone_or_every_weight) {
  for (const std::string name : kModels) {
    SCOPED_TRACE(name);
    const worker::Batch batch = labelled(batch_for(name));
    const auto head_alone = classifier_of(model_of(name), 3, Pooling::cls);
    const auto all = classifier_of(model_of(name), 3, Pooling::cls, true);
    loss_and_gradients(*head_alone, batch);
    loss_and_gradients(*all, batch);
    const Tensors head = gradients_of(worker::trained_parameters(*head_alone));
    ASSERT_EQ(head.size(), 1u);
    EXPECT_EQ(head.begin()->first, "score.weight");
    const Tensors everything = gradients_of(worker::trained_parameters(*all));
    EXPECT_LE(largest_difference(head.begin()->second, everything.at("score.weight")), 1e-6);
    EXPECT_FALSE(everything.contains("lm_head.weight")) << "a head of another task";
    for (const auto& [parameter, gradient] : everything) {
      EXPECT_GT(gradient.abs().max().item<float>(), 0) << parameter;
    }
  }
}

TEST(DecoderClassifier, saves_what_it_loads_again_and_starts_a_new_head_from_the_seed) {
  for (const std::string name : kModels) {
    SCOPED_TRACE(name);
    const worker::Batch batch = labelled(batch_for(name));
    const auto model = classifier_of(model_of(name), 3, Pooling::cls);
    const fs::path saved = fs::path(testing::TempDir()) / ("classifier_" + name);
    ASSERT_TRUE(worker::save_pretrained(*model, saved).ok());
    EXPECT_THAT(read_json(saved / "config.json")["architectures"][0].get<std::string>(),
                HasSubstr("ForSequenceClassification"));
    EXPECT_EQ(read_json(saved / "config.json")["id2label"].size(), 3u);
    EXPECT_TRUE(
        at::equal(logits_of(*classifier_of(saved, 3, Pooling::cls, false, 6), batch), logits_of(*model, batch)));
    worker::ModelOptions options;
    options.labels = 7;
    const auto other = worker::make_model(*worker::load_pretrained(saved), options);
    ASSERT_FALSE(other.ok());
    EXPECT_THAT(other.error().message, HasSubstr("3 labels and the data has 7"));

    const at::Tensor score = model->parameters().back()->value;
    EXPECT_NEAR(score.std().item<double>(), 0.02, 0.006);
    const auto same = classifier_of(model_of(name), 3, Pooling::cls, false, 5);
    const auto another = classifier_of(model_of(name), 3, Pooling::cls, false, 6);
    EXPECT_TRUE(at::equal(score, same->parameters().back()->value));
    EXPECT_FALSE(at::equal(score, another->parameters().back()->value));
  }
}

TEST(DecoderClassifier, a_regression_has_one_value_and_a_squared_error) {
  for (const std::string name : kModels) {
    SCOPED_TRACE(name);
    worker::Batch batch = batch_for(name);
    batch.labels = at::arange(batch.rows(), at::kFloat);
    const auto model = classifier_of(model_of(name), 1, Pooling::cls);
    ASSERT_TRUE(model->check(batch).ok());
    const at::Tensor difference = logits_of(*model, batch).view({-1}) - batch.labels;
    EXPECT_NEAR(loss_and_gradients(*model, batch), (difference * difference).mean().item<double>(), 1e-5);
  }
}

TEST(DecoderTraining, the_tied_embedding_has_a_gradient_in_every_row) {
  for (const std::string name : {"gpt2", "gpt_neo", "llama"}) {
    SCOPED_TRACE(name);
    const auto model = language_model(model_of(name), true);
    loss_and_gradients(*model, batch_for(name));
    const worker::Parameter& words = *model->parameters().front();
    EXPECT_FALSE(words.is_table) << "its optimiser would skip rows";
    EXPECT_GT(words.grad.abs().amax(1).min().item<float>(), 0);
  }
  const auto untied = language_model(model_of("llama_rope3"), true);
  EXPECT_TRUE(untied->parameters().front()->is_table);
}

TEST(DecoderTraining, a_padding_token_of_llama_is_not_trained_by_the_embedding) {
  const worker::Batch batch = batch_for("llama_rope3");
  const std::int64_t id = batch.input_ids[0][1].item<std::int64_t>();
  const auto gradient_of = [&](const nlohmann::json& padding) {
    const auto model =
        language_model(model_variant(model_of("llama_rope3"), "padding",
                                     [&](Tensors&, nlohmann::json& config) { config["pad_token_id"] = padding; }),
                       true);
    loss_and_gradients(*model, batch);
    return model->parameters().front()->grad[id].abs().max().item<float>();
  };
  EXPECT_GT(gradient_of(nullptr), 0);
  EXPECT_EQ(gradient_of(id), 0);
}

TEST(KeyValueCache, refuses_more_tokens_than_it_has_room_for) {
  const at::NoGradGuard no_graph;
  const auto model = language_model(model_of("gpt2"), false);
  worker::KeyValueCache cache;
  cache.capacity = 3;
  worker::Decoding decoding{&cache, {}};
  worker::Batch batch;
  batch.input_ids = batch.attention_mask = at::ones({2, 3}, at::kLong);
  model->language_model()->next_logits(batch, decoding);
  batch.input_ids = batch.attention_mask = at::ones({2, 1}, at::kLong);
  EXPECT_THROW(model->language_model()->next_logits(batch, decoding), std::length_error);
}

}  // namespace
}  // namespace finesweep::parity
