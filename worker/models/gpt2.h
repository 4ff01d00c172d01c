#pragma once

#include "worker/models/decoder.h"

namespace finesweep::worker {

/// GPT-2 (https://d4mucfpksywv.cloudfront.net/better-language-models/language-models.pdf), as transformers'
/// GPT2LMHeadModel and GPT2ForSequenceClassification compute it.
extern const Family gpt2_family;

/// The Error names the key.
Result<DecoderConfig> read_gpt2_config(const Json& config);

}  // namespace finesweep::worker
