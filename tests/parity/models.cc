#include "tests/parity/models.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <dlfcn.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "worker/formats/safetensors.h"
#include "worker/models/family.h"

namespace finesweep::parity {
namespace {

// As the references were computed; and these models are too small for two threads to help one another.
[[maybe_unused]] const auto* one_thread = testing::AddGlobalTestEnvironment([] {
  struct OneThread : testing::Environment {
    void SetUp() override { at::set_num_threads(1); }
  };
  return new OneThread;
}());

/// The file of models/ that has these bytes.
std::optional<std::filesystem::path> model_file(const nlohmann::json& facts) {
  const std::filesystem::path folder = std::filesystem::path(FINESWEEP_SOURCE_DIR) / "models";
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    if (entry.path().extension() != ".gguf" ||
        std::filesystem::file_size(entry.path(), ignored) != facts.at("bytes"))
      continue;
    return entry.path();
  }
  return std::nullopt;
}

}  // namespace

c10::Device device() {
  static const c10::Device chosen = [] {
    const char* name = std::getenv("FINESWEEP_PARITY_DEVICE");
    if (name == nullptr) return c10::Device(c10::kCPU);
    // As the runner does: libtorch's CUDA half is loaded before anything asks for it.
    if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) throw std::runtime_error(dlerror());
    return c10::Device(name);
  }();
  return chosen;
}

Result<std::shared_ptr<const worker::Pretrained>> pretrained_of(
    const std::filesystem::path& folder, at::ScalarType storage,
    const std::optional<worker::BaseQuantization>& quantization) {
  return worker::load_pretrained(folder, storage, device(), quantization);
}

Tensors read_tensors(const std::filesystem::path& path) {
  Tensors tensors;
  const auto file = worker::SafetensorsFile::open(path);
  EXPECT_TRUE(file.ok()) << (file.ok() ? "" : file.error().message);
  for (const std::string& name : file->names()) tensors[name] = file->tensor(name).value();
  return tensors;
}

worker::Batch batch_of(const Tensors& tensors, const std::string& prefix) {
  worker::Batch batch;
  batch.input_ids = tensors.at(prefix + "input_ids");
  batch.attention_mask = tensors.at(prefix + "attention_mask");
  const auto types = tensors.find(prefix + "token_type_ids");
  if (types != tensors.end()) batch.token_type_ids = types->second;
  const auto decoder_ids = tensors.find(prefix + "decoder_input_ids");
  if (decoder_ids != tensors.end()) batch.decoder_input_ids = decoder_ids->second;
  const auto labels = tensors.find(prefix + "labels");
  if (labels != tensors.end()) batch.labels = labels->second;
  const auto positions = tensors.find(prefix + "position_ids");
  if (positions != tensors.end()) batch.position_ids = positions->second;
  for (std::int64_t i = 0; i < batch.input_ids.size(0); ++i) batch.row_indices.push_back(i);
  return batch;
}

std::vector<std::filesystem::path> classifier_cases(
    const std::filesystem::path& parent,
    const std::function<std::filesystem::path(const std::filesystem::path&)>& model_of) {
  std::vector<std::filesystem::path> cases;
  for (const std::filesystem::path& folder : folders_in(parent)) {
    const std::filesystem::path config = model_of(folder) / "config.json";
    if (!std::filesystem::exists(config)) continue;
    const nlohmann::json json = read_json(config);
    const std::string architecture = json.value("architectures", nlohmann::json::array({""})).at(0);
    if (!architecture.ends_with("ForSequenceClassification")) continue;
    if (worker::find_family(json.value("model_type", "")) != nullptr) cases.push_back(folder);
  }
  EXPECT_FALSE(cases.empty()) << "no case for a classifier in " << parent;
  return cases;
}

std::unique_ptr<worker::Model> classifier(const std::filesystem::path& folder, bool train_all,
                                          Precision precision) {
  auto pretrained = pretrained_of(folder);
  EXPECT_TRUE(pretrained.ok()) << (pretrained.ok() ? "" : pretrained.error().message);
  worker::ModelOptions options;
  options.precision = precision;
  options.train_all = train_all;
  // Not stored when it is 2.
  const nlohmann::json config = read_json(folder / "config.json");
  options.labels = config.contains("id2label") ? static_cast<std::int64_t>(config["id2label"].size()) : 2;
  auto model = worker::make_model(*pretrained, options);
  EXPECT_TRUE(model.ok()) << (model.ok() ? "" : model.error().message);
  return std::move(*model);
}

double loss_and_gradients(worker::Model& model, const worker::Batch& batch) {
  const at::NoGradGuard no_graph;
  worker::Tape tape;
  worker::Pass pass;
  pass.tape = &tape;
  const worker::Var loss = model.loss(batch, pass, static_cast<double>(model.counted(batch)));
  worker::backward(tape, loss);
  return loss.value.item<double>();
}

at::Tensor logits_of(worker::Model& model, const worker::Batch& batch) {
  const at::NoGradGuard no_graph;
  return model.logits(batch, worker::Pass()).value.cpu();
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a.cpu().to(at::kDouble) - b.cpu().to(at::kDouble)).abs().max().item<double>();
}

Tensors gradients_of(const std::vector<worker::Parameter*>& parameters) {
  Tensors gradients;
  for (const worker::Parameter* parameter : parameters) {
    for (std::size_t i = 0; i < parameter->parts.size(); ++i) {
      gradients[parameter->parts[i].name] = parameter->in_file_layout(parameter->grad, i).cpu();
    }
  }
  return gradients;
}

int expect_same_gradients(const Tensors& expected, const Tensors& mine, double tolerance) {
  double model_largest = 0;
  for (const auto& [name, gradient] : mine)
    model_largest = std::max(model_largest, gradient.abs().max().item<double>());
  int compared = 0;
  for (const auto& [key, gradient] : expected) {
    if (!key.starts_with("grad.")) continue;
    const std::string name = key.substr(5);
    if (!mine.contains(name)) {
      ADD_FAILURE() << "no gradient of " << name;
      continue;
    }
    const double scale = gradient.abs().max().item<double>() + 1e-4 * model_largest;
    EXPECT_LE(largest_difference(gradient, mine.at(name)) / scale, tolerance) << name;
    ++compared;
  }
  return compared;
}

std::vector<std::filesystem::path> models_of_family(const std::string& model_type) {
  std::vector<std::filesystem::path> models;
  for (const std::filesystem::path& folder : folders_in(fixtures() / "models")) {
    if (read_json(folder / "config.json").value("model_type", "") == model_type) models.push_back(folder);
  }
  EXPECT_FALSE(models.empty()) << "no model of the family " << model_type;
  return models;
}

std::unique_ptr<worker::Model> language_model(const std::filesystem::path& folder, bool train_all,
                                              Precision precision) {
  auto pretrained = pretrained_of(folder);
  EXPECT_TRUE(pretrained.ok()) << (pretrained.ok() ? "" : pretrained.error().message);
  worker::ModelOptions options;
  options.head = worker::ModelHead::language_model;
  options.precision = precision;
  options.train_all = train_all;
  auto model = worker::make_model(*pretrained, options);
  EXPECT_TRUE(model.ok()) << (model.ok() ? "" : model.error().message);
  return std::move(*model);
}

std::filesystem::path model_variant(const std::filesystem::path& folder, const std::string& name,
                                    const std::function<void(Tensors&, nlohmann::json&)>& change) {
  const auto variant = std::filesystem::path(testing::TempDir()) / (name + "_of_" + folder.filename().string());
  std::filesystem::create_directories(variant);
  Tensors tensors = read_tensors(folder / "model.safetensors");
  nlohmann::json config = read_json(folder / "config.json");
  change(tensors, config);
  const auto written = worker::write_safetensors(variant / "model.safetensors", {tensors.begin(), tensors.end()});
  EXPECT_TRUE(written.ok()) << (written.ok() ? "" : written.error().message);
  std::ofstream(variant / "config.json") << config.dump();
  return variant;
}

double gradient_cosine(const Tensors& a, const Tensors& b) {
  double dot = 0, a_squared = 0, b_squared = 0;
  for (const auto& [name, gradient] : a) {
    const at::Tensor& other = b.at(name);
    dot += (gradient * other).sum().item<double>();
    a_squared += (gradient * gradient).sum().item<double>();
    b_squared += (other * other).sum().item<double>();
  }
  return dot / std::sqrt(a_squared * b_squared);
}

void expect_same_gradient_norms(const nlohmann::json& facts, const Tensors& mine) {
  const auto norms = facts.at("grad_norms").get<std::map<std::string, double>>();
  EXPECT_EQ(norms.size(), mine.size());
  double largest = 0;
  for (const auto& [name, norm] : norms) largest = std::max(largest, norm);
  for (const auto& [name, norm] : norms) {
    ASSERT_TRUE(mine.contains(name)) << name;
    EXPECT_LE(std::abs(mine.at(name).norm().item<double>() - norm) / (norm + 1e-4 * largest), 2e-4) << name;
  }
}

std::vector<std::pair<nlohmann::json, std::filesystem::path>> known_gguf_files() {
  std::vector<std::pair<nlohmann::json, std::filesystem::path>> files;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(fixtures() / "gguf", none)) {
    if (entry.path().extension() != ".json") continue;
    const auto facts = read_json(entry.path());
    if (const auto file = model_file(facts)) {
      files.emplace_back(facts, *file);
    } else {
      std::fprintf(stderr, "NOT TESTED: no file in models/ is %s of %s; scripts/setup --models fetches it\n",
                   facts.at("file").get<std::string>().c_str(),
                   facts.at("from_package").get<std::string>().c_str());
    }
  }
  return files;
}

}  // namespace finesweep::parity
