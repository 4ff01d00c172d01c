#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "worker/generation/generate.h"

namespace finesweep::worker {

/// Greedy generation and sampling where the host only says how many steps to take: the newest tokens, their number
/// and whether a row has ended stand on the device, several steps are given to it ahead, and now and then the host
/// looks whether any row is left. On a GPU a step is captured once for a number of rows and a length, and replayed.
///
/// Rows that are done stay in the batch until all are: a step costs nearly the same with them.
class DeviceSteps {
 public:
  explicit DeviceSteps(LanguageModel& model);
  ~DeviceSteps();

  /// The model steps, and the tokens can be chosen there.
  static bool can_follow(const LanguageModel& model, const GenerationOptions& options);

  /// As Generator::generate, of prompts and options that were checked and that can_follow() allows; also on a CPU.
  std::optional<std::vector<std::vector<Generated>>> generate(const Prompts& prompts,
                                                              const GenerationOptions& options,
                                                              const std::function<bool()>& go_on = {});

 private:
  struct Session;
  Session& session_for(std::int64_t rows, std::int64_t capacity);

  LanguageModel& model_;
  std::vector<std::unique_ptr<Session>> sessions_;  // the one used last comes last
  std::vector<std::uint64_t> addresses_;            // of what captured steps read
};

}  // namespace finesweep::worker
