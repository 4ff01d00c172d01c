#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>

#include "worker/kernels/parameter.h"

namespace finesweep::worker {

/// What PEFT puts before the path of a module.
inline constexpr const char* kPeftPrefix = "base_model.model.";

/// A parameter of an adapter: `master` in fp32 even where it is not trained, since files and merging read it.
inline Parameter adapter_parameter(std::string name, at::Tensor value, at::ScalarType type, bool trained) {
  Parameter parameter;
  parameter.parts.push_back({std::move(name), value.size(0)});
  parameter.value = std::move(value);
  if (trained) {
    parameter.train(type);
  } else {
    parameter.master = parameter.value;
    parameter.value = parameter.master.to(type);
  }
  return parameter;
}

}  // namespace finesweep::worker
