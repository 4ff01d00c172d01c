#include "jobs/runner_environment.h"

#include <utility>

extern char** environ;

namespace finesweep {

RunnerEnvironment::RunnerEnvironment(const std::string& device) : device_(device == "cpu" ? "cpu" : "cuda:0") {
  const bool gpu = device.starts_with("cuda:");
  for (char** entry = environ; *entry; ++entry)
    if (std::string text = *entry; !gpu || !text.starts_with("CUDA_VISIBLE_DEVICES="))
      entries_.push_back(std::move(text));
  if (gpu) entries_.push_back("CUDA_VISIBLE_DEVICES=" + device.substr(5));
  for (std::string& entry : entries_) pointers_.push_back(entry.data());
  pointers_.push_back(nullptr);
}

}  // namespace finesweep
