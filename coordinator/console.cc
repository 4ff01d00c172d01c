#include "coordinator/console.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "jobs/counted.h"

namespace finesweep::coordinator {

namespace {

bool is_passing(const Json& record) {
  const std::string event = record.value("event", "");
  return event == "progress" || event == "text";
}

int terminal_width(std::FILE* out) {
  winsize size{};
  if (ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 20) return size.ws_col;
  return 80;
}

std::string bar(double share, int width) {
  static constexpr const char* eighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const int filled = static_cast<int>(std::clamp(share, 0.0, 1.0) * width * 8);
  std::string text;
  for (int i = 0; i < filled / 8; ++i) text += "█";
  int columns = filled / 8;
  if (filled % 8 != 0) text += eighths[filled % 8], ++columns;
  for (; columns < width; ++columns) text += "·";
  return text;
}

/// Cut or padded to `columns`; titles are ASCII but for what labels bring, so a cut never splits a UTF-8 sequence.
std::string fit(std::string text, std::size_t columns) {
  std::size_t used = 0, i = 0;
  while (i < text.size()) {
    std::size_t next = i + 1;
    while (next < text.size() && (static_cast<unsigned char>(text[next]) & 0xC0) == 0x80) ++next;
    if (used == columns) break;
    ++used;
    i = next;
  }
  text.resize(i);
  return text + std::string(columns - used, ' ');
}

}  // namespace

std::string format_duration(double seconds) {
  const auto total = static_cast<long>(std::llround(std::max(0.0, seconds)));
  if (total >= 3600) return fmt::format("{}:{:02}:{:02}", total / 3600, total / 60 % 60, total % 60);
  return fmt::format("{}:{:02}", total / 60, total % 60);
}

std::string event_line(const Json& record) {
  const std::string event = record.value("event", "");
  const std::string title = record.value("title", "");
  if (event == "sweep_started")
    return fmt::format("{}: {}, {}{} on {}, in {}", record.value("sweep", ""),
                       counted(record.value("trials", 0), "trial"), counted(record.value("jobs", 0), "job"),
                       record.value("done", 0) > 0 ? fmt::format(" ({} done before)", record.value("done", 0)) : "",
                       counted(record.value("workers", 0), "worker"), record.value("directory", ""));
  if (event == "worker_joined")
    return fmt::format("worker {} on {} ({})", record.value("worker", ""), record.value("host", ""),
                       record.value("device", ""));
  if (event == "worker_lost")
    return fmt::format("worker {} is gone: {}", record.value("worker", ""), record.value("reason", ""));
  if (event == "worker_left") return fmt::format("worker {} left", record.value("worker", ""));
  if (event == "status_page") return "the sweep's page: " + record.value("url", "");
  if (event == "joining_allowed")
    return fmt::format("workers may join by {}, port {}: finesweep worker --join {}", record.value("host", ""),
                       record.value("port", 0), record.value("file", ""));
  if (event == "attempt_started") {
    const int attempt = record.value("attempt", 1);
    return fmt::format("started    {}{}{} on worker {}", title,
                       attempt > 1 ? fmt::format(" (attempt {})", attempt) : "",
                       record.contains("pack") ? fmt::format(" in a pack of {}", record.value("pack", 1)) : "",
                       record.value("worker", ""));
  }
  if (event == "attempt_ended" && record.value("reason", "") == "moved") return "";  // from queue to queue
  if (event == "attempt_ended")
    return fmt::format("{:<10} {}{}", record.value("reason", ""), title,
                       record.value("error", "").empty() ? "" : ": " + record.value("error", ""));
  if (event == "job_succeeded")
    return fmt::format("succeeded  {} in {:.1f} s  [{}/{}]", title, record.value("seconds", 0.0),
                       record.value("done", 0), record.value("jobs", 0));
  if (event == "job_failed") return fmt::format("FAILED     {}: {}", title, record.value("error", ""));
  if (event == "job_cancelled") return fmt::format("cancelled  {}", title);
  if (event == "sweep_ended") {
    const std::string state = record.value("state", "");
    std::string text = fmt::format("sweep {}: {} succeeded", state, counted(record.value("succeeded", 0), "trial"));
    if (const int failed = record.value("failed", 0)) text += fmt::format(", {} failed", failed);
    if (const int cancelled = record.value("cancelled", 0)) text += fmt::format(", {} cancelled", cancelled);
    if (const int pending = record.value("pending", 0)) text += fmt::format(", {} pending", pending);
    if (!record.value("report", "").empty()) text += "; report: " + record.value("report", "");
    if (state == "interrupted") text += "; run the same command again to go on";
    return text;
  }
  return "";
}

std::vector<std::string> bar_lines(const Json& progress, int width) {
  std::vector<std::string> lines;
  const int title_columns = std::clamp(width / 2 - 8, 16, 44);
  const int bar_columns = std::clamp(width - title_columns - 34, 8, 40);
  for (const Json& running : progress.value("running", Json::array())) {
    const double done = running.value("done", 0.0), total = running.value("total", 0.0);
    std::string tail = running.value("phase", "");
    if (total > 0) tail = fmt::format("{:.0f}/{:.0f}", done, total);
    if (running.contains("loss")) tail += fmt::format(" loss {:.4f}", running["loss"].get<double>());
    std::string name = running.value("title", "");
    if (const int pack = running.value("pack", 1); pack > 1) {
      const std::string others = fmt::format(" + {}", pack - 1);
      name = fit(name, static_cast<std::size_t>(title_columns) - others.size());
      name = name.substr(0, name.find_last_not_of(' ') + 1) + others;
    }
    lines.push_back(
        fmt::format("{} {} {}", fit(name, title_columns), bar(total > 0 ? done / total : 0, bar_columns), tail));
  }
  const double done = progress.value("done", 0.0), jobs = progress.value("jobs", 0.0);
  std::string tail = fmt::format("{:.0f}/{:.0f} jobs", done, jobs);
  if (progress.contains("seconds_left"))
    tail += ", about " + format_duration(progress["seconds_left"].get<double>()) + " left";
  lines.push_back(
      fmt::format("{} {} {}", fit("sweep", title_columns), bar(jobs > 0 ? done / jobs : 0, bar_columns), tail));
  for (std::string& line : lines) {
    std::string cut = fit(line, static_cast<std::size_t>(width - 1));
    cut.erase(cut.find_last_not_of(' ') + 1);
    line = cut;
  }
  return lines;
}

Console::Console(ConsoleMode mode, std::FILE* out) : mode_(mode), out_(out) {}

Console::~Console() {
  clear_bars();
}

void Console::show(const Json& record) {
  const std::string event = record.value("event", "");
  if (mode_ == ConsoleMode::wire || mode_ == ConsoleMode::json) {
    if (mode_ == ConsoleMode::wire || !is_passing(record)) line(record.dump());
    return;
  }
  if (event == "progress") {
    latest_progress_ = record;
    if (mode_ == ConsoleMode::bars) draw_bars();
    return;
  }
  if (event == "sweep_ended") latest_progress_ = nullptr;
  const std::string text = event == "text" ? record.value("text", "") : event_line(record);
  // Bars show what runs; lines are kept for what stays true.
  if (text.empty() || (mode_ == ConsoleMode::bars && event == "attempt_started")) return;
  line(text);
}

void Console::line(const std::string& text) {
  clear_bars();
  std::fputs(text.c_str(), out_);
  std::fputc('\n', out_);
  if (mode_ == ConsoleMode::bars && !latest_progress_.is_null()) {
    drawn_ = {};
    draw_bars();
  }
  std::fflush(out_);
}

void Console::draw_bars() {
  const auto now = std::chrono::steady_clock::now();
  if (now - drawn_ < std::chrono::milliseconds(80)) return;
  drawn_ = now;
  clear_bars();
  for (const std::string& text : bar_lines(latest_progress_, terminal_width(out_))) {
    std::fputs(text.c_str(), out_);
    std::fputc('\n', out_);
    ++bar_lines_;
  }
  std::fflush(out_);
}

void Console::clear_bars() {
  if (bar_lines_ > 0) std::fprintf(out_, "\x1b[%dA\x1b[J", bar_lines_);
  bar_lines_ = 0;
}

}  // namespace finesweep::coordinator
