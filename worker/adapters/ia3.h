#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "jobs/result.h"
#include "worker/adapters/adapter.h"
#include "worker/adapters/targets.h"

namespace finesweep::worker {

/// IA3 (https://arxiv.org/abs/2205.05638) as PEFT has it: a module's output, bias included, times a vector; of a
/// feed-forward module its input.
class Ia3Adapter final : public Adapter {
 public:
  /// With vectors of ones. The Error names a feed-forward target whose input cannot be scaled.
  static Result<std::unique_ptr<Ia3Adapter>> make(Model& model, AdapterOptions options,
                                                  const std::vector<Target>& targets, bool trained);
  ~Ia3Adapter() override { detach(); }

  /// One of every module: [out, 1], or of a feed-forward module [1, in].
  std::vector<Parameter*> parameters() const override;

 private:
  Ia3Adapter(Model& model, AdapterOptions options) : Adapter(model, std::move(options)) {}

  void attach() override;
  void detach() override;
  std::vector<LinearModule*> modules() const override;
  void fold_into(const LinearModule& module, const at::Tensor& weight, const at::Tensor& bias) const override;

  struct Layer {
    Target target;
    bool on_input = false;
    Parameter scale;
  };
  /// In the order of the model. The modules point into them.
  std::vector<std::unique_ptr<Layer>> layers_;
};

}  // namespace finesweep::worker
