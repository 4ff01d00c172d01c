#include "storage/control.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <random>
#include <system_error>

#include "jobs/crash_point.h"
#include "storage/files.h"
#include "storage/posix.h"

namespace finesweep::storage {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kRequest = ".request.json";
constexpr std::string_view kAnswer = ".answer.json";
constexpr std::uintmax_t kMaxRequestBytes = 1 << 20;
constexpr auto kAnswerKept = std::chrono::hours(24);

std::string new_id() {
  const auto now =
      std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count();
  std::random_device random;
  char id[64];
  std::snprintf(id, sizeof id, "%014lld-%08x%08x", static_cast<long long>(now), random(), random());
  return id;
}

bool is_id(const std::string& id) {
  return !id.empty() && id.size() <= 64 &&
         std::ranges::all_of(id, [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_'; });
}

fs::path request_path(const fs::path& control, const std::string& id) {
  return control / (id + std::string(kRequest));
}
fs::path answer_path(const fs::path& control, const std::string& id) {
  return control / (id + std::string(kAnswer));
}

Status remove_file(const fs::path& path) {
  std::error_code failure;
  fs::remove(path, failure);
  if (failure) return system_error("remove", path, failure.value());
  return {};
}

Result<ControlRequest> read_request(const fs::path& path, const std::string& id) {
  std::error_code failure;
  if (!fs::is_regular_file(fs::symlink_status(path, failure))) return Error{"a request must be a plain file"};
  if (fs::file_size(path, failure) > kMaxRequestBytes) return Error{"the request is larger than 1 MiB"};
  const Result<std::string> text = read_file(path);
  if (!text) return text.error();
  const Result<Json> json = parse_json(*text, "the request");
  if (!json) return json.error();
  try {
    return ControlRequest{id, json->at("kind").get<std::string>(), json->at("payload")};
  } catch (const std::exception& e) {
    return Error{std::string("the request lacks something: ") + e.what()};
  }
}

}  // namespace

Result<std::string> put_request(const fs::path& control, const std::string& kind, const Json& payload) {
  const std::string id = new_id();
  std::string text;
  try {
    text = Json{{"kind", kind}, {"payload", payload}}.dump();
  } catch (const std::exception& e) {
    return Error{std::string("cannot write the request: ") + e.what()};
  }
  if (Status written = write_file_atomically(request_path(control, id), text); !written) return written.error();
  return id;
}

Result<std::vector<ControlRequest>> pending_requests(const fs::path& control) {
  std::vector<std::string> ids;
  std::error_code failure;
  fs::directory_iterator entries(control, failure);
  for (; !failure && entries != fs::directory_iterator(); entries.increment(failure)) {
    const std::string name = entries->path().filename().string();
    if (!name.ends_with(kRequest)) continue;
    const std::string id = name.substr(0, name.size() - kRequest.size());
    if (is_id(id)) ids.push_back(id);
  }
  if (failure) return system_error("list", control, failure.value());
  std::ranges::sort(ids);

  std::vector<ControlRequest> requests;
  for (const std::string& id : ids) {
    if (fs::exists(answer_path(control, id), failure)) {  // its coordinator died before it removed the request
      if (Status removed = remove_file(request_path(control, id)); !removed) return removed.error();
      continue;
    }
    Result<ControlRequest> request = read_request(request_path(control, id), id);
    if (request) {
      requests.push_back(std::move(*request));
    } else if (!fs::exists(fs::symlink_status(request_path(control, id), failure))) {
      continue;  // withdrawn meanwhile
    } else if (Status told = answer_request(control, id, {{"error", request.error().message}}); !told) {
      return told.error();
    }
  }
  return requests;
}

Status answer_request(const fs::path& control, const std::string& id, const Json& answer) {
  if (!is_id(id)) return Error{"'" + id + "' is no id of a request"};
  const std::string text = answer.dump(-1, ' ', false, Json::error_handler_t::replace);
  crash_point("control.before_answer");
  if (Status written = write_file_atomically(answer_path(control, id), text); !written) return written;
  crash_point("control.answered");
  const Status removed = remove_file(request_path(control, id));
  crash_point("control.done");
  return removed;
}

Result<std::optional<Json>> take_answer(const fs::path& control, const std::string& id) {
  if (!is_id(id)) return Error{"'" + id + "' is no id of a request"};
  const fs::path path = answer_path(control, id);
  std::error_code failure;
  if (!fs::exists(path, failure)) return std::optional<Json>();
  const Result<std::string> text = read_file(path);
  if (!text) return text.error();
  Result<Json> json = parse_json(*text, path.string());
  if (!json) return json.error();
  if (Status removed = remove_file(path); !removed) return removed.error();
  return std::optional<Json>(std::move(*json));
}

Status withdraw_request(const fs::path& control, const std::string& id) {
  if (!is_id(id)) return Error{"'" + id + "' is no id of a request"};
  return remove_file(request_path(control, id));
}

void tidy_control(const fs::path& control) {
  std::error_code ignored;
  const auto now = fs::file_time_type::clock::now();
  for (fs::directory_iterator entries(control, ignored), end; !ignored && entries != end;
       entries.increment(ignored)) {
    const std::string name = entries->path().filename().string();
    if (!name.ends_with(kAnswer) && name.find(".tmp-") == std::string::npos) continue;
    std::error_code gone;
    const auto written = fs::last_write_time(entries->path(), gone);
    if (!gone && now - written > kAnswerKept) fs::remove(entries->path(), gone);
  }
}

}  // namespace finesweep::storage
