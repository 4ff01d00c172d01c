#include "tests/system/sweep_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

namespace finesweep::tests {

namespace fs = std::filesystem;

namespace {

const fs::path kSource = FINESWEEP_SOURCE_DIR;

fs::path fixtures() {
  const char* folder = std::getenv("FINESWEEP_FIXTURES");
  return folder ? fs::path(folder) : kSource / "tests/fixtures";
}

/// As many tokens as the model's vocabulary has: the special ones, letters, and the words of the text, most
/// frequent first.
std::string make_vocabulary(const std::string& text, std::size_t size) {
  std::vector<std::string> tokens{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  for (char c = 'a'; c <= 'z'; ++c) tokens.emplace_back(1, c);
  for (char c = 'a'; c <= 'z'; ++c) tokens.push_back(std::string("##") + c);
  for (char c : std::string(".,;:!?'\"")) tokens.emplace_back(1, c);
  std::map<std::string, int> counts;
  std::string word;
  for (char c : text + " ") {
    if (std::isalpha(static_cast<unsigned char>(c))) {
      word += static_cast<char>(std::tolower(c));
    } else {
      if (word.size() > 1) ++counts[word];
      word.clear();
    }
  }
  std::vector<std::pair<int, std::string>> by_count;
  for (const auto& [key, count] : counts) by_count.emplace_back(-count, key);
  std::sort(by_count.begin(), by_count.end());
  for (const auto& [count, key] : by_count)
    if (tokens.size() < size) tokens.push_back(key);
  for (std::size_t i = 0; tokens.size() < size; ++i) tokens.push_back("[unused" + std::to_string(i) + "]");
  std::string lines;
  for (const std::string& token : tokens) lines += token + "\n";
  return lines;
}

std::string first_lines(const std::string& text, int count) {
  std::size_t end = 0;
  while (count-- > 0 && (end = text.find('\n', end)) != std::string::npos) ++end;
  return text.substr(0, end);
}

/// As in ps: R, S, D, T, …; Z where it has ended.
char state_of(pid_t pid) {
  const std::string stat = read_text("/proc/" + std::to_string(pid) + "/stat");
  const auto paren = stat.rfind(')');
  return paren == std::string::npos || paren + 2 >= stat.size() ? 'Z' : stat[paren + 2];
}

bool is_zombie(pid_t pid) {
  return state_of(pid) == 'Z';
}

}  // namespace

void sleep_briefly() {
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

Workspace::Workspace() {
  std::string name = (fs::temp_directory_path() / "finesweep-test-XXXXXX").string();
  if (!mkdtemp(name.data())) throw std::runtime_error("no temporary folder");
  path_ = name;
}

Workspace::~Workspace() {
  std::error_code ignored;
  if (!::testing::Test::HasFailure()) fs::remove_all(path_, ignored);
}

void Workspace::write(const std::string& name, const std::string& text) const {
  fs::create_directories((path_ / name).parent_path());
  std::ofstream(path_ / name, std::ios::binary) << text;
}

fs::path Workspace::make_small_sweep(int steps, const std::string& extra) const {
  const fs::path data = kSource / "examples/data/verse_paraphrase";
  const std::string train = read_text(data / "train.jsonl");
  fs::create_directories(path_ / "model");
  for (const char* file : {"config.json", "model.safetensors"})
    fs::copy_file(fixtures() / "models/bert_tiny" / file, path_ / "model" / file,
                  fs::copy_options::overwrite_existing);
  write("model/vocab.txt", make_vocabulary(train, 401));
  write("model/tokenizer_config.json", R"({"tokenizer_class": "BertTokenizer", "do_lower_case": true})");
  write("data/train.jsonl", first_lines(train, 200));
  write("data/test.jsonl", first_lines(read_text(data / "test.jsonl"), 40));
  write("sweep.yaml", R"(name: small
model: model
task: classification
data:
  train: data/train.jsonl
  test: data/test.jsonl
  fields: {text_a: text_a, text_b: text_b, label: label}
pipeline:
  - finetune: {method: lora, rank: 4, alpha: 8, steps: )" +
                          std::to_string(steps) + R"(, batch_size: 8, sequence_length: 48,
               learning_rate: 2.0e-3, checkpoint_every: 0.2}
  - evaluate: {split: test}
sweep:
  axes:
    - finetune.method: [lora, full]
  repeats: 2
report: {metric: evaluate.accuracy}
)" + extra);
  return path_ / "sweep.yaml";
}

fs::path Workspace::make_quick_sweep() const {
  std::string text = read_text(make_small_sweep(100));
  for (const auto& [from, to] : {std::pair<std::string, std::string>{"repeats: 2", "repeats: 1"},
                                 {"checkpoint_every: 0.2", "checkpoint_every: 0.02"}})
    text.replace(text.find(from), from.size(), to);
  write("sweep.yaml", text);
  return path_ / "sweep.yaml";
}

fs::path Workspace::make_joining_sweep(int short_steps, int long_steps) const {
  std::string text = read_text(make_small_sweep(long_steps));
  const std::string axes = "finetune.method: [lora, full]\n  repeats: 2";
  text.replace(text.find(axes), axes.size(),
               "finetune.rank: [2, 4]\n    - finetune.steps: [" + std::to_string(short_steps) + ", " +
                   std::to_string(long_steps) + "]");
  write("joining.yaml", text + "resources: {threads: 1, pack: 2}\n");
  return path_ / "joining.yaml";
}

Process::Process(const std::vector<std::string>& command, const fs::path& folder,
                 const std::vector<std::string>& environment) {
  static int counter = 0;
  mark_ = "FINESWEEP_TEST_MARK=" + std::to_string(getpid()) + "-" + std::to_string(counter++);
  output_ = folder / ("output-" + std::to_string(counter) + ".txt");
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  pid_ = fork();
  if (pid_ == 0) {
    setsid();
    putenv(const_cast<char*>(mark_.c_str()));
    for (const std::string& entry : environment) putenv(const_cast<char*>(entry.c_str()));
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    const int out = open(output_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    dup2(out, 1);
    dup2(out, 2);
    const int in = open("/dev/null", O_RDONLY);
    dup2(in, 0);
    if (chdir(folder.c_str()) != 0) _exit(126);
    execvp(arguments[0], arguments.data());
    _exit(127);
  }
}

Process::~Process() {
  for (const auto& [pid, command] : family()) kill(pid, SIGKILL);
  if (!status_) waitpid(pid_, nullptr, 0);
}

std::optional<int> Process::wait(std::chrono::seconds deadline) {
  wait_for(
      [this] {
        int status = 0;
        if (!status_ && waitpid(pid_, &status, WNOHANG) == pid_)
          status_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
        return status_.has_value();
      },
      deadline);
  return status_;
}

void Process::signal(int number) const {
  kill(pid_, number);
}

std::string Process::output() const {
  return read_text(output_);
}

std::map<pid_t, std::string> Process::family() const {
  std::map<pid_t, std::string> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/proc", ignored)) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const pid_t pid = std::atoi(name.c_str());
    const std::string environment = read_text(entry.path() / "environ");
    const auto at = environment.find(mark_);
    // A whole entry, not the beginning of a longer one.
    if (at == std::string::npos || environment[at + mark_.size()] != '\0' || is_zombie(pid)) continue;
    std::string command = read_text(entry.path() / "cmdline");
    std::replace(command.begin(), command.end(), '\0', ' ');
    found[pid] = command;
  }
  return found;
}

std::map<pid_t, std::string> Process::wait_until_gone(std::chrono::milliseconds deadline) const {
  std::map<pid_t, std::string> left;
  wait_for([&] { return (left = family()).empty(); }, deadline);
  return left;
}

fs::path finesweep_program() {
  // The tests lie beside the program.
  return fs::read_symlink("/proc/self/exe").parent_path() / "finesweep";
}

std::vector<std::string> mpirun(int ranks, std::vector<std::string> command) {
  std::vector<std::string> whole{"mpirun",
                                 "-n",
                                 std::to_string(ranks),
                                 "--oversubscribe",
                                 "--bind-to",
                                 "none",
                                 "--mca",
                                 "btl_vader_single_copy_mechanism",
                                 "none"};
  whole.insert(whole.end(), command.begin(), command.end());
  return whole;
}

std::string read_text(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::stringstream text;
  text << stream.rdbuf();
  return text.str();
}

std::string results_of(const fs::path& run) {
  return without_measured_columns(read_text(run / "reports/results.csv"));
}

int count_events(const fs::path& run, const std::string& text) {
  const std::string events = read_text(run / "events.jsonl");
  int count = 0;
  for (std::size_t at = 0; (at = events.find(text, at)) != std::string::npos; ++at) ++count;
  return count;
}

std::string describe(const std::map<pid_t, std::string>& processes) {
  std::string text;
  for (const auto& [pid, command] : processes) {
    // What it waits for tells a process that nobody ended from one that the kernel holds on to, for a disk, say.
    const std::string proc = "/proc/" + std::to_string(pid);
    text += std::to_string(pid) + " (" + state_of(pid) + " " + read_text(proc + "/wchan") + "): " + command + "\n";
  }
  return text;
}

std::string without_measured_columns(const std::string& csv) {
  // The small sweeps' tables quote nothing but errors, which have no commas.
  std::vector<bool> keep;
  std::string result;
  std::stringstream lines(csv);
  for (std::string line; std::getline(lines, line);) {
    std::stringstream cells(line + ",");
    std::size_t column = 0;
    for (std::string cell; std::getline(cells, cell, ','); ++column) {
      if (result.find('\n') == std::string::npos && keep.size() <= column) {
        bool measured = false;
        for (const char* word : {"seconds", "_ms", "per_second", "memory"})
          measured |= cell.find(word) != std::string::npos;
        keep.push_back(!measured);
      }
      if (keep.at(column)) result += cell + ",";
    }
    result += "\n";
  }
  return result;
}

}  // namespace finesweep::tests
