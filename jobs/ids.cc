#include "jobs/ids.h"

#include <algorithm>
#include <stdexcept>

#include "jobs/sha256.h"

namespace finesweep {

JobId JobId::of(std::string_view canonical) {
  const Sha256Digest digest = sha256(canonical);
  JobId id;
  std::copy_n(digest.begin(), id.bytes_.size(), id.bytes_.begin());
  return id;
}

Result<JobId> JobId::parse(std::string_view hex) {
  auto nibble = [](char c) -> int {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
  };
  JobId id;
  bool valid = hex.size() == id.bytes_.size() * 2;
  for (std::size_t i = 0; valid && i < id.bytes_.size(); ++i) {
    const int high = nibble(hex[2 * i]), low = nibble(hex[2 * i + 1]);
    valid = high >= 0 && low >= 0;
    id.bytes_[i] = static_cast<std::uint8_t>(high * 16 + low);
  }
  if (!valid) return Error{std::string("'").append(hex).append("' is no job id: expected 32 hex digits")};
  return id;
}

std::string JobId::hex() const {
  return to_hex(bytes_.data(), bytes_.size());
}

void to_json(Json& json, const JobId& id) {
  json = id.hex();
}
void from_json(const Json& json, JobId& id) {
  auto parsed = JobId::parse(json.get<std::string>());
  if (!parsed) throw std::invalid_argument(parsed.error().message);
  id = *parsed;
}

void to_json(Json& json, const WorkerId& id) {
  json = Json::array({id.rank, id.incarnation});
}
void from_json(const Json& json, WorkerId& id) {
  id.rank = checked_integer<std::int32_t>(json.at(0));
  id.incarnation = checked_integer<std::int32_t>(json.at(1));
}
std::string to_string(const WorkerId& id) {
  std::string text = std::to_string(id.rank);
  if (id.incarnation > 1) text.append("/").append(std::to_string(id.incarnation));
  return text;
}

void to_json(Json& json, const AttemptKey& key) {
  json = Json{{"job", key.job}, {"attempt", key.number}};
}
void from_json(const Json& json, AttemptKey& key) {
  key.job = json.at("job").get<JobId>();
  key.number = checked_integer<AttemptNumber>(json.at("attempt"));
}

}  // namespace finesweep
