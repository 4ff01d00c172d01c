#pragma once

#include <string>

#include "jobs/json.h"
#include "jobs/result.h"
#include "worker/adapters/adapter.h"

namespace finesweep::worker {

/// What an adapter_config.json asks for.
struct PeftConfig {
  AdapterOptions options;
  /// The file of weights holds the model's head too.
  bool saves_head = false;
};

/// Reads an adapter_config.json of PEFT. The Error names the key: one that makes it anything else than plain LoRA
/// or IA3, or that does not fit the model.
Result<PeftConfig> read_peft_config(const Model& model, const Json& config);

/// The adapter_config.json of an adapter: the keys that PEFT has had for long. PEFT gives the others, which it
/// writes too, the same values that it writes.
Json peft_config(const Adapter& adapter, const std::string& base_model);

}  // namespace finesweep::worker
