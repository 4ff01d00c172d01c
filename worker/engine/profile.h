#pragma once

#include <ATen/record_function.h>
#include <c10/core/Device.h>
#include <c10/core/Event.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "jobs/json.h"
#include "jobs/result.h"
#include "worker/kernels/profile_scope.h"

namespace finesweep::worker {

inline constexpr const char* profile_file = "profile.json";
inline constexpr const char* trace_file = "trace.json";

/// Where the time of some calls goes, by groups of operations, and when each ran.
///
/// Time on the host is that of the thread that runs the job; each scope's own time, without that of the scopes
/// within it, counts for its group, so the groups sum to the whole. On a GPU each scope also marks the stream where
/// it begins and ends: time on the device is that between the marks, in which a device that waits for the host
/// counts too. Operators of libtorch appear in the trace alone.
///
/// What is profiled runs on the thread that called start(); one profiler at a time on a thread.
class Profiler final : private ScopeListener {
 public:
  explicit Profiler(c10::Device device);
  ~Profiler();  // where an exception left it running, it stops listening
  Profiler(const Profiler&) = delete;
  Profiler& operator=(const Profiler&) = delete;

  /// From here on everything counts for `mode`, until stop() says over how many iterations that was.
  void start(const std::string& mode);
  void stop(std::int64_t iterations);

  /// What profile.json holds, one object for each mode, in the order of their starts:
  ///
  ///   {"mode": "forward", "iterations": 5, "total_ms": 12.5,
  ///    "groups": [{"group": "matrix products", "ms": 8.1, "share": 0.65, "calls": 120}, …]}
  ///
  /// ms and calls are those of all iterations together; ms sum to total_ms, shares to 1; the greatest first.
  /// `calls` counts entries into the group from another. On a GPU each group has "device_ms" and "device_share"
  /// too, and the mode "total_device_ms".
  const Json& profile() const { return profile_; }

  /// Writes profile.json and trace.json, which Perfetto (https://ui.perfetto.dev) and chrome://tracing open:
  /// complete events ("ph": "X") in the order of their begins, ts and dur in µs. After the first 200,000 events the
  /// trace takes no more ("events_left_out" in otherData); the groups count on.
  Status write(const std::filesystem::path& folder) const;

 private:
  using Clock = std::chrono::steady_clock;

  enum class Track { host, device };
  struct TraceEvent {
    std::string name;
    const char* category = "";
    Track track = Track::host;
    std::int64_t begin_ns = 0, duration_ns = 0;
  };
  struct OpenScope {
    ScopeLabel label;
    std::int64_t begin_ns = 0, inner_ns = 0;
    std::optional<std::size_t> event;  // in trace_
    std::optional<c10::Event> device_begin;
  };
  /// A scope that ended on the host; the device may still be at it.
  struct DeviceScope {
    ScopeLabel label;
    std::optional<OperatorGroup> outer;
    c10::Event begin, end;
  };
  struct GroupSum {
    std::int64_t ns = 0, calls = 0;
    double device_ms = 0;
  };

  void scope_begins(const ScopeLabel& label) override;
  void scope_ends() override;
  ScopeLabel innermost() const override;

  /// libtorch's operators, as RecordFunction reports them.
  struct Operator;
  static std::unique_ptr<at::ObserverContext> operator_begins(const at::RecordFunction& function);
  static void operator_ends(const at::RecordFunction& function, at::ObserverContext* context);

  std::int64_t now() const;
  std::optional<std::size_t> add_event(std::string name, const char* category, Track track, std::int64_t begin_ns);
  c10::Event mark() const;
  void fold_device_scopes();
  void stop_listening();

  const c10::Device device_;
  const Clock::time_point zero_;
  Json profile_ = Json::array();
  std::vector<TraceEvent> trace_;
  std::int64_t left_out_ = 0;

  // Of the mode that is being profiled.
  std::string mode_;
  std::vector<OpenScope> open_;
  GroupSum sums_[operator_groups];
  std::vector<DeviceScope> on_device_;
  std::optional<c10::Event> device_zero_;
  std::int64_t device_zero_ns_ = 0;
  at::CallbackHandle callback_ = 0;
  bool listening_ = false;
};

}  // namespace finesweep::worker
