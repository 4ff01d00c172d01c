#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>

#include "tests/parity/models.h"
#include "worker/models/language_model.h"

namespace finesweep::parity {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> models() {
  return models_of_family("t5");
}

struct Expected {
  Tensors tensors;
  nlohmann::json facts;
  worker::Batch batch;

  /// As the engine returns them: a row for each token of the decoder.
  at::Tensor logits() const {
    const at::Tensor& logits = tensors.at("logits");
    return logits.reshape({-1, logits.size(2)});
  }
};

Expected expected_of(const fs::path& model) {
  const fs::path base = fixtures() / "expected" / model.filename();
  Expected expected{read_tensors(base.string() + ".safetensors"), read_json(base.string() + ".json"), {}};
  expected.batch = batch_of(expected.tensors, "in.");
  return expected;
}

/// The number of the row's tokens that are computed where the labels say what the decoder reads.
std::int64_t counted_prefix(const at::Tensor& labels) {
  std::int64_t prefix = 1;
  for (std::int64_t i = 0; i < labels.size(0); ++i) {
    if (labels[i].item<std::int64_t>() != -100) prefix = i + 1;
  }
  return prefix;
}

void expect_same_norms(const nlohmann::json& facts, const Tensors& mine) {
  const auto norms = facts["grad_norms"].get<std::map<std::string, double>>();
  EXPECT_EQ(norms.size(), mine.size());
  double largest = 0;
  for (const auto& [name, norm] : norms) largest = std::max(largest, norm);
  for (const auto& [name, norm] : norms) {
    ASSERT_TRUE(mine.contains(name)) << name;
    EXPECT_LE(std::abs(mine.at(name).norm().item<double>() - norm) / (norm + 1e-4 * largest), 2e-4) << name;
  }
}

TEST(Seq2SeqParity, logits_are_the_reference_s_at_every_position) {
  for (const fs::path& folder : models()) {
    SCOPED_TRACE(folder);
    const Expected expected = expected_of(folder);
    const auto model = language_model(folder, false);
    ASSERT_TRUE(model->check(expected.batch).ok());
    EXPECT_LE(largest_difference(logits_of(*model, expected.batch), expected.logits()), 1e-4);
  }
}

TEST(Seq2SeqParity, hidden_states_of_both_stacks_are_the_reference_s) {
  for (const fs::path& folder : models()) {
    SCOPED_TRACE(folder);
    const at::NoGradGuard no_graph;
    const Expected expected = expected_of(folder);
    std::vector<at::Tensor> hidden;
    worker::Pass pass;
    pass.hidden_states = &hidden;
    language_model(folder, false)->logits(expected.batch, pass);
    const std::int64_t tokens = expected.batch.attention_mask[0].sum().item<std::int64_t>();
    std::size_t next = 0;
    for (const std::string stack : {"encoder_hidden.", "decoder_hidden."}) {
      for (int i = 0; expected.tensors.contains(stack + std::to_string(i)); ++i) {
        SCOPED_TRACE(stack + std::to_string(i));
        ASSERT_LT(next, hidden.size());
        at::Tensor reference = expected.tensors.at(stack + std::to_string(i))[0];
        if (stack == "encoder_hidden.") reference = reference.narrow(0, 0, tokens);
        const at::Tensor mine = hidden[next++].narrow(0, 0, reference.size(0));
        EXPECT_LE(largest_difference(mine, reference), 1e-4);
      }
    }
    EXPECT_EQ(next, hidden.size());
  }
}

TEST(Seq2SeqParity, loss_and_gradients_of_all_parameters_are_the_reference_s) {
  for (const fs::path& folder : models()) {
    for (const bool shifts : {false, true}) {
      SCOPED_TRACE(folder.string() + (shifts ? ", labels shifted by the model" : ", decoder_input_ids given"));
      Expected expected = expected_of(folder);
      if (shifts) expected.batch.decoder_input_ids.reset();
      const auto model = language_model(folder, true);
      EXPECT_NEAR(loss_and_gradients(*model, expected.batch), expected.facts["loss"].get<double>(), 2e-5);
      const Tensors mine = gradients_of(worker::trained_parameters(*model));
      EXPECT_GT(expect_same_gradients(expected.tensors, mine, 3e-4), 0);
      expect_same_norms(expected.facts, mine);
    }
  }
}

TEST(Seq2SeqParity, labels_are_shifted_and_only_what_counts_is_computed) {
  for (const fs::path& folder : models()) {
    SCOPED_TRACE(folder);
    Expected expected = expected_of(folder);
    expected.batch.decoder_input_ids.reset();
    const at::Tensor logits = logits_of(*language_model(folder, false), expected.batch);
    std::vector<at::Tensor> reference;
    for (std::int64_t r = 0; r < expected.batch.labels.size(0); ++r) {
      const std::int64_t computed = counted_prefix(expected.batch.labels[r]);
      reference.push_back(expected.tensors.at("logits")[r].narrow(0, 0, computed));
    }
    EXPECT_LE(largest_difference(logits, at::cat(reference)), 1e-4);
  }
}

TEST(Seq2SeqParity, configs_as_published_load_to_the_same_model) {
  int compared = 0;
  for (const fs::path& folder : models()) {
    SCOPED_TRACE(folder);
    const Expected expected = expected_of(folder);
    const fs::path published = model_variant(folder, "published", [&](Tensors& tensors, nlohmann::json& config) {
      if (fs::exists(folder / "config_hub_style.json")) config = read_json(folder / "config_hub_style.json");
      tensors["encoder.embed_tokens.weight"] = tensors["decoder.embed_tokens.weight"] = at::ones({2, 2});
      tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = at::ones({2, 2});
    });
    EXPECT_LE(largest_difference(logits_of(*language_model(published, false), expected.batch), expected.logits()),
              1e-4);
    ++compared;
  }
  EXPECT_GT(compared, 0);
}

TEST(Seq2SeqParity, half_precision_agrees_loosely_with_fp32) {
  for (const fs::path& folder : models()) {
    const Expected expected = expected_of(folder);
    const double spread = expected.logits().abs().max().item<double>();
    const auto exact = language_model(folder, true);
    loss_and_gradients(*exact, expected.batch);
    const Tensors exact_gradients = gradients_of(worker::trained_parameters(*exact));
    for (const Precision precision : {Precision::bf16, Precision::fp16}) {
      SCOPED_TRACE(folder.string() + (precision == Precision::bf16 ? " in bf16" : " in fp16"));
      const auto model = language_model(folder, true, precision);
      const at::Tensor logits = logits_of(*model, expected.batch);
      EXPECT_LE(largest_difference(logits, expected.logits()), 0.12 * spread + 0.05);
      EXPECT_GT(largest_difference(logits, expected.logits()), 1e-5) << "computed in fp32";
      loss_and_gradients(*model, expected.batch);
      EXPECT_GT(gradient_cosine(exact_gradients, gradients_of(worker::trained_parameters(*model))), 0.9);
    }
  }
}

/// The published models have such weights: products of wo beyond 65504.
TEST(Seq2SeqParity, products_beyond_the_range_of_fp16_do_not_overflow) {
  for (const fs::path& folder : models()) {
    SCOPED_TRACE(folder);
    const Expected expected = expected_of(folder);
    const fs::path large = model_variant(folder, "large", [](Tensors& tensors, nlohmann::json&) {
      for (auto& [name, tensor] : tensors) {
        if (name.ends_with("block.0.layer.1.DenseReluDense.wo.weight")) tensor = tensor * 1e5;
      }
    });
    const at::Tensor exact = logits_of(*language_model(large, false), expected.batch);
    const at::Tensor logits = logits_of(*language_model(large, false, Precision::fp16), expected.batch);
    EXPECT_LE(largest_difference(logits, exact), 0.05 * exact.abs().max().item<double>() + 0.05);
  }
}

TEST(Seq2SeqParity, recomputed_layers_give_the_same_gradients) {
  for (const fs::path& folder : models()) {
    SCOPED_TRACE(folder);
    const at::NoGradGuard no_graph;
    const Expected expected = expected_of(folder);
    Tensors gradients[2];
    for (const bool recompute : {false, true}) {
      const auto model = language_model(folder, true);
      worker::Tape tape;
      worker::Pass pass;
      pass.tape = &tape;
      pass.recompute_layers = recompute;
      worker::backward(tape, model->loss(expected.batch, pass, 10));
      gradients[recompute] = gradients_of(worker::trained_parameters(*model));
    }
    for (const auto& [name, gradient] : gradients[0]) {
      const double scale = gradient.abs().max().item<double>() + 1e-6;
      EXPECT_LE(largest_difference(gradient, gradients[1].at(name)) / scale, 1e-4) << name;
    }
  }
}

TEST(Seq2SeqParity, dropout_does_not_depend_on_how_a_batch_is_split) {
  for (const fs::path& folder : models()) {
    SCOPED_TRACE(folder);
    const at::NoGradGuard no_graph;
    const Expected expected = expected_of(folder);
    worker::ModelOptions options;
    options.head = worker::ModelHead::language_model;
    options.model_dropout = 0.3;
    const auto model = *worker::make_model(*pretrained_of(folder), options);
    const double denominator = static_cast<double>(model->counted(expected.batch));
    const auto loss = [&](const worker::Batch& batch, std::int64_t first_row, std::int64_t step) {
      worker::Pass pass;
      pass.dropout = {true, 7, step};
      pass.first_row = first_row;
      return model->loss(batch, pass, denominator).value.item<double>();
    };
    const auto rows = [&](std::int64_t begin, std::int64_t count) {
      worker::Batch part = expected.batch;
      for (at::Tensor* tensor : {&part.input_ids, &part.attention_mask, &part.labels, &part.decoder_input_ids}) {
        *tensor = tensor->narrow(0, begin, count).contiguous();
      }
      return part;
    };
    const std::int64_t all = expected.batch.rows();
    const double whole = loss(expected.batch, 0, 0);
    EXPECT_NEAR(loss(rows(0, 1), 0, 0) + loss(rows(1, all - 1), 1, 0), whole, 1e-4);
    EXPECT_GT(std::abs(loss(expected.batch, 0, 1) - whole), 1e-3) << "another step, the same masks";
    EXPECT_GT(std::abs(expected.facts["loss"].get<double>() - whole), 1e-3) << "no dropout";
  }
}

TEST(Seq2SeqParity, a_cache_changes_no_logits_and_beams_share_a_source) {
  for (const fs::path& folder : models()) {
    SCOPED_TRACE(folder);
    const at::NoGradGuard no_graph;
    const Expected expected = expected_of(folder);
    const auto model = language_model(folder, false);
    worker::LanguageModel& decoder = *model->language_model();
    const at::Tensor reference = expected.tensors.at("logits");
    const at::Tensor ids = expected.batch.decoder_input_ids;
    // Two beams of each row, one of them two tokens ahead: row 2 r + b.
    const std::int64_t sources = ids.size(0), rows = 2 * sources, length = ids.size(1) - 2;
    worker::KeyValueCache cache;
    cache.capacity = ids.size(1);
    worker::Decoding cached{&cache, decoder.encode(expected.batch)};
    cached.source->row_of.clear();
    for (std::int64_t r = 0; r < rows; ++r) cached.source->row_of.push_back(r / 2);
    worker::Decoding whole{nullptr, cached.source};
    for (std::int64_t step = 0; step < length; ++step) {
      SCOPED_TRACE(step);
      const std::int64_t first = step == 0 ? 3 : 1;
      worker::Batch next, all;
      next.input_ids = at::zeros({rows, first}, at::kLong);
      next.attention_mask = at::ones_like(next.input_ids);
      all.input_ids = at::zeros({rows, step + 3}, at::kLong);
      all.attention_mask = at::ones_like(all.input_ids);
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t tokens = step + 1 + 2 * (r % 2);
        const at::Tensor row = ids[r / 2];
        all.input_ids[r].narrow(0, 0, tokens).copy_(row.narrow(0, 0, tokens));
        all.attention_mask[r].narrow(0, tokens, step + 3 - tokens).fill_(0);
        const std::int64_t fresh = step == 0 ? tokens : 1;
        // On the left, as a prompt may be padded.
        next.input_ids[r].narrow(0, first - fresh, fresh).copy_(row.narrow(0, tokens - fresh, fresh));
        next.attention_mask[r].narrow(0, 0, first - fresh).fill_(0);
      }
      const at::Tensor with = decoder.next_logits(next, cached), without = decoder.next_logits(all, whole);
      for (std::int64_t r = 0; r < rows; ++r) {
        const at::Tensor exact = reference[r / 2][step + 2 * (r % 2)];
        EXPECT_LE(largest_difference(with[r], exact), 1e-4) << r;
        EXPECT_LE(largest_difference(without[r], exact), 1e-4) << r;
      }
    }
    EXPECT_EQ(cache.layers.front().source.size(0), cached.source->layout->tokens());
  }
}

TEST(Seq2SeqParity, a_saved_model_loads_with_the_same_logits) {
  for (const fs::path& folder : models()) {
    SCOPED_TRACE(folder);
    const Expected expected = expected_of(folder);
    const auto model = language_model(folder, false);
    const fs::path saved = fs::path(testing::TempDir()) / ("saved_" + folder.filename().string());
    ASSERT_TRUE(worker::save_pretrained(*model, saved).ok());
    EXPECT_TRUE(
        at::equal(logits_of(*language_model(saved, false), expected.batch), logits_of(*model, expected.batch)));
    Tensors before = read_tensors(folder / "model.safetensors"), after = read_tensors(saved / "model.safetensors");
    for (const auto& [name, tensor] : before) EXPECT_TRUE(after.contains(name)) << name;
    EXPECT_EQ(before.size(), after.size());
  }
}

TEST(Seq2SeqParity, classification_is_refused) {
  const auto model = worker::make_model(*pretrained_of(models().front()), worker::ModelOptions());
  ASSERT_FALSE(model.ok());
  EXPECT_THAT(model.error().message, testing::HasSubstr("classification with it is not supported"));
}

TEST(Seq2SeqParity, ids_and_labels_that_the_model_lacks_are_refused) {
  for (const fs::path& folder : models()) {
    SCOPED_TRACE(folder);
    const auto model = language_model(folder, false);
    const std::int64_t vocabulary = model->language_model()->vocabulary();
    for (at::Tensor worker::Batch::*member :
         {&worker::Batch::input_ids, &worker::Batch::labels, &worker::Batch::decoder_input_ids}) {
      worker::Batch batch = expected_of(folder).batch;
      batch.*member = (batch.*member).clone();
      (batch.*member)[0][0] = vocabulary - 1;
      EXPECT_TRUE(model->check(batch).ok());
      (batch.*member)[0][0] = vocabulary;
      EXPECT_FALSE(model->check(batch).ok());
    }
  }
}

TEST(RelativeBuckets, are_the_reference_s) {
  const nlohmann::json expected = read_json(fixtures() / "expected" / "t5_relative_buckets.json");
  const std::int64_t from = expected["relative_position_from"], to = expected["relative_position_to"];
  int tables = 0;
  for (const nlohmann::json& table : expected["tables"]) {
    ++tables;
    SCOPED_TRACE(tables);
    for (std::int64_t distance = from; distance <= to; ++distance) {
      EXPECT_EQ(
          worker::relative_bucket(distance, table["bidirectional"], table["num_buckets"], table["max_distance"]),
          table["buckets"][static_cast<std::size_t>(distance - from)].get<std::int64_t>())
          << distance;
    }
  }
  EXPECT_GT(tables, 0);
}

}  // namespace
}  // namespace finesweep::parity
