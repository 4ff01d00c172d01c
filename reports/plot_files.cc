#include "reports/plot_files.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <set>
#include <system_error>
#include <thread>

#include "reports/gnuplot_script.h"
#include "reports/html_text.h"
#include "reports/text.h"
#include "storage/files.h"

namespace finesweep::reports {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kMaxPlots = 60;
constexpr std::size_t kMaxComplaint = 300;

/// gnuplot shows the command, where in it, and then what is wrong.
std::string last_line(const std::string& text) {
  const std::size_t end = text.find_last_not_of("\r\n ");
  if (end == std::string::npos) return "";
  const std::size_t begin = text.find_last_of("\r\n", end) + 1;  // 0 where there is one line
  return on_one_line(text.substr(begin, end - begin + 1));
}

/// Runs `program script` in `folder` without a shell, with an environment that holds nothing of the user's; its
/// output goes to output.txt there. Empty where it ended well, else why not.
std::string run_gnuplot(const std::string& program, const std::string& script, const fs::path& folder,
                        Clock::time_point until) {
  const std::string output = (folder / "output.txt").string();
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addchdir_np(&actions, folder.c_str());
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t all, none;
  sigfillset(&all);
  sigemptyset(&none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  // -d: no start-up files, which could change how the plots look.
  std::string name = program, no_startup = "-d", file = script, locale = "LC_ALL=C.UTF-8", path = "PATH=";
  if (const char* value = std::getenv("PATH")) path += value;
  char* const arguments[] = {name.data(), no_startup.data(), file.data(), nullptr};
  char* const environment[] = {path.data(), locale.data(), nullptr};
  pid_t pid = -1;
  const int failure = posix_spawnp(&pid, program.c_str(), &actions, &attributes, arguments, environment);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (failure != 0) return std::strerror(failure);

  int status = 0;
  for (;;) {
    const pid_t ended = waitpid(pid, &status, WNOHANG);
    if (ended == pid) break;
    if (ended < 0 && errno != EINTR) return std::string("it cannot be waited for: ") + std::strerror(errno);
    if (Clock::now() > until) {
      kill(pid, SIGKILL);
      waitpid(pid, &status, 0);
      return "it took too long";
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return "";
  const Result<std::string> said = storage::read_file(output);
  const std::string complaint = said ? last_line(*said) : "";
  return complaint.empty() ? "it failed" : shortened(complaint, kMaxComplaint);
}

void replace(std::string& text, const std::string& from, const std::string& to, bool everywhere) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
    if (!everywhere) break;
  }
}

/// The plot's title for programs that read it aloud, and fonts for machines without Helvetica.
std::string finished(std::string svg, const std::string& title) {
  replace(svg, "]]>", "]]&gt;", true);  // gnuplot leaves '>' in text as it is; XML forbids this one
  replace(svg, "<title>Gnuplot</title>", "<title>" + html_escaped(title) + "</title>", false);
  replace(svg, "font-family=\"Helvetica\"", "font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\"", true);
  return svg;
}

struct Plot {
  std::string id, title, script;
};

std::vector<Plot> plots_of(const Charts& charts) {
  std::vector<Plot> plots;
  for (const Chart& chart : charts.charts)
    if (chart.is_plotted) plots.push_back({chart.id, chart.title, gnuplot_script(chart)});
  for (const HeatMap& map : charts.heat_maps)
    if (map.is_plotted) plots.push_back({map.id, map.title, gnuplot_script(map)});
  if (plots.size() > kMaxPlots) plots.resize(kMaxPlots);
  return plots;
}

/// Plots of an earlier report that this one has not.
void remove_others(const fs::path& folder, const std::set<std::string>& kept) {
  std::error_code ignored;
  std::vector<fs::path> others;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string extension = entry.path().extension();
    if ((extension == ".svg" || extension == ".gnuplot") && !kept.contains(entry.path().filename()))
      others.push_back(entry.path());
  }
  for (const fs::path& other : others) fs::remove(other, ignored);
}

}  // namespace

Result<PlotFiles> write_plots(const Charts& charts, const fs::path& relative, const PlotOptions& options) {
  const fs::path folder = fs::absolute(relative);
  const std::vector<Plot> plots = plots_of(charts);
  PlotFiles files;
  std::set<std::string> kept;
  std::error_code failure;
  if (plots.empty()) {
    remove_others(folder, kept);
    fs::remove(folder, failure);  // where it is empty
    return files;
  }
  const fs::path drawing = folder / ".drawing";
  fs::create_directories(drawing, failure);
  if (failure) return Error{"cannot create " + drawing.string() + ": " + failure.message()};
  const auto until = Clock::now() + options.deadline;
  for (const Plot& plot : plots) {
    const std::string script = plot.id + ".gnuplot", picture = plot.id + ".svg";
    if (const Status written = storage::write_file_atomically(folder / script, plot.script); !written)
      return written.error();
    kept.insert(script);
    const std::string trouble = run_gnuplot(options.program, "../" + script, drawing, until);
    const Result<std::string> svg = storage::read_file(drawing / picture);
    if (!trouble.empty() || !svg) {
      if (files.trouble.empty())
        files.trouble = options.program + ": " + (trouble.empty() ? "it left no picture" : trouble);
      continue;
    }
    if (const Status written = storage::write_file_atomically(folder / picture, finished(*svg, plot.title));
        !written)
      return written.error();
    kept.insert(picture);
    files.drawn.push_back(plot.id);
  }
  fs::remove_all(drawing, failure);
  remove_others(folder, kept);
  return files;
}

}  // namespace finesweep::reports
