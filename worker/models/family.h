#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/json.h"
#include "jobs/result.h"
#include "worker/models/model.h"
#include "worker/models/pretrained.h"

namespace finesweep::worker {

/// What the loader must know of a model family. To add one: a header and a source that define its Family, a line in
/// family.cc, a fixture.
struct Family {
  std::string_view model_type;
  /// The Parameters that a config describes, in the order of the model. The Error names the key of the config that
  /// is missing, ill-typed, or asks for something that is not supported.
  Result<std::vector<WeightSpec>> (*weights)(const Json& config);
  /// The name that `weights` uses for a tensor of the files, under whichever older name or prefix it stands there;
  /// empty for one that published files carry and the model does not need.
  std::string (*canonical_name)(std::string_view file_name, const Json& config);
  /// The Error says which option does not fit the model, a head that the family does not have, say.
  Result<std::unique_ptr<Model>> (*make)(std::shared_ptr<const Pretrained>, const ModelOptions&);
  /// A classification's head reads the last token that is not the config's pad_token_id.
  bool pools_last_token = false;
};

/// Null where there is no such family.
const Family* find_family(std::string_view model_type);
std::vector<std::string_view> family_names();

/// Reads one key of a config.json; the Error says which key and what was expected.
Result<std::int64_t> config_integer(const Json& config, const char* key);
Result<std::int64_t> config_integer(const Json& config, const char* key, std::int64_t otherwise);
Result<bool> config_boolean(const Json& config, const char* key, bool otherwise);
/// One of the activations of transformers' ACT2FN by name.
Result<Activation> config_activation(const Json& config, const char* key, const char* otherwise);
Result<double> config_number(const Json& config, const char* key, double otherwise);

}  // namespace finesweep::worker
