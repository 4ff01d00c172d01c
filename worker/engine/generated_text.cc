#include "worker/engine/generated_text.h"

namespace finesweep::worker {

GenerationOptions to_options(const GenerationSettings& settings) {
  GenerationOptions options;
  options.max_new_tokens = settings.max_new_tokens;
  options.num_beams = settings.num_beams;
  options.do_sample = settings.do_sample;
  options.sampling = {settings.temperature, settings.top_k, settings.top_p};
  options.kv_cache = settings.kv_cache;
  return options;
}

std::string decode_generated(const Tokenizer& tokenizer, const std::vector<std::int64_t>& tokens) {
  const std::vector<TokenId> ids(tokens.begin(), tokens.end());
  return tokenizer.decode(ids, SpecialTokens::skip);
}

}  // namespace finesweep::worker
