#include "tests/engine/rank_processes.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/max.h>
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "jobs/json.h"
#include "worker/executor.h"
#include "worker/formats/safetensors.h"

extern char** environ;

namespace finesweep::worker {
namespace {

constexpr const char* kRequest = "FINESWEEP_TEST_RANK_REQUEST";

std::string result_file(const Execute& execute) {
  return execute.pack.front().staging + "/outcome." + std::to_string(execute.rank);
}

class RankControl final : public ExecutionControl {
 public:
  void progress(const Progress& progress) override { done_ = progress.done; }
  bool stop_requested() override {
    const char* limit = std::getenv(kStopAt);
    return limit != nullptr && done_ >= std::atoll(limit);
  }

 private:
  std::int64_t done_ = 0;
};

// What a rank's process does: this program, with this test alone.
TEST(RankProcess, DISABLED_executes_its_part) {
  const char* file = std::getenv(kRequest);
  if (file == nullptr) GTEST_SKIP() << "not a rank's process";
  std::ifstream in(file, std::ios::binary);
  const Bytes bytes((std::istreambuf_iterator<char>(in)), {});
  const auto message = decode(bytes.data(), bytes.size());
  ASSERT_TRUE(message.ok()) << message.error().message;
  const auto& execute = std::get<Execute>(*message);
  const Execute::Member& member = execute.pack.front();
  ExecutionRequest request;
  request.job = member.job;
  request.attempt = member.attempt;
  request.staging = member.staging;
  for (const auto& [id, folder] : member.artifacts) request.artifacts[*JobId::parse(id)] = folder;
  for (const std::string& folder : member.earlier_checkpoints) request.earlier_checkpoints.emplace_back(folder);
  request.device = execute.devices.at(execute.rank);
  if (request.device != "cpu") {
    ASSERT_NE(dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL), nullptr) << dlerror();
  }
  request.threads = execute.threads;
  request.rank = execute.rank;
  request.ranks = static_cast<int>(execute.devices.size());
  request.cache = execute.cache;
  RankControl control;
  const Outcome outcome = worker::execute(request, control);
  std::ofstream(result_file(execute)) << Json(outcome).dump();
}

pid_t start_rank(const Execute& execute, const std::map<std::string, std::string>& environment) {
  const std::string request = execute.pack.front().staging + "/request." + std::to_string(execute.rank);
  const Bytes bytes = encode(execute);
  std::ofstream(request, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  std::vector<std::string> variables{std::string(kRequest) + "=" + request};
  for (const auto& [name, value] : environment) variables.push_back(name + "=" + value);
  // Of this one test, not of a part of the tests; what stands first counts.
  for (const char* all : {"GTEST_TOTAL_SHARDS=1", "GTEST_SHARD_INDEX=0"}) variables.emplace_back(all);
  for (char** entry = environ; *entry != nullptr; ++entry) variables.emplace_back(*entry);
  std::vector<char*> pointers;
  for (std::string& variable : variables) pointers.push_back(variable.data());
  pointers.push_back(nullptr);
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
  std::vector<std::string> words{program, "--gtest_also_run_disabled_tests", "--gtest_brief=1",
                                 "--gtest_filter=RankProcess.DISABLED_executes_its_part"};
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t pid = -1;
  EXPECT_EQ(posix_spawn(&pid, program.c_str(), nullptr, nullptr, arguments.data(), pointers.data()), 0);
  return pid;
}

}  // namespace

void expect_same_weights(const std::filesystem::path& expected_file, const std::filesystem::path& trained_file) {
  const auto expected = SafetensorsFile::open(expected_file), trained = SafetensorsFile::open(trained_file);
  ASSERT_TRUE(expected.ok() && trained.ok());
  ASSERT_EQ(expected->names(), trained->names());
  for (const auto& name : expected->names()) {
    // The bias of keys shifts all scores of a query alike: its gradient is nothing but roundings, of which Adam
    // makes steps of the usual size.
    if (name.ends_with("key.bias")) continue;
    const at::Tensor a = expected->tensor(name).value(), b = trained->tensor(name).value();
    if (name.ends_with("c_attn.bias")) {
      const std::int64_t width = a.size(0) / 3;
      a.narrow(0, width, width).zero_();
      b.narrow(0, width, width).zero_();
    }
    EXPECT_TRUE(at::allclose(a, b, /*rtol=*/1e-3, /*atol=*/2e-4))
        << name << ": off by " << at::max((a - b).abs()).item<double>();
  }
}

std::vector<Outcome> execute_on_ranks(const Execute& execute,
                                      const std::map<std::string, std::string>& environment) {
  std::vector<pid_t> pids;
  std::vector<Execute> parts(execute.devices.size(), execute);
  for (std::size_t rank = 0; rank < parts.size(); ++rank) {
    parts[rank].rank = static_cast<int>(rank);
    pids.push_back(start_rank(parts[rank], environment));
  }
  std::vector<Outcome> outcomes;
  for (std::size_t rank = 0; rank < parts.size(); ++rank) {
    int status = 0;
    if (pids[rank] > 0) ::waitpid(pids[rank], &status, 0);
    std::ifstream in(result_file(parts[rank]));
    Outcome outcome;
    if (in)
      outcome = Json::parse(in).get<Outcome>();
    else
      outcome.error = "the process of rank " + std::to_string(rank) + " ended without an outcome";
    outcomes.push_back(std::move(outcome));
  }
  return outcomes;
}

Outcome RankBench::run(const Job& job) {
  auto& attempts = attempts_[job.id];
  Execute execute;
  Execute::Member& member = execute.pack.emplace_back();
  member.job = job;
  member.attempt = static_cast<int>(attempts.size()) + 1;
  const auto staging = bench_.folder().path() / "ranks" / (job.id.hex() + "." + std::to_string(member.attempt));
  std::filesystem::create_directories(staging);
  member.staging = staging.string();
  for (auto attempt = attempts.rbegin(); attempt != attempts.rend(); ++attempt)
    member.earlier_checkpoints.push_back((*attempt / "checkpoints").string());
  attempts.push_back(staging);
  execute.cache = bench_.cache.string();
  execute.devices = devices;
  execute.devices.resize(static_cast<std::size_t>(job.gpus), bench_.device);
  const std::vector<Outcome> outcomes = execute_on_ranks(execute, environment);
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.kind, outcomes.front().kind) << outcome.error;
    EXPECT_TRUE(!outcome.has_artifact || &outcome == &outcomes.front()) << "only the leader leaves an artifact";
  }
  return outcomes.front();
}

}  // namespace finesweep::worker
