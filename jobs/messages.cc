#include "jobs/messages.h"

#include <utility>

namespace finesweep {

namespace {

// Numbers on the wire, one for each message; never reused.
template <typename T>
constexpr std::uint16_t kType = 0;
template <>
constexpr std::uint16_t kType<Hello> = 1;
template <>
constexpr std::uint16_t kType<Heartbeat> = 2;
template <>
constexpr std::uint16_t kType<Finished> = 3;
template <>
constexpr std::uint16_t kType<Goodbye> = 4;
template <>
constexpr std::uint16_t kType<Revoked> = 5;
template <>
constexpr std::uint16_t kType<PackGrew> = 6;
template <>
constexpr std::uint16_t kType<Welcome> = 16;
template <>
constexpr std::uint16_t kType<Dispatch> = 17;
template <>
constexpr std::uint16_t kType<Acknowledge> = 18;
template <>
constexpr std::uint16_t kType<Revoke> = 19;
template <>
constexpr std::uint16_t kType<Stop> = 20;
template <>
constexpr std::uint16_t kType<Rejoin> = 21;
template <>
constexpr std::uint16_t kType<Alive> = 22;
template <>
constexpr std::uint16_t kType<Lend> = 23;
template <>
constexpr std::uint16_t kType<RunnerReady> = 32;
template <>
constexpr std::uint16_t kType<Execute> = 33;
template <>
constexpr std::uint16_t kType<ExecuteProgress> = 34;
template <>
constexpr std::uint16_t kType<Executed> = 35;
template <>
constexpr std::uint16_t kType<StopExecution> = 36;
template <>
constexpr std::uint16_t kType<Pulse> = 37;
template <>
constexpr std::uint16_t kType<Begin> = 38;
template <>
constexpr std::uint16_t kType<LetGo> = 39;
template <>
constexpr std::uint16_t kType<HasRoom> = 40;
template <>
constexpr std::uint16_t kType<ExecuteMore> = 41;
template <>
constexpr std::uint16_t kType<Computed> = 42;

Json write(const Hello& m) {
  return {{"host", m.host},
          {"pid", m.pid},
          {"node_index", m.node_index},
          {"device", m.device},
          {"memory_mb", m.memory_mb}};
}
void read(const Json& j, Hello& m) {
  m = {j.at("host").get<std::string>(), checked_integer<int>(j.at("pid")), checked_integer<int>(j.at("node_index")),
       j.at("device").get<std::string>(), j.at("memory_mb").get<double>()};
}

Json write(const Heartbeat& m) {
  Json held = Json::array();
  for (const auto& entry : m.held) held.push_back({{"attempt", entry.attempt}, {"progress", entry.progress}});
  return {{"worker", m.worker}, {"held", std::move(held)}};
}
void read(const Json& j, Heartbeat& m) {
  m.worker = j.at("worker").get<WorkerId>();
  for (const Json& entry : j.at("held"))
    m.held.push_back({entry.at("attempt").get<AttemptKey>(), entry.at("progress").get<Progress>()});
}

Json write(const Finished& m) {
  return {{"worker", m.worker}, {"attempt", m.attempt}, {"outcome", m.outcome}, {"crashed", m.crashed}};
}
void read(const Json& j, Finished& m) {
  m = {j.at("worker").get<WorkerId>(), j.at("attempt").get<AttemptKey>(), j.at("outcome").get<Outcome>(),
       j.at("crashed").get<bool>()};
}

Json write(const Revoked& m) {
  return {{"worker", m.worker}, {"attempt", m.attempt}};
}
void read(const Json& j, Revoked& m) {
  m = {j.at("worker").get<WorkerId>(), j.at("attempt").get<AttemptKey>()};
}

Json write(const Goodbye& m) {
  return {{"worker", m.worker}};
}
void read(const Json& j, Goodbye& m) {
  m.worker = j.at("worker").get<WorkerId>();
}

Json write(const PackGrew& m) {
  return {{"worker", m.worker}, {"pack", m.pack}, {"joined", m.joined}};
}
void read(const Json& j, PackGrew& m) {
  m = {j.at("worker").get<WorkerId>(), j.at("pack").get<std::vector<AttemptKey>>(),
       j.at("joined").get<std::vector<AttemptKey>>()};
}

Json write(const Welcome& m) {
  return {{"worker", m.worker},           {"run_directory", m.run_directory},
          {"heartbeat_s", m.heartbeat_s}, {"no_progress_s", m.no_progress_s},
          {"threads", m.threads},         {"most_pack_jobs", m.most_pack_jobs}};
}
void read(const Json& j, Welcome& m) {
  m = {j.at("worker").get<WorkerId>(),        j.at("run_directory").get<std::string>(),
       j.at("heartbeat_s").get<double>(),     j.at("no_progress_s").get<double>(),
       checked_integer<int>(j.at("threads")), checked_integer<int>(j.at("most_pack_jobs"))};
}

Json write(const PackTraits& m) {
  return {{"key", m.key},
          {"tokens", m.tokens},
          {"most_tokens", m.most_tokens},
          {"shared_mb", m.shared_mb},
          {"own_mb", m.own_mb}};
}
void read(const Json& j, PackTraits& m) {
  m = {checked_integer<int>(j.at("key")), checked_integer<std::int64_t>(j.at("tokens")),
       checked_integer<std::int64_t>(j.at("most_tokens")), j.at("shared_mb").get<double>(),
       j.at("own_mb").get<double>()};
}

Json write(const Dispatch& m) {
  Json pack = Json::array();
  for (const auto& entry : m.pack) {
    Json& written =
        pack.emplace_back(Json{{"job", entry.job}, {"attempt", entry.attempt}, {"devices", entry.devices}});
    if (entry.traits.key >= 0) written["traits"] = write(entry.traits);
  }
  return {{"worker", m.worker}, {"pack", std::move(pack)}};
}
void read(const Json& j, Dispatch& m) {
  m.worker = j.at("worker").get<WorkerId>();
  for (const Json& entry : j.at("pack")) {
    m.pack.push_back({entry.at("job").get<Job>(),
                      checked_integer<AttemptNumber>(entry.at("attempt")),
                      entry.at("devices").get<std::vector<std::string>>(),
                      {}});
    if (const auto traits = entry.find("traits"); traits != entry.end()) read(*traits, m.pack.back().traits);
  }
}

Json write(const Acknowledge& m) {
  return {{"attempt", m.attempt}, {"accepted", m.accepted}};
}
void read(const Json& j, Acknowledge& m) {
  m = {j.at("attempt").get<AttemptKey>(), j.at("accepted").get<bool>()};
}

Json write(const Revoke& m) {
  return {{"attempt", m.attempt}};
}
void read(const Json& j, Revoke& m) {
  m.attempt = j.at("attempt").get<AttemptKey>();
}

Json write(const Stop&) {
  return Json::object();
}
void read(const Json&, Stop&) {}
Json write(const Rejoin&) {
  return Json::object();
}
void read(const Json&, Rejoin&) {}
Json write(const Alive&) {
  return Json::object();
}
void read(const Json&, Alive&) {}
Json write(const Lend&) {
  return Json::object();
}
void read(const Json&, Lend&) {}

Json write(const RunnerReady& m) {
  return {{"device", m.device}};
}
void read(const Json& j, RunnerReady& m) {
  m.device = j.at("device");
}

Json write(const std::vector<Execute::Member>& pack) {
  Json written = Json::array();
  for (const auto& member : pack)
    written.push_back({{"job", member.job},
                       {"attempt", member.attempt},
                       {"staging", member.staging},
                       {"artifacts", member.artifacts},
                       {"earlier_checkpoints", member.earlier_checkpoints},
                       {"log", member.log}});
  return written;
}
void read(const Json& j, std::vector<Execute::Member>& pack) {
  for (const Json& member : j)
    pack.push_back(
        {member.at("job").get<Job>(), checked_integer<AttemptNumber>(member.at("attempt")),
         member.at("staging").get<std::string>(), member.at("artifacts").get<std::map<std::string, std::string>>(),
         member.at("earlier_checkpoints").get<std::vector<std::string>>(), member.at("log").get<std::string>()});
}

Json write(const Execute& m) {
  return {{"pack", write(m.pack)}, {"threads", m.threads}, {"cache", m.cache},        {"devices", m.devices},
          {"rank", m.rank},        {"ahead", m.ahead},     {"rehearsal", m.rehearsal}};
}
void read(const Json& j, Execute& m) {
  read(j.at("pack"), m.pack);
  if (m.pack.empty()) throw std::invalid_argument("a pack of no jobs");
  m.threads = checked_integer<int>(j.at("threads"));
  m.cache = j.at("cache").get<std::string>();
  m.devices = j.at("devices").get<std::vector<std::string>>();
  m.rank = checked_integer<int>(j.at("rank"));
  m.ahead = j.at("ahead").get<bool>();
  m.rehearsal = j.at("rehearsal").get<bool>();
}

Json write(const ExecuteProgress& m) {
  return {{"attempt", m.attempt}, {"progress", m.progress}};
}
void read(const Json& j, ExecuteProgress& m) {
  m = {j.at("attempt").get<AttemptKey>(), j.at("progress").get<Progress>()};
}

Json write(const Executed& m) {
  return {
      {"attempt", m.attempt}, {"outcome", m.outcome}, {"peer_lost", m.peer_lost}, {"memory_share", m.memory_share}};
}
void read(const Json& j, Executed& m) {
  m = {j.at("attempt").get<AttemptKey>(), j.at("outcome").get<Outcome>(), j.at("peer_lost").get<bool>(),
       j.at("memory_share").get<double>()};
}

Json write(const StopExecution& m) {
  return {{"attempts", m.attempts}};
}
void read(const Json& j, StopExecution& m) {
  m.attempts = j.at("attempts").get<std::vector<AttemptKey>>();
}
Json write(const Pulse&) {
  return Json::object();
}
void read(const Json&, Pulse&) {}
Json write(const Begin&) {
  return Json::object();
}
void read(const Json&, Begin&) {}
Json write(const LetGo&) {
  return Json::object();
}
void read(const Json&, LetGo&) {}
Json write(const HasRoom&) {
  return Json::object();
}
void read(const Json&, HasRoom&) {}
Json write(const Computed&) {
  return Json::object();
}
void read(const Json&, Computed&) {}
Json write(const ExecuteMore& m) {
  return {{"pack", write(m.pack)}};
}
void read(const Json& j, ExecuteMore& m) {
  read(j.at("pack"), m.pack);
}

/// Tries the alternatives of Message one after the other until one has the frame's type.
template <std::size_t index = 0>
Message read_as(std::uint16_t type, const Json& json) {
  if constexpr (index == std::variant_size_v<Message>) {
    throw std::invalid_argument("unknown message type " + std::to_string(type));
  } else {
    using Alternative = std::variant_alternative_t<index, Message>;
    static_assert(kType<Alternative> != 0);
    if (type != kType<Alternative>) return read_as<index + 1>(type, json);
    Alternative message;
    read(json, message);
    return message;
  }
}

}  // namespace

Bytes encode(const Message& message) {
  return std::visit(
      [](const auto& m) { return encode_frame(kType<std::decay_t<decltype(m)>>, Json::to_cbor(write(m))); },
      message);
}

Result<Message> decode(const Frame& frame) {
  const auto json = parse_cbor(frame.payload);
  if (!json) return Error{"a message that cannot be read: " + json.error().message};
  try {
    return read_as(frame.type, *json);
  } catch (const std::exception& e) {
    return Error{std::string("a message that cannot be read: ") + e.what()};
  }
}

Result<Message> decode(const std::uint8_t* data, std::size_t bytes) {
  auto frame = decode_frame(data, bytes);
  if (!frame) return frame.error();
  return decode(*frame);
}

}  // namespace finesweep
