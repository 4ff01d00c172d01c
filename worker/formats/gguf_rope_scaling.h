#pragma once

#include <cstdint>
#include <vector>

#include "jobs/json.h"
#include "jobs/result.h"
#include "worker/formats/gguf.h"

namespace finesweep::worker {

/// `rope_scaling` as config.json of a Llama model has it, or null: from the keys llama.rope.scaling.*, or from the
/// factors that converters of llama3 models leave in the tensor rope_freqs.weight. The Error names file and key.
Result<Json> rope_scaling_of(const GgufFile& file, std::int64_t head_dim, double theta, std::int64_t context);

/// The llama3 scaling that divides the rotary frequencies theta^(-2i / head_dim) by `factors` [head_dim / 2]. A
/// file does not keep its four parameters; where several sets give the same factors, the published one is
/// preferred. The Error is the reason.
Result<Json> llama3_scaling_from(const std::vector<float>& factors, std::int64_t head_dim, double theta);

}  // namespace finesweep::worker
