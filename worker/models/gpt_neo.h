#pragma once

#include "worker/models/decoder.h"

namespace finesweep::worker {

/// GPT-Neo (https://doi.org/10.5281/zenodo.5297715), as transformers' GPTNeoForCausalLM and
/// GPTNeoForSequenceClassification compute it: GPT-2 with unscaled attention that in every other layer reaches no
/// further than a window.
extern const Family gpt_neo_family;

/// The Error names the key.
Result<DecoderConfig> read_gpt_neo_config(const Json& config);

}  // namespace finesweep::worker
