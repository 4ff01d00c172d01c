#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "worker/models/family.h"
#include "worker/models/model.h"
#include "worker/models/pretrained.h"

namespace finesweep::worker {

/// The list of a family's Parameters, written down in the order of the model.
class WeightSpecs {
 public:
  void table(const std::string& path, std::int64_t rows, std::int64_t width);
  /// `path`.weight, and .bias for a LayerNorm.
  void norm(const std::string& path, std::int64_t width, NormKind kind = NormKind::layer);

  struct Linear {
    bool bias = true;
    /// GPT-2's Conv1D: files hold [in, out].
    bool transposed = false;
    /// Inside the transformer layers: see WeightSpec.
    bool quantizable = true;
    bool optional = false;
    bool head = false;
    bool overflows_fp16 = false;
  };
  /// Modules of `out` outputs each, stacked in this order.
  void linear(const std::vector<std::string>& paths, std::int64_t out, std::int64_t in, const Linear& how);
  void linear(const std::vector<std::string>& paths, std::int64_t out, std::int64_t in) {
    linear(paths, out, in, Linear());
  }
  /// The same of different numbers of outputs.
  void linear(const std::vector<std::string>& paths, const std::vector<std::int64_t>& outs, std::int64_t in,
              const Linear& how);
  void add(WeightSpec spec) { specs_.push_back(std::move(spec)); }

  std::vector<WeightSpec> take() { return std::move(specs_); }

 private:
  std::vector<WeightSpec> specs_;
};

/// A model's own view of its weights: frozen ones share memory with the Pretrained, trained ones are private. The
/// Parameters keep their addresses for the life of the model. Modules are found by the path of their first part.
class ModelWeights {
 public:
  ModelWeights(const Pretrained& pretrained, at::ScalarType compute_type);

  /// Null where the files have no such tensor.
  Parameter* find(std::string_view name);
  /// The modules. A linear module without bias tensors has none; a norm without bias neither.
  LinearModule linear(std::vector<std::string> paths);
  NormModule norm(const std::string& path, double epsilon, NormKind kind = NormKind::layer);
  Parameter* table(const std::string& path) { return find(path + ".weight"); }

  /// A head's tensor that the files do not have: a matrix from N(0, deviation) by the weight's own random stream, a
  /// bias 0. Call before adopt().
  void make_head(const std::string& name, std::vector<std::int64_t> shape, double deviation, std::uint64_t seed);

  /// Leaves out what this model does not use: a head for another task.
  void drop(std::string_view name);

  /// Trains what the options say and brings the rest to the compute type, or to what the family says of it.
  /// `is_unused` names tensors that no output depends on: they are left as they are.
  void adopt(const ModelOptions& options, const std::function<bool(std::string_view name)>& is_unused = {});

  /// Those that are there, in the order of the model.
  std::vector<Parameter*> parameters();

 private:
  struct Kind {
    bool head = false;
    at::ScalarType type = at::kFloat;
  };
  std::vector<Parameter> weights_;
  std::vector<Kind> kinds_;
  std::unordered_map<std::string, std::size_t> index_;
  c10::Device device_;
};

/// fp32, bf16 or fp16: what hidden states have.
at::ScalarType scalar_type_of(Precision precision);

}  // namespace finesweep::worker
