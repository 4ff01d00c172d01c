#pragma once

#include <ATen/Functions.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <vector>

#include "tests/parity/fixtures.h"
#include "tests/parity/models.h"
#include "worker/models/family.h"
#include "worker/models/language_model.h"
#include "worker/models/model.h"

namespace finesweep::parity {

/// The folder of every model of tests/fixtures whose family the engine has.
inline std::vector<std::filesystem::path> every_model() {
  std::vector<std::filesystem::path> models;
  for (const std::filesystem::path& folder : folders_in(repository_fixtures() / "models")) {
    const nlohmann::json config = read_json(folder / "config.json");
    if (worker::find_family(config.value("model_type", "")) != nullptr) models.push_back(folder);
  }
  EXPECT_FALSE(models.empty());
  return models;
}

/// Two rows of unequal length that every model takes.
inline worker::Batch some_batch(worker::Model& model) {
  worker::Batch batch;
  batch.input_ids = at::arange(7, 7 + 2 * 9, at::kLong).view({2, 9}).contiguous();
  batch.attention_mask = at::ones({2, 9}, at::kLong);
  batch.attention_mask[1].narrow(0, 6, 3).zero_();
  batch.row_indices = {0, 1};
  if (model.language_model() == nullptr) {
    batch.labels = at::zeros({2}, at::kLong);
  } else {
    batch.labels = batch.input_ids.clone();
    batch.decoder_input_ids = batch.input_ids.narrow(1, 0, 5).contiguous();
  }
  return batch;
}

}  // namespace finesweep::parity
