#pragma once

#include "worker/models/decoder.h"

namespace finesweep::worker {

/// Llama (https://arxiv.org/abs/2302.13971, https://arxiv.org/abs/2407.21783) and models of its type (SmolLM2,
/// TinyLlama), as transformers' LlamaForCausalLM and LlamaForSequenceClassification compute it.
extern const Family llama_family;

/// The Error names the key.
Result<DecoderConfig> read_llama_config(const Json& config);

}  // namespace finesweep::worker
