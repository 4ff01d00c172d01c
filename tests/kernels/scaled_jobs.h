#pragma once

#include <ATen/Functions.h>
#include <c10/core/Device.h>

#include <memory>
#include <vector>

#include "tests/kernels/support.h"
#include "worker/training/scale_groups.h"

namespace finesweep::worker {

/// A linear module, and the IA3 of three jobs on it: on parts of its output, on its input, or on both.
struct ScaledJobs {
  static constexpr std::int64_t kIn = 24, kOut = 44, kPart = 20;  // the second part is 24 wide

  struct Job {
    std::vector<std::unique_ptr<Parameter>> scales;
    LinearModule module;
  };
  Parameter weight, bias;
  std::vector<Job> jobs;
  LinearModule host;

  ScaledJobs(at::ScalarType type, c10::Device device) : jobs(3) {
    weight = parameter((numbers({kOut, kIn}, 1) / 3).to(device), type, false);
    bias = parameter(numbers({kOut}, 2).to(device), type, false);
    host.weight = &weight;
    host.bias = &bias;
    for (std::size_t j = 0; j < 3; ++j) {
      Job& job = jobs[j];
      job.module.weight = &weight;
      job.module.bias = &bias;
      const auto scale = [&](std::vector<std::int64_t> shape, bool on_input, std::int64_t begin) {
        const int salt = static_cast<int>(10 + 10 * j + job.scales.size());
        job.scales.push_back(std::make_unique<Parameter>(parameter(numbers(shape, salt).to(device), type, true)));
        job.module.scales.push_back({job.scales.back().get(), on_input, begin});
      };
      if (j != 2) scale({kPart, 1}, false, 0);
      if (j != 0) scale({kOut - kPart, 1}, false, kPart);
      if (j != 1) scale({1, kIn}, true, 0);
    }
  }

  std::vector<LinearModule*> host_modules() { return {&host}; }
  std::vector<std::vector<LinearModule*>> job_modules() {
    return {{&jobs[0].module}, {&jobs[1].module}, {&jobs[2].module}};
  }

  struct Result {
    at::Tensor y, dx;
  };
  /// Through `module`; gradients of scales arrive where the module's parameters have them.
  static Result run(const LinearModule& module, const at::Tensor& x, const at::Tensor& dy, const Layout& layout,
                    Activation activation) {
    Tape tape;
    const Var input = tape.track(x);
    const Var y = linear(&tape, input, module, layout, {}, activation);
    y.slot->add(dy.clone());
    const at::Tensor value = y.value.clone();
    tape.backward();
    return {value, input.slot->grad};
  }
};

}  // namespace finesweep::worker
