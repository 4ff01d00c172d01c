#include "sweeps/describe.h"

namespace finesweep::sweeps {

namespace {

constexpr std::string_view kClassification =
    R"YAML(# LoRA against full fine-tuning of a classifier. See what it means with `finesweep plan`, start it with `finesweep run`.
# Every setting and its default: docs/settings.md.

name: my-first-sweep
model: models/bert                  # a Hugging Face directory with safetensors weights
task: classification
data:
  train: data/train.jsonl           # or .csv, .tsv; relative to this file
  validation: data/validation.jsonl
  test: data/test.jsonl
  fields: {text: text, label: label}     # a pair: {text_a: …, text_b: …, label: …}
  # limit: {train: 2000}            # a first try on fewer rows

pipeline:
  - finetune:
      method: lora                  # full, lora, qlora, ia3
      rank: 8
      alpha: 16
      epochs: 3
      batch_size: 16
      sequence_length: 128
      learning_rate: 5.0e-4
      evaluate_every: epoch         # a curve in history.csv
  - evaluate: {name: validation, split: validation}
  - evaluate: {name: test, split: test}

sweep:
  axes:                             # every combination of the axes is trained
    - finetune.learning_rate: [5.0e-4, 2.0e-3]
    - finetune.rank:  [4, 8, 16]    # keys of one axis vary together
      finetune.alpha: [8, 16, 32]
  include:                          # and this one
    - {label: Full fine-tuning, finetune.method: full, finetune.learning_rate: 5.0e-5}
  repeats: 3                        # with other seeds, for the spread

report:
  select: validation.accuracy       # chooses the best
  metric: test.accuracy             # is shown
  baseline: {label: Full fine-tuning}
)YAML";

}  // namespace

const std::vector<Starter>& starters() {
  static const std::vector<Starter> all{
      {"classification", "LoRA in several sizes against full fine-tuning of a text classifier", kClassification}};
  return all;
}

Result<std::string> starter_text(std::string_view name) {
  std::string known;
  for (const Starter& starter : starters()) {
    if (starter.name == name) return std::string(starter.text);
    known += (known.empty() ? "" : ", ") + std::string(starter.name);
  }
  return Error{"no template '" + std::string(name) + "'; there is " + known};
}

}  // namespace finesweep::sweeps
