#include "worker/engine/profile.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <tuple>
#include <utility>

#include "worker/engine/device.h"

namespace finesweep::worker {
namespace {

constexpr std::size_t most_events = 200'000;
/// Marks on a GPU's stream are folded into the sums when so many are kept.
constexpr std::size_t most_device_scopes = 8192;

double milliseconds(std::int64_t ns) {
  return static_cast<double>(ns) / 1e6;
}

}  // namespace

struct Profiler::Operator : at::ObserverContext {
  Profiler* profiler = nullptr;
  std::size_t event = 0;
};

Profiler::Profiler(c10::Device device) : device_(device), zero_(Clock::now()) {}

Profiler::~Profiler() {
  stop_listening();
}

std::int64_t Profiler::now() const {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - zero_).count();
}

c10::Event Profiler::mark() const {
  c10::Event event(device_.type(), c10::EventFlag::BACKEND_DEFAULT);  // one that keeps the time
  event.record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
  return event;
}

void Profiler::start(const std::string& mode) {
  mode_ = mode;
  std::fill(std::begin(sums_), std::end(sums_), GroupSum());
  if (!device_.is_cpu()) {
    synchronize(device_);
    device_zero_ = mark();
    device_zero_ns_ = now();
  }
  ScopeListener::of_thread() = this;
  callback_ = at::addThreadLocalCallback(
      at::RecordFunctionCallback(operator_begins, operator_ends).scopes({at::RecordScope::FUNCTION}));
  listening_ = true;
  scope_begins({mode_.c_str(), OperatorGroup::other, false});
}

void Profiler::stop(std::int64_t iterations) {
  synchronize(device_);
  scope_ends();
  stop_listening();
  fold_device_scopes();
  double device_total = 0;
  std::int64_t whole = 0;
  for (const GroupSum& sum : sums_) {
    whole += sum.ns;
    device_total += sum.device_ms;
  }
  std::vector<int> order;
  for (int group = 0; group < operator_groups; ++group) {
    if (sums_[group].calls > 0) order.push_back(group);
  }
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return sums_[a].ns > sums_[b].ns; });
  Json groups = Json::array();
  for (const int group : order) {
    const GroupSum& sum = sums_[group];
    Json row = {{"group", operator_group_name(static_cast<OperatorGroup>(group))},
                {"ms", milliseconds(sum.ns)},
                {"share", static_cast<double>(sum.ns) / static_cast<double>(std::max<std::int64_t>(whole, 1))},
                {"calls", sum.calls}};
    if (!device_.is_cpu()) {
      row["device_ms"] = sum.device_ms;
      row["device_share"] = device_total > 0 ? sum.device_ms / device_total : 0.0;
    }
    groups.push_back(std::move(row));
  }
  Json entry = {{"mode", mode_},
                {"iterations", iterations},
                {"total_ms", milliseconds(whole)},
                {"groups", std::move(groups)}};
  if (!device_.is_cpu()) entry["total_device_ms"] = device_total;
  profile_.push_back(std::move(entry));
}

void Profiler::stop_listening() {
  if (!listening_) return;
  at::removeCallback(callback_);
  if (ScopeListener::of_thread() == this) ScopeListener::of_thread() = nullptr;
  listening_ = false;
  open_.clear();
}

std::optional<std::size_t> Profiler::add_event(std::string name, const char* category, Track track,
                                               std::int64_t begin_ns) {
  if (trace_.size() >= most_events) {
    ++left_out_;
    return std::nullopt;
  }
  trace_.push_back({std::move(name), category, track, begin_ns, 0});
  return trace_.size() - 1;
}

void Profiler::scope_begins(const ScopeLabel& label) {
  OpenScope scope;
  scope.label = label;
  if (!device_.is_cpu()) scope.device_begin = mark();
  scope.begin_ns = now();
  const std::string name = std::string(label.name) + (label.backward ? ", backward" : "");
  scope.event = add_event(name, operator_group_name(label.group).data(), Track::host, scope.begin_ns);
  open_.push_back(std::move(scope));
}

void Profiler::scope_ends() {
  // What runs after the profiler has stopped (a scope around it that an exception unwinds) is not its matter.
  if (open_.empty()) return;
  OpenScope scope = std::move(open_.back());
  open_.pop_back();
  const std::int64_t duration = now() - scope.begin_ns;
  OpenScope* outer = open_.empty() ? nullptr : &open_.back();
  if (scope.event) trace_[*scope.event].duration_ns = duration;
  GroupSum& sum = sums_[static_cast<int>(scope.label.group)];
  sum.ns += duration - scope.inner_ns;
  if (outer == nullptr || outer->label.group != scope.label.group) ++sum.calls;
  if (outer != nullptr) outer->inner_ns += duration;
  if (!scope.device_begin) return;
  const auto outer_group = outer == nullptr ? std::nullopt : std::optional(outer->label.group);
  on_device_.push_back({scope.label, outer_group, std::move(*scope.device_begin), mark()});
  if (on_device_.size() >= most_device_scopes) fold_device_scopes();
}

ScopeLabel Profiler::innermost() const {
  return open_.empty() ? ScopeLabel() : open_.back().label;
}

void Profiler::fold_device_scopes() {
  if (on_device_.empty()) return;
  synchronize(device_);
  for (const DeviceScope& scope : on_device_) {
    const double ms = scope.begin.elapsedTime(scope.end);
    sums_[static_cast<int>(scope.label.group)].device_ms += ms;
    if (scope.outer) sums_[static_cast<int>(*scope.outer)].device_ms -= ms;
    const auto begin = device_zero_ns_ + static_cast<std::int64_t>(1e6 * device_zero_->elapsedTime(scope.begin));
    const std::string name = std::string(scope.label.name) + (scope.label.backward ? ", backward" : "");
    const auto event = add_event(name, operator_group_name(scope.label.group).data(), Track::device, begin);
    if (event) trace_[*event].duration_ns = static_cast<std::int64_t>(1e6 * ms);
  }
  on_device_.clear();
}

std::unique_ptr<at::ObserverContext> Profiler::operator_begins(const at::RecordFunction& function) {
  auto* profiler = static_cast<Profiler*>(ScopeListener::of_thread());
  if (profiler == nullptr) return nullptr;
  const auto event = profiler->add_event(function.name(), "operator", Track::host, profiler->now());
  if (!event) return nullptr;
  auto context = std::make_unique<Operator>();
  context->profiler = profiler;
  context->event = *event;
  return context;
}

void Profiler::operator_ends(const at::RecordFunction&, at::ObserverContext* context) {
  if (context == nullptr) return;
  const auto* started = static_cast<Operator*>(context);
  TraceEvent& event = started->profiler->trace_[started->event];
  event.duration_ns = started->profiler->now() - event.begin_ns;
}

Status Profiler::write(const std::filesystem::path& folder) const {
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  std::ofstream(folder / profile_file) << profile_.dump(2) << "\n";

  std::vector<const TraceEvent*> events;
  for (const TraceEvent& event : trace_) events.push_back(&event);
  // Those of the device came in when they had ended; one that holds others goes first.
  const auto key = [](const TraceEvent* event) {
    return std::tuple(event->begin_ns, event->track, event->track == Track::device ? -event->duration_ns : 0);
  };
  std::stable_sort(events.begin(), events.end(), [&](const auto* a, const auto* b) { return key(a) < key(b); });
  std::ofstream out(folder / trace_file);
  out << R"({"displayTimeUnit": "ms", "otherData": {"events_left_out": )" << left_out_ << "},\n"
      << R"("traceEvents": [)"
      << "\n";
  const auto name_of = [&](const char* what, int thread, const std::string& name) {
    out << Json{{"ph", "M"}, {"pid", 1}, {"tid", thread}, {"name", what}, {"args", {{"name", name}}}}.dump();
  };
  name_of("process_name", 1, "finesweep-runner");
  out << ",\n";
  name_of("thread_name", 1, "host");
  if (!device_.is_cpu()) {
    out << ",\n";
    name_of("thread_name", 2, device_.str());
  }
  for (const TraceEvent* event : events) {
    char times[96];
    std::snprintf(times, sizeof times, R"("ts": %.3f, "dur": %.3f, "pid": 1, "tid": %d})",
                  static_cast<double>(event->begin_ns) / 1e3, static_cast<double>(event->duration_ns) / 1e3,
                  event->track == Track::host ? 1 : 2);
    out << ",\n"
        << R"({"ph": "X", "name": )" << Json(event->name).dump() << R"(, "cat": ")" << event->category << R"(", )"
        << times;
  }
  out << "\n]}\n";
  out.flush();
  if (!out || !std::ifstream(folder / profile_file).good()) {
    return Error{"The profile cannot be written to " + folder.string() + ". Is the disk full?"};
  }
  return {};
}

}  // namespace finesweep::worker
