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

enum class WeightRole { table, matrix, bias, norm };

/// One Parameter of a family: tensors of the files, all of one shape, stacked along dimension 0.
struct WeightSpec {
  std::vector<std::string> names;
  /// Of each tensor. -1: any size (the labels of a head).
  std::vector<std::int64_t> shape;
  WeightRole role = WeightRole::matrix;
  /// May be absent from the files: a head, which is initialised, or what not every use of the model needs.
  bool optional = false;
  /// Kept in fp32 and made anew for every model.
  bool head = false;
};

/// What the loader must know of a model family. To add one: a header and a source that define its Family, a line in
/// family.cc, a fixture.
struct Family {
  std::string_view model_type;
  /// The Parameters that a config describes, in the order of the model. The Error names the key of the config that
  /// is missing, ill-typed, or asks for something that is not supported.
  Result<std::vector<WeightSpec>> (*weights)(const Json& config);
  /// The name that `weights` uses for a tensor of the files, under whichever older name or prefix it stands there;
  /// empty for one that published files carry and the model does not need.
  std::string (*canonical_name)(std::string_view file_name);
  Result<std::unique_ptr<Model>> (*make_classifier)(std::shared_ptr<const Pretrained>, const ClassifierOptions&);
};

/// Null where there is no such family.
const Family* find_family(std::string_view model_type);
std::vector<std::string_view> family_names();

/// Reads one key of a config.json; the Error says which key and what was expected.
Result<std::int64_t> config_integer(const Json& config, const char* key);
Result<double> config_number(const Json& config, const char* key, double otherwise);

}  // namespace finesweep::worker
