// What the store costs: saving a plan, recording results durably, reading them back, writing reports; once with few
// jobs and once with many, so that growth shows.
//
//   storage_bench [JOBS] [DIRECTORY]      default 1000000 jobs, a fresh folder under /tmp
//
// Beside the cost of a commit stands that of one write and fsync of as many bytes on the same disk.

#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <string>

#include "reports/report.h"
#include "storage/store.h"

namespace {

using namespace finesweep;
namespace fs = std::filesystem;

constexpr int kBatch = 50;
constexpr int kMeasured = 10'000;  // results recorded in batches of kBatch

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// Of this process, in all its threads.
double cpu_seconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

template <typename Work>
double timed(Work&& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return seconds_since(begin);
}

void require(const Status& status) {
  if (status.ok()) return;
  fmt::print(stderr, "{}\n", status.error().message);
  std::exit(1);
}

template <typename T>
T require(Result<T> result) {
  if (result.ok()) return std::move(*result);
  fmt::print(stderr, "{}\n", result.error().message);
  std::exit(1);
}

Plan make_plan(int jobs) {
  Plan plan;
  plan.name = "bench";
  plan.swept_paths = {"finetune.learning_rate"};
  plan.report.metric = "test.accuracy";
  const Json context{
      {"task", "classification"}, {"model", "/models/tiny"}, {"data", {{"train", "/data/train.jsonl"}}}};
  for (int i = 0; 2 * i < jobs; ++i) {
    Job finetune;
    finetune.id = JobId::of(fmt::format("finetune {}", i));
    finetune.settings = {{"method", "lora"}, {"rank", 8},       {"alpha", 16}, {"learning_rate", 1e-6 * (i / 4)},
                         {"epochs", 3},      {"batch_size", 16}};
    finetune.context = context;
    finetune.seed = i % 4;
    finetune.title = "finetune lora r8 alpha 16";
    Job evaluate;
    evaluate.id = JobId::of(fmt::format("evaluate {}", i));
    evaluate.kind = StepKind::evaluate;
    evaluate.settings = {{"split", "test"}, {"batch_size", 32}};
    evaluate.context = context;
    evaluate.inputs = {finetune.id};
    evaluate.title = "evaluate test";
    Trial trial;
    trial.configuration = fmt::format("{:08x}", i / 4);
    trial.name = fmt::format("{}.{}", trial.configuration, i % 4);
    trial.label = fmt::format("learning rate {}", i / 4);
    trial.repeat = i % 4;
    trial.swept = {Json(1e-6 * (i / 4))};
    trial.steps = {{"finetune", StepKind::finetune, finetune.id}, {"test", StepKind::evaluate, evaluate.id}};
    plan.jobs.push_back(std::move(finetune));
    plan.jobs.push_back(std::move(evaluate));
    plan.trials.push_back(std::move(trial));
  }
  return plan;
}

/// All that is recorded of one job that succeeds at once.
void add_result(std::vector<storage::Change>& changes, const JobId& job, int number) {
  Outcome outcome;
  outcome.kind = OutcomeKind::succeeded;
  outcome.metrics = {{"accuracy", 0.5 + 1e-7 * number}, {"loss", 0.7 - 1e-7 * number}, {"seconds", 12.5}};
  outcome.environment = {{"device", "cpu"}};
  changes.push_back(storage::AttemptStarted{{job, 1}, 1, "node1", 1'700'000'000'000 + number});
  changes.push_back(storage::AttemptEnded{{job, 1}, AttemptEnd::succeeded, "", 1'700'000'000'000 + number});
  changes.push_back(storage::JobSucceeded{{job, 1}, std::move(outcome), 1'700'000'000'000 + number});
}

/// Records results of jobs [begin, end), `batch` to a commit; returns seconds.
double record(storage::Store& store, const Plan& plan, std::size_t begin, std::size_t end, std::size_t batch) {
  return timed([&] {
    for (std::size_t at = begin; at < end; at += batch) {
      std::vector<storage::Change> changes;
      for (std::size_t i = at; i < std::min(at + batch, end); ++i)
        add_result(changes, plan.jobs[i].id, static_cast<int>(i));
      require(store.apply(changes));
    }
  });
}

/// Seconds of one write and fsync.
double sync_cost(const fs::path& directory, std::size_t bytes) {
  constexpr int kTimes = 200;
  const fs::path path = directory / "sync";
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  const std::string data(bytes, 'x');
  const double all = timed([&] {
    for (int i = 0; i < kTimes; ++i)
      if (::write(file, data.data(), data.size()) < 0 || ::fsync(file) != 0) std::exit(1);
  });
  ::close(file);
  fs::remove(path);
  return all / kTimes;
}

void measure_results(storage::Store& store, const Plan& plan, const fs::path& directory, std::size_t begin) {
  const double cpu_before = cpu_seconds();
  const double seconds = record(store, plan, begin, begin + kMeasured, kBatch);
  const double cpu = cpu_seconds() - cpu_before;
  const double sync = sync_cost(directory, 100'000) / kBatch;
  fmt::print(
      "  {} results in commits of {}: {:.1f} us a result, {:.1f} of them on the CPU; a write and fsync alone "
      "{:.1f}\n",
      kMeasured, kBatch, 1e6 * seconds / kMeasured, 1e6 * cpu / kMeasured, 1e6 * sync);
}

void bench(int jobs, const fs::path& directory) {
  fs::create_directories(directory);
  fmt::print("{} jobs\n", jobs);
  const Plan plan = make_plan(jobs);
  std::size_t done = 0;
  {
    storage::Store store = require(storage::Store::create_or_open(directory));
    (void)require(store.begin_generation("host", ::getpid(), 0));
    const double saved = timed([&] { require(store.save_plan(plan, "")); });
    fmt::print("  plan saved: {:.2f} s, {:.1f} us a job\n", saved, 1e6 * saved / jobs);
    measure_results(store, plan, directory, done);
    done += kMeasured;
    const std::size_t last = plan.jobs.size() - kMeasured;
    if (last > done) {
      const double filled = record(store, plan, done, last, 2000);
      fmt::print("  {} results in commits of 2000: {:.1f} us a result\n", last - done,
                 1e6 * filled / (last - done));
      measure_results(store, plan, directory, last);
    }
  }
  const double opened = timed([&] { (void)require(storage::Store::create_or_open(directory)); });
  const storage::Store store = require(storage::Store::open_read_only(directory));
  reports::RunData data;
  const double loaded =
      timed([&] { data = require(reports::read_run_data(store, storage::RunDirectory(directory))); });
  const double written = timed([&] { require(reports::write_reports(data, directory / "reports")); });
  fmt::print("  opened {:.2f} s, plan and results read {:.2f} s, reports written {:.2f} s\n", opened, loaded,
             written);
  fmt::print("  finesweep.db {} MB, events.jsonl {} MB\n", fs::file_size(directory / "finesweep.db") >> 20,
             fs::file_size(directory / "events.jsonl") >> 20);
}

}  // namespace

int main(int argc, char** argv) {
  const int jobs = argc > 1 ? std::atoi(argv[1]) : 1'000'000;
  char scratch[] = "/tmp/storage_bench-XXXXXX";
  const fs::path directory = argc > 2 ? fs::path(argv[2]) : fs::path(::mkdtemp(scratch));
  bench(20'000, directory / "few");
  if (jobs > 20'000) bench(jobs, directory / "many");
  if (argc <= 2) fs::remove_all(directory);
}
