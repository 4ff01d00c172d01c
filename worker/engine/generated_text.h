#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "jobs/settings.h"
#include "worker/generation/generate.h"
#include "worker/tokenizers/tokenizer.h"

namespace finesweep::worker {

/// Without what ends a row and what seeds the draws.
GenerationOptions to_options(const GenerationSettings& settings);

/// Special tokens, the one at the end included, are left out.
std::string decode_generated(const Tokenizer& tokenizer, const std::vector<std::int64_t>& tokens);

}  // namespace finesweep::worker
