#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include "tests/parity/models.h"

namespace finesweep::parity {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> models() {
  return classifier_cases(fixtures() / "models", [](const fs::path& folder) { return folder; });
}

struct Expected {
  Tensors tensors;
  nlohmann::json facts;
  worker::Batch batch;
};

Expected expected_of(const fs::path& model) {
  const fs::path base = fixtures() / "expected" / model.filename();
  Expected expected{read_tensors(base.string() + ".safetensors"), read_json(base.string() + ".json"), {}};
  expected.batch = batch_of(expected.tensors, "in.");
  return expected;
}

TEST(ClassifierParity, logits_are_the_reference_s) {
  for (const fs::path& folder : models()) {
    SCOPED_TRACE(folder);
    const Expected expected = expected_of(folder);
    const auto model = classifier(folder, false);
    EXPECT_LE(largest_difference(logits_of(*model, expected.batch), expected.tensors.at("logits")), 1e-4);
  }
}

TEST(ClassifierParity, hidden_states_of_every_layer_are_the_reference_s) {
  for (const fs::path& folder : models()) {
    SCOPED_TRACE(folder);
    const at::NoGradGuard no_graph;
    const Expected expected = expected_of(folder);
    const auto model = classifier(folder, false);
    std::vector<at::Tensor> hidden;
    worker::Pass pass;
    pass.hidden_states = &hidden;
    const at::Tensor logits = model->logits(expected.batch, pass).value;
    EXPECT_LE(largest_difference(logits, expected.tensors.at("logits")), 1e-4);
    const at::Tensor mask = expected.batch.attention_mask[0].to(at::kBool);
    const std::int64_t tokens = mask.sum().item<std::int64_t>();
    ASSERT_FALSE(hidden.empty());
    for (std::size_t i = 0; i < hidden.size(); ++i) {
      SCOPED_TRACE(i);
      const at::Tensor reference = expected.tensors.at("hidden." + std::to_string(i))[0];
      EXPECT_LE(largest_difference(hidden[i].narrow(0, 0, tokens), reference.index({mask})), 1e-4);
    }
    EXPECT_FALSE(expected.tensors.contains("hidden." + std::to_string(hidden.size())));
  }
}

TEST(ClassifierParity, loss_and_gradients_of_all_parameters_are_the_reference_s) {
  for (const fs::path& folder : models()) {
    SCOPED_TRACE(folder);
    const Expected expected = expected_of(folder);
    const auto model = classifier(folder, true);
    EXPECT_NEAR(loss_and_gradients(*model, expected.batch), expected.facts["loss"].get<double>(), 2e-5);
    const Tensors mine = gradients_of(worker::trained_parameters(*model));
    EXPECT_GT(expect_same_gradients(expected.tensors, mine, 3e-4), 0);

    const auto norms = expected.facts["grad_norms"].get<std::map<std::string, double>>();
    EXPECT_EQ(norms.size(), mine.size());
    double largest = 0;
    for (const auto& [name, norm] : norms) largest = std::max(largest, norm);
    for (const auto& [name, norm] : norms) {
      ASSERT_TRUE(mine.contains(name)) << name;
      EXPECT_LE(std::abs(mine.at(name).norm().item<double>() - norm) / (norm + 1e-4 * largest), 2e-4) << name;
    }
  }
}

TEST(ClassifierParity, half_precision_agrees_loosely_with_fp32) {
  for (const fs::path& folder : models()) {
    const Expected expected = expected_of(folder);
    const at::Tensor& reference = expected.tensors.at("logits");
    const double spread = reference.abs().max().item<double>();
    const auto exact = classifier(folder, true);
    loss_and_gradients(*exact, expected.batch);
    const Tensors exact_gradients = gradients_of(worker::trained_parameters(*exact));
    for (const Precision precision : {Precision::bf16, Precision::fp16}) {
      SCOPED_TRACE(folder.string() + (precision == Precision::bf16 ? " in bf16" : " in fp16"));
      const auto model = classifier(folder, true, precision);
      const at::Tensor logits = logits_of(*model, expected.batch);
      EXPECT_LE(largest_difference(logits, reference), 0.12 * spread + 0.05);
      EXPECT_GT(largest_difference(logits, reference), 1e-5) << "computed in fp32";
      loss_and_gradients(*model, expected.batch);
      EXPECT_GT(gradient_cosine(exact_gradients, gradients_of(worker::trained_parameters(*model))), 0.9);
    }
  }
}

TEST(ClassifierParity, recomputed_layers_give_the_same_gradients) {
  for (const fs::path& folder : models()) {
    SCOPED_TRACE(folder);
    const at::NoGradGuard no_graph;
    const Expected expected = expected_of(folder);
    const auto model = classifier(folder, true), other = classifier(folder, true);
    loss_and_gradients(*model, expected.batch);
    worker::Tape tape;
    worker::Pass pass;
    pass.tape = &tape;
    pass.recompute_layers = true;
    worker::backward(tape, other->loss(expected.batch, pass, static_cast<double>(expected.batch.rows())));
    const Tensors mine = gradients_of(worker::trained_parameters(*model));
    for (const auto& [name, gradient] : gradients_of(worker::trained_parameters(*other))) {
      // A GPU adds the gradients of embeddings in any order.
      const double apart = largest_difference(gradient, mine.at(name));
      EXPECT_LE(apart, device().is_cpu() ? 0 : 1e-6 + 1e-5 * gradient.abs().max().item<double>()) << name;
    }
  }
}

TEST(ClassifierParity, a_saved_model_loads_with_the_same_logits) {
  for (const fs::path& folder : models()) {
    SCOPED_TRACE(folder);
    const Expected expected = expected_of(folder);
    const auto model = classifier(folder, false);
    const fs::path saved = fs::path(testing::TempDir()) / ("saved_" + folder.filename().string());
    ASSERT_TRUE(worker::save_pretrained(*model, saved).ok());
    EXPECT_TRUE(at::equal(logits_of(*classifier(saved, false), expected.batch), logits_of(*model, expected.batch)));
  }
}

/// As published files name the weights: no prefix, buffers, a pooler and the head of pre-training beside them.
void as_published(Tensors& tensors, const std::string& family) {
  Tensors renamed;
  for (const auto& [name, tensor] : tensors) {
    renamed[name.starts_with(family + ".") ? name.substr(family.size() + 1) : name] = tensor;
  }
  if (family == "bert" || family == "roberta") renamed["embeddings.position_ids"] = at::arange(8).unsqueeze(0);
  if (family == "roberta") {
    renamed["lm_head.dense.weight"] = at::ones({2, 2});
    renamed["pooler.dense.weight"] = at::ones({2, 2});
  }
  tensors = std::move(renamed);
}

TEST(ClassifierParity, published_names_load_to_the_same_model) {
  for (const fs::path& folder : models()) {
    SCOPED_TRACE(folder);
    const Expected expected = expected_of(folder);
    const fs::path published = model_variant(folder, "published", [](Tensors& tensors, nlohmann::json& config) {
      as_published(tensors, config["model_type"]);
      config.erase("dtype");
      config["torch_dtype"] = "float32";
    });
    EXPECT_LE(
        largest_difference(logits_of(*classifier(published, false), expected.batch), expected.tensors.at("logits")),
        1e-4);
  }
}

TEST(ClassifierParity, the_mean_of_the_tokens_does_not_depend_on_padding) {
  for (const fs::path& folder : models()) {
    SCOPED_TRACE(folder);
    const Expected expected = expected_of(folder);
    worker::ModelOptions options;
    options.labels = expected.tensors.at("logits").size(1);
    options.pooling = Pooling::mean;
    const auto model = worker::make_model(*pretrained_of(folder), options);
    ASSERT_TRUE(model.ok()) << model.error().message;
    const at::Tensor together = logits_of(**model, expected.batch);
    EXPECT_GT(largest_difference(together, expected.tensors.at("logits")), 1e-3) << "the first token was pooled";
    for (std::int64_t r = 0; r < expected.batch.rows(); ++r) {
      const std::int64_t tokens = expected.batch.attention_mask[r].sum().item<std::int64_t>();
      worker::Batch alone = expected.batch;
      for (at::Tensor* tensor : {&alone.input_ids, &alone.attention_mask, &alone.token_type_ids}) {
        if (tensor->defined()) *tensor = tensor->narrow(0, r, 1).narrow(1, 0, tokens).contiguous();
      }
      alone.labels = alone.labels.narrow(0, r, 1);
      EXPECT_LE(largest_difference(logits_of(**model, alone), together.narrow(0, r, 1)), 1e-5);
    }
  }
}

TEST(RobertaParity, the_first_token_stands_behind_the_padding_s_position) {
  for (const fs::path& folder : models_of_family("roberta")) {
    SCOPED_TRACE(folder);
    const auto model = classifier(folder, true);
    worker::Batch batch = expected_of(folder).batch;
    const std::int64_t padding = read_json(folder / "config.json").value("pad_token_id", 1);
    // A token of padding within a row, where the mask counts it, is at the padding's position; those behind it go
    // on counting. Neither its word nor its position learns, as in PyTorch's padding_idx.
    batch.input_ids = batch.input_ids.clone();
    batch.input_ids.select(1, 2).fill_(padding);
    ASSERT_TRUE(model->check(batch).ok());
    loss_and_gradients(*model, batch);
    const Tensors gradients = gradients_of(worker::trained_parameters(*model));
    const at::Tensor positions = gradients.at("roberta.embeddings.position_embeddings.weight").abs().sum(1);
    const std::int64_t longest = (batch.input_ids.ne(padding).sum(1)).max().item<std::int64_t>();
    for (std::int64_t p = 0; p < positions.size(0); ++p) {
      EXPECT_EQ(positions[p].item<double>() > 0, p > padding && p <= padding + longest) << p;
    }
    const at::Tensor words = gradients.at("roberta.embeddings.word_embeddings.weight");
    EXPECT_EQ(words[padding].abs().sum().item<double>(), 0);
  }
}

TEST(RobertaParity, a_row_longer_than_its_positions_is_refused) {
  for (const fs::path& folder : models_of_family("roberta")) {
    SCOPED_TRACE(folder);
    const nlohmann::json config = read_json(folder / "config.json");
    const std::int64_t padding = config.value("pad_token_id", 1);
    const std::int64_t most = config["max_position_embeddings"].get<std::int64_t>() - padding - 1;
    const auto model = classifier(folder, false);
    for (const std::int64_t longer : {0, 1}) {
      worker::Batch batch;
      batch.input_ids = at::full({1, most + longer}, padding + 1, at::kLong);
      batch.attention_mask = at::ones_like(batch.input_ids);
      EXPECT_EQ(model->check(batch).ok(), longer == 0);
    }
  }
}

}  // namespace
}  // namespace finesweep::parity
