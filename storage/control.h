#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "jobs/json.h"
#include "jobs/result.h"

namespace finesweep::storage {

// Requests to a running sweep, from any host that sees the run directory. A request is a file
// control/<id>.request.json, put there atomically; the coordinator carries it out, puts <id>.answer.json beside it
// and removes the request. One that a coordinator died over is found again by the next: requests must bear being
// carried out twice.

struct ControlRequest {
  std::string id;    // sorts by the time it was put
  std::string kind;  // "cancel", "report"
  Json payload = Json::object();
};

/// Returns the request's id.
Result<std::string> put_request(const std::filesystem::path& control, const std::string& kind, const Json& payload);

/// Requests that are not answered, oldest first. A file that is no request is answered as such here. Cheap enough
/// to be called every second.
Result<std::vector<ControlRequest>> pending_requests(const std::filesystem::path& control);

Status answer_request(const std::filesystem::path& control, const std::string& id, const Json& answer);

/// The answer, once it is there; it is removed.
Result<std::optional<Json>> take_answer(const std::filesystem::path& control, const std::string& id);

/// Takes back a request that nobody answered.
Status withdraw_request(const std::filesystem::path& control, const std::string& id);

/// Removes answers that nobody fetched for a day, and files left half-written as long.
void tidy_control(const std::filesystem::path& control);

}  // namespace finesweep::storage
