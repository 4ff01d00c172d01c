#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "jobs/result.h"
#include "worker/adapters/adapter.h"
#include "worker/adapters/targets.h"

namespace finesweep::worker {

/// LoRA (https://arxiv.org/abs/2106.09685) as PEFT has it: y = W x + b + scale · B A dropout(x).
class LoraAdapter final : public Adapter {
 public:
  /// With A and B of zeros. The Error names a rank that is none, or a pattern that is no expression.
  static Result<std::unique_ptr<LoraAdapter>> make(Model& model, AdapterOptions options,
                                                   const std::vector<Target>& targets, bool trained);
  ~LoraAdapter() override { detach(); }

  /// A: Kaiming-uniform, each from its own stream; B stays zero.
  void initialise(std::uint64_t seed);
  /// A and B of every module.
  std::vector<Parameter*> parameters() const override;
  /// alpha / rank or alpha / sqrt(rank), where no pattern says otherwise.
  double scale() const { return scale_of(options_.rank, options_.alpha); }

 private:
  LoraAdapter(Model& model, AdapterOptions options) : Adapter(model, std::move(options)) {}
  /// The rank and alpha of one module.
  Result<std::int64_t> rank_of(const std::string& path) const;
  Result<double> alpha_of(const std::string& path) const;
  double scale_of(std::int64_t rank, double alpha) const;

  void attach() override;
  void detach() override;
  std::vector<LinearModule*> modules() const override;
  void fold_into(const LinearModule& module, const at::Tensor& weight, const at::Tensor& bias) const override;

  struct Layer {
    Target target;
    Parameter a, b;
    double scale = 1;
  };
  /// In the order of the model. The modules point into them.
  std::vector<std::unique_ptr<Layer>> layers_;
};

}  // namespace finesweep::worker
