#include "jobs/state.h"

#include <array>
#include <stdexcept>
#include <utility>

namespace finesweep {

namespace {

constexpr std::array<std::pair<JobState, std::string_view>, 5> kJobStates{{{JobState::pending, "pending"},
                                                                           {JobState::running, "running"},
                                                                           {JobState::succeeded, "succeeded"},
                                                                           {JobState::failed, "failed"},
                                                                           {JobState::cancelled, "cancelled"}}};

constexpr std::array<std::pair<AttemptEnd, std::string_view>, 6> kAttemptEnds{
    {{AttemptEnd::succeeded, "succeeded"},
     {AttemptEnd::failed, "failed"},
     {AttemptEnd::interrupted, "interrupted"},
     {AttemptEnd::lost, "lost"},
     {AttemptEnd::superseded, "superseded"},
     {AttemptEnd::cancelled, "cancelled"}}};

template <typename Table, typename Value>
std::string_view name_in(const Table& table, Value wanted) {
  for (const auto& [value, name] : table)
    if (value == wanted) return name;
  throw std::logic_error("a state without a name");
}

template <typename Value, typename Table>
std::optional<Value> value_in(const Table& table, std::string_view wanted) {
  for (const auto& [value, name] : table)
    if (name == wanted) return value;
  return std::nullopt;
}

}  // namespace

std::string_view job_state_name(JobState state) {
  return name_in(kJobStates, state);
}
std::optional<JobState> parse_job_state(std::string_view name) {
  return value_in<JobState>(kJobStates, name);
}
std::string_view attempt_end_name(AttemptEnd end) {
  return name_in(kAttemptEnds, end);
}
std::optional<AttemptEnd> parse_attempt_end(std::string_view name) {
  return value_in<AttemptEnd>(kAttemptEnds, name);
}

}  // namespace finesweep
