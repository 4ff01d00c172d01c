#include "tests/engine/job_bench.h"

#include <deque>
#include <fstream>
#include <iterator>
#include <random>

#include "tests/engine/tiny_tokenizer.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;

std::string vocabulary() {
  std::string text = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n";
  for (const char* word :
       {"rain", "river", "storm", "bread", "cheese", "soup", "drum", "flute", "song", "the", "and"}) {
    text += std::string(word) + "\n";
  }
  for (char c = 'a'; c <= 'z'; ++c) text += std::string(1, c) + "\n##" + c + "\n";
  return text;
}

/// Three classes: weather, food, music. As text and label, or as source and target.
std::string rows(int count, unsigned seed, bool labelled) {
  static const char* words[3][3] = {
      {"rain", "river", "storm"}, {"bread", "cheese", "soup"}, {"drum", "flute", "song"}};
  static const char* names[3] = {"sky", "food", "tune"};
  std::mt19937 random(seed);
  std::string text;
  for (int i = 0; i < count; ++i) {
    const unsigned label = random() % 3;
    std::string sentence = "the";
    for (unsigned w = 0, n = 2 + random() % (labelled ? 6 : 2); w < n; ++w)
      sentence += std::string(" ") + words[label][random() % 3];
    const Json row = labelled ? Json{{"text", sentence}, {"label", label}}
                              : Json{{"source", sentence}, {"target", names[label]}};
    text += row.dump() + "\n";
  }
  return text;
}

Json read_json(const fs::path& path) {
  std::ifstream file(path);
  return Json::parse(file);
}

}  // namespace

JobBench::JobBench(const std::string& name) {
  fs::create_directories(model());
  const fs::path fixtures = fs::path(FINESWEEP_SOURCE_DIR) / "tests/fixtures", files = fixtures / "models" / name;
  for (const char* file : {"config.json", "model.safetensors", "generation_config.json"}) {
    if (fs::exists(files / file)) fs::copy_file(files / file, model() / file);
  }
  const Json config = read_json(model() / "config.json");
  const std::string family = config.at("model_type");
  const bool labelled = family == "bert" || family == "roberta", seq2seq = family == "t5";
  if (family == "bert") {
    folder_.write("model/vocab.txt", vocabulary());
  } else if (family == "roberta" || seq2seq) {
    const fs::path tokenizer = fixtures / "tokenizers" / (seq2seq ? "t5_unigram" : "roberta_small");
    for (const char* file : {"tokenizer.json", "tokenizer_config.json"}) {
      fs::copy_file(tokenizer / file, model() / file);
    }
  } else {
    folder_.write("model/tokenizer.json", byte_level_tokenizer(config.at("eos_token_id")).dump());
    folder_.write("model/tokenizer_config.json", R"({"eos_token": "<|endoftext|>"})");
  }
  Json fields{{"source", "source"}, {"target", "target"}};
  if (labelled) fields = {{"text", "text"}, {"label", "label"}};
  context = {{"task", labelled  ? "classification"
                      : seq2seq ? "seq2seq"
                                : "causal_lm"},
             {"model", model().string()},
             {"data",
              {{"train", folder_.write("train.jsonl", rows(60, 1, labelled)).string()},
               {"validation", folder_.write("validation.jsonl", rows(30, 2, labelled)).string()},
               {"test", folder_.write("test.jsonl", rows(30, 3, labelled)).string()},
               {"fields", fields}}}};
  if (!labelled && !seq2seq) context["data"].update({{"prompt", "{source}: "}, {"loss_on", "target"}});
}

Json JobBench::finetune_settings(const std::string& method) const {
  Json settings = {{"method", method},
                   {"epochs", 2},
                   {"batch_size", 8},
                   {"gradient_accumulation", 1},
                   {"sequence_length", 48},
                   {"learning_rate", 3e-3},
                   {"schedule", "constant"},
                   {"warmup", 2},
                   {"weight_decay", 0.01},
                   {"beta1", 0.9},
                   {"beta2", 0.999},
                   {"epsilon", 1e-8},
                   {"max_grad_norm", 1.0},
                   {"precision", "fp32"},
                   {"attention", "flash"},
                   {"model_dropout", 0.1},
                   {"gradient_checkpointing", false}};
  if (classifies()) settings["pooling"] = "cls";
  if (method == "lora" || method == "qlora")
    settings.update({{"rank", 4}, {"alpha", 8.0}, {"dropout", 0.1}, {"rslora", false}});
  if (method == "qlora") settings.update({{"double", true}, {"block_size", 64}, {"compute", "fp32"}});
  return settings;
}

Json JobBench::evaluate_settings(const std::string& split) const {
  Json settings = {{"split", split},        {"metrics", Json::array()}, {"batch_size", 8},
                   {"sequence_length", 48}, {"precision", "fp32"},      {"attention", "flash"}};
  if (classifies()) {
    settings["pooling"] = "cls";
  } else {
    settings["generation"] = {{"max_new_tokens", 6}, {"num_beams", 1}, {"do_sample", false}, {"kv_cache", true}};
  }
  return settings;
}

Job JobBench::job(StepKind kind, Json settings, std::uint64_t seed) const {
  Job job;
  job.kind = kind;
  job.settings = std::move(settings);
  job.context = context;
  job.seed = seed;
  job.id = JobId::of(std::string(step_kind_name(kind)) + job.settings.dump() + std::to_string(seed));
  job.checkpoint_every_s = 3600;
  return job;
}

Outcome JobBench::run(const Job& job) {
  RecordingControl control;
  return run(job, control);
}

ExecutionRequest JobBench::begin_attempt(const Job& job) {
  auto& attempts = attempts_[job.id];
  ExecutionRequest request;
  request.job = job;
  request.attempt = static_cast<int>(attempts.size()) + 1;
  request.device = device;
  request.cache = cache;
  request.staging = folder_.path() / "staging" / (job.id.hex() + "." + std::to_string(request.attempt));
  fs::create_directories(request.staging);
  for (auto attempt = attempts.rbegin(); attempt != attempts.rend(); ++attempt) {
    request.earlier_checkpoints.push_back(*attempt / "checkpoints");
  }
  attempts.push_back(request.staging);
  for (const JobId& input : job.inputs) request.artifacts[input] = artifacts_.at(input);
  if (job.continues) request.artifacts[*job.continues] = artifacts_.at(*job.continues);
  return request;
}

Outcome JobBench::run(const Job& job, ExecutionControl& control) {
  const ExecutionRequest request = begin_attempt(job);
  Outcome outcome = execute(request, control);
  if (outcome.has_artifact) artifacts_[job.id] = request.staging / "artifact";
  return outcome;
}

std::vector<Outcome> JobBench::run_pack(const std::vector<Job>& jobs,
                                        const std::vector<ExecutionControl*>& controls) {
  return run_pack(jobs, controls, {});
}

std::vector<Outcome> JobBench::run_pack(const std::vector<Job>& jobs,
                                        const std::vector<ExecutionControl*>& controls,
                                        const std::vector<std::vector<Job>>& joining) {
  std::deque<RecordingControl> own;
  std::vector<PackMember> members;
  const auto add = [&](const std::vector<Job>& some) {
    std::vector<PackMember> added;
    for (const Job& job : some) {
      const std::size_t i = members.size();
      const bool given = i < controls.size() && controls[i] != nullptr;
      added.push_back({begin_attempt(job), given ? controls[i] : &own.emplace_back()});
      members.push_back(added.back());
    }
    return added;
  };
  std::vector<Outcome> outcomes;
  ended_.clear();
  const auto ended = [&](std::size_t i, Outcome outcome) {
    if (outcome.has_artifact) artifacts_[members[i].request.job.id] = members[i].request.staging / "artifact";
    outcomes.resize(members.size());
    outcomes[i] = std::move(outcome);
    ended_.push_back(i);
  };
  std::size_t joined = 0;
  const auto who_joins = [&] { return add(joined < joining.size() ? joining[joined++] : std::vector<Job>()); };
  execute_pack(add(jobs), ended, who_joins);
  outcomes.resize(members.size());
  return outcomes;
}

std::map<std::string, double> reproducible(const Outcome& outcome) {
  std::map<std::string, double> metrics;
  for (const auto& [name, value] : outcome.metrics) {
    const auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
    if (!has("seconds") && !has("_ms") && !has("per_second") && !has("memory")) metrics[name] = value;
  }
  return metrics;
}

std::string read_bytes(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace finesweep::worker
