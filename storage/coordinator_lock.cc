#include "storage/coordinator_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <random>
#include <sstream>
#include <system_error>
#include <thread>
#include <utility>

#include "jobs/crash_point.h"
#include "jobs/json.h"
#include "storage/files.h"
#include "storage/posix.h"
#include "storage/process_start.h"

namespace finesweep::storage {

namespace fs = std::filesystem;

namespace {

// Written in place, since flock() holds on to the file itself, and at a fixed length, so that one write replaces
// it.
constexpr std::size_t kRecordBytes = 1024;
constexpr int kReadsOfATornRecord = 3;
constexpr std::int64_t kWatchStepMs = 500;
/// Without flock(), two that start at once both write; after this long the last one stands.
constexpr std::int64_t kSettleMs = 1000;

std::string first_line(const fs::path& path) {
  const Result<std::string> text = read_file(path);
  return text ? text->substr(0, text->find('\n')) : std::string();
}

bool is_alive(const LockHolder& holder) {
  return start_time_of(holder.pid) == holder.start_time;
}

std::string record_of(const LockHolder& holder) {
  std::string text = Json{
      {"host", holder.host},
      {"boot_id", holder.boot_id},
      {"pid_namespace", holder.pid_namespace},
      {"pid", holder.pid},
      {"start_time", holder.start_time},
      {"slurm_job", holder.slurm_job},
      {"heartbeat_ms", holder.heartbeat_ms},
      {"token",
       holder.token}}.dump(-1, ' ', false, Json::error_handler_t::replace);
  text.resize(std::max(kRecordBytes, text.size() + 1), ' ');
  text.back() = '\n';
  return text;
}

std::optional<LockHolder> parse_record(const std::string& text) {
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("token")) return std::nullopt;
  try {
    return LockHolder{json.at("host").get<std::string>(),          json.at("boot_id").get<std::string>(),
                      json.at("pid_namespace").get<std::string>(), json.at("pid").get<int>(),
                      json.at("start_time").get<std::uint64_t>(),  json.at("slurm_job").get<std::string>(),
                      json.at("heartbeat_ms").get<std::int64_t>(), json.at("token").get<std::string>()};
  } catch (const Json::exception&) {
    return std::nullopt;
  }
}

std::string new_token() {
  std::random_device random;
  std::ostringstream token;
  token << std::hex << random() << random();
  return token.str();
}

Error refused(const RunDirectory& run, const std::optional<LockHolder>& holder, const std::string& why) {
  std::string who = "another process";
  if (holder) {
    who = "process " + std::to_string(holder->pid) + " on " + holder->host;
    if (!holder->slurm_job.empty()) who += " (Slurm job " + holder->slurm_job + ")";
  }
  return Error{run.path().string() + " is in use by " + who + why};
}

enum class Flock { held, refused, unsupported };

Flock try_flock(int fd) {
  for (;;) {
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return Flock::held;
    if (errno == EINTR) continue;
    return errno == EWOULDBLOCK ? Flock::refused : Flock::unsupported;
  }
}

/// The holder on another host does not renew its heartbeat: nullopt; else what it says.
std::optional<std::string> sign_of_life(const RunDirectory& run, const LockHolder& holder,
                                        const LockOptions& options) {
  const std::int64_t age_ms = options.now_ms() - holder.heartbeat_ms;
  if (age_ms < options.dead_after_ms) {
    const std::int64_t wait_s = (options.dead_after_ms - std::max<std::int64_t>(age_ms, 0)) / 1000 + 1;
    return "; if it is dead, try again in " + std::to_string(wait_s) + " s";
  }
  for (std::int64_t watched = 0; watched < options.watch_ms; watched += kWatchStepMs) {
    options.wait(kWatchStepMs);
    const auto now = read_lock(run);
    if (!now || now->token != holder.token || now->heartbeat_ms != holder.heartbeat_ms)
      return ", whose clock differs from ours";
  }
  return std::nullopt;
}

}  // namespace

struct CoordinatorLock::Impl {
  RunDirectory run;
  LockOptions options;
  Descriptor file;
  std::optional<LockHolder> taken_from;

  Status write(const std::string& text) const {
    crash_point("lock.before_write");
    if (!write_all_at(file.get(), text, 0)) return system_error("write", run.lock_file());
    crash_point("lock.written");
    if (::ftruncate(file.get(), static_cast<off_t>(text.size())) != 0 || ::fsync(file.get()) != 0)
      return system_error("write", run.lock_file());
    crash_point("lock.synced");
    return {};
  }

  bool is_ours() const {
    const auto holder = read_lock(run);
    return holder && holder->token == options.self.token;
  }

  Status renew() {
    options.self.heartbeat_ms = options.now_ms();
    return write(record_of(options.self));
  }
};

LockHolder describe_this_process() {
  LockHolder self;
  char host[256] = "";
  ::gethostname(host, sizeof host - 1);
  self.host = host;
  self.boot_id = first_line("/proc/sys/kernel/random/boot_id");
  std::error_code ignored;
  self.pid_namespace = fs::read_symlink("/proc/self/ns/pid", ignored).string();
  self.pid = ::getpid();
  self.start_time = start_time_of(::getpid()).value_or(0);
  if (const char* job = std::getenv("SLURM_JOB_ID")) self.slurm_job = job;
  self.token = new_token();
  return self;
}

std::optional<LockHolder> read_lock(const RunDirectory& run) {
  for (int reads = 0; reads < kReadsOfATornRecord; ++reads) {
    const Result<std::string> text = read_file(run.lock_file());
    if (!text || text->empty()) return std::nullopt;
    if (auto holder = parse_record(*text)) return holder;
    if (Json::accept(*text)) return std::nullopt;  // whole, and says that nobody holds it
  }
  return std::nullopt;
}

Result<CoordinatorLock> CoordinatorLock::acquire(const RunDirectory& run) {
  return acquire(run, LockOptions());
}

Result<CoordinatorLock> CoordinatorLock::acquire(const RunDirectory& run, LockOptions options) {
  if (!options.now_ms)
    options.now_ms = [] {
      const auto now = std::chrono::system_clock::now().time_since_epoch();
      return static_cast<std::int64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(now).count());
    };
  if (!options.wait)
    options.wait = [](std::int64_t ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); };

  auto impl = std::make_unique<Impl>(Impl{run, std::move(options), Descriptor(), std::nullopt});
  const LockOptions& with = impl->options;
  impl->file = open_file(run.lock_file(), O_RDWR | O_CREAT);
  if (!impl->file.ok()) return system_error("open", run.lock_file());
  const Flock flock = try_flock(impl->file.get());
  const auto holder = read_lock(run);
  if (flock == Flock::refused)
    return refused(run, holder, "; wait for it, or stop it, or choose another folder with --out");

  if (holder) {
    const bool same_kernel = holder->boot_id == with.self.boot_id && !holder->boot_id.empty();
    if (same_kernel && holder->pid_namespace == with.self.pid_namespace) {
      if (is_alive(*holder))
        return refused(run, holder, "; wait for it, or stop it, or choose another folder with --out");
    } else if (!(same_kernel && flock == Flock::held)) {
      if (const auto alive = sign_of_life(run, *holder, with)) return refused(run, holder, *alive);
    }
    impl->taken_from = holder;
  }

  if (Status written = impl->renew(); !written) {
    (void)impl->write("{}\n");  // what was written of it must not look like a living holder when we try again
    return written.error();
  }
  if (flock == Flock::unsupported) with.wait(kSettleMs);
  if (!impl->is_ours()) return refused(run, read_lock(run), ", which started at the same time");
  return CoordinatorLock(std::move(impl));
}

CoordinatorLock::CoordinatorLock(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CoordinatorLock::CoordinatorLock(CoordinatorLock&&) noexcept = default;
CoordinatorLock& CoordinatorLock::operator=(CoordinatorLock&& other) noexcept {
  release();
  impl_ = std::move(other.impl_);
  return *this;
}
CoordinatorLock::~CoordinatorLock() {
  release();
}

Status CoordinatorLock::heartbeat() {
  if (impl_->is_ours()) return impl_->renew();
  const auto holder = read_lock(impl_->run);
  if (!holder)
    return Error{impl_->run.lock_file().string() + " was removed or overwritten; this coordinator stops"};
  return refused(impl_->run, holder, ", which took it over; this coordinator stops");
}

void CoordinatorLock::release() {
  if (!impl_) return;
  if (impl_->is_ours()) (void)impl_->write("{}\n");  // where it fails, the next one finds a dead holder
  impl_.reset();
}

const std::optional<LockHolder>& CoordinatorLock::taken_from() const {
  return impl_->taken_from;
}

}  // namespace finesweep::storage
