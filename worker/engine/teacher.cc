#include "worker/engine/teacher.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/nonzero.h>

#include <array>
#include <cstdio>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "worker/engine/loaded_base.h"
#include "worker/engine/model_files.h"
#include "worker/kernels/gpu/kernels.h"
#include "worker/models/language_model.h"
#include "worker/models/pretrained.h"
#include "worker/models/weights.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;

bool has_tokenizer(const fs::path& model) {
  std::error_code ignored;
  return fs::is_regular_file(model, ignored) || holds_tokenizer(model);
}

/// What a language model says of a token has one number for each token.
Status check_same_vocabulary(Model& teacher, Model& student) {
  const LanguageModel *one = teacher.language_model(), *other = student.language_model();
  if ((one == nullptr) != (other == nullptr) ||
      (one != nullptr && one->is_encoder_decoder() != other->is_encoder_decoder())) {
    return Error{"The teacher (" + std::string(teacher.family()) + ") and the student (" +
                 std::string(student.family()) + ") do not do the same task. Choose a teacher of the same kind."};
  }
  if (one == nullptr || one->vocabulary() == other->vocabulary()) return {};
  return Error{"The teacher has a vocabulary of " + std::to_string(one->vocabulary()) +
               " tokens and the student of " + std::to_string(other->vocabulary()) +
               ". Distillation needs the same; choose models of one family."};
}

/// What a classifier says has one number for each class: the teacher's config must not name them in another order.
/// Names that transformers gives where nobody did ("LABEL_0") say nothing.
Status check_same_classes(const Json& config, const Labels& labels) {
  const Json named = config.value("id2label", Json());
  if (!named.is_object() || labels.names().empty()) return {};
  std::string order;
  bool same = true;
  for (std::size_t i = 0; i < labels.names().size(); ++i) {
    const Json name = named.value(std::to_string(i), Json());
    if (!name.is_string() || name.get<std::string>().starts_with("LABEL_")) return {};
    same = same && name == labels.names()[i];
    order += (i == 0 ? "" : ", ") + name.get<std::string>();
  }
  if (same) return {};
  return Error{"The teacher's classes are " + order +
               ", in this order; those of the data are others, or in another. Where they are the same, write "
               "data.labels: [" +
               order + "]."};
}

/// Rows that go through the teacher together.
constexpr std::int64_t group_rows = 8;

/// How many labels of each row count.
std::vector<std::int64_t> counts_of(const at::Tensor& labels, const TokenLayout& layout) {
  const at::Tensor counts = labels.ne(ignored_label).to(at::kCPU, at::kLong);
  std::vector<std::int64_t> of_row;
  for (std::int64_t r = 0; r < layout.rows; ++r) {
    of_row.push_back(counts.narrow(0, layout.starts[r], layout.tokens_of(r)).sum().item<std::int64_t>());
  }
  return of_row;
}

/// One at a time is kept, from job to job.
struct Kept {
  std::string key;
  std::shared_ptr<TeacherStates> states;
};

/// One job at a time runs in a process, on one thread.
Kept& kept() {
  static Kept instance;
  return instance;
}

std::shared_ptr<TeacherStates> kept_states(const std::string& key) {
  if (kept().states == nullptr || kept().key != key) kept() = {key, std::make_shared<TeacherStates>()};
  return kept().states;
}

bool may_be_kept(const LanguageModel& teacher, const TaskData& rows, std::int64_t width) {
  std::int64_t tokens = 0;
  for (std::int64_t row = 0; row < rows.rows(); ++row) tokens += rows.tokens_in_row(row);
  const auto bytes_a_value = static_cast<std::int64_t>(c10::elementSize(teacher.compute_type()));
  return tokens * width * bytes_a_value <= Teacher::most_kept_bytes;
}

}  // namespace

void forget_teacher_states() {
  kept() = {};
}

TeacherPass::TeacherPass(LanguageModel& teacher)
    : teacher_(teacher), graphs_(teacher.device(), {"the teacher's pass"}) {}

TeacherPass::Counted TeacherPass::run(const Batch& batch) {
  if (Status fits = teacher_.check(batch); !fits) throw std::runtime_error("the teacher: " + fits.error().message);
  std::optional<BatchInputs> inputs;
  if (gpu::has_kernels(teacher_.compute_type(), teacher_.device())) inputs = teacher_.inputs(batch, 0);
  if (!inputs) {
    const TokenOutputs out = teacher_.outputs(batch, Pass());
    const at::Tensor index = at::nonzero(out.labels.ne(ignored_label)).squeeze(1);
    return {at::index_select(out.hidden.value, 0, index), counts_of(out.labels, *out.layout)};
  }
  inputs->indexed = true;
  Counted counted;
  counted.of_row = counts_of(inputs->labels, *inputs->tokens.layout);
  counted.hidden = graphs_.run(*inputs, [this](const BatchInputs& on_device) {
    Pass pass;
    pass.inputs = &on_device;
    // What stands behind the tokens that count is cut off below.
    return at::index_select(teacher_.outputs(Batch(), pass).hidden.value, 0, on_device.counted.clamp_min(0));
  });
  const auto& of_row = counted.of_row;
  counted.hidden = counted.hidden.narrow(0, 0, std::accumulate(of_row.begin(), of_row.end(), std::int64_t{0}));
  return counted;
}

at::Tensor TeacherStates::of(const std::vector<std::int64_t>& rows, TeacherPass& teacher, const TaskData& data) {
  rows_.resize(static_cast<std::size_t>(data.rows()));
  std::vector<at::Tensor> wanted;
  for (const std::int64_t row : rows) {
    if (!rows_[static_cast<std::size_t>(row)].defined()) {
      const auto group = consecutive_rows(row / group_rows * group_rows, group_rows, data.rows());
      const TeacherPass::Counted states = teacher.run(data.batch(group));
      const at::Tensor kept = states.hidden.clone();
      std::int64_t begin = 0;
      for (std::size_t i = 0; i < group.size(); ++i) {
        rows_[static_cast<std::size_t>(group[i])] = kept.narrow(0, begin, states.of_row[i]);
        begin += states.of_row[i];
      }
    }
    wanted.push_back(rows_[static_cast<std::size_t>(row)]);
  }
  return at::cat(wanted);
}

Status check_same_tokens(const fs::path& teacher, const fs::path& student) {
  if (teacher == student) return {};
  if (!has_tokenizer(teacher)) {
    std::fprintf(stderr, "The teacher has no tokenizer: only the sizes of the vocabularies are compared.\n");
    return {};
  }
  const auto one = load_model_tokenizer(teacher), other = load_model_tokenizer(student);
  if (!one) return one.error();
  if (!other) return other.error();
  const std::string differ = "The teacher's tokenizer is not the student's: ";
  if ((*one)->vocabulary_size() != (*other)->vocabulary_size()) {
    return Error{differ + "it has " + std::to_string((*one)->vocabulary_size()) + " tokens, not " +
                 std::to_string((*other)->vocabulary_size()) +
                 ". Distillation needs the same tokens; choose models of one family."};
  }
  for (TokenId id = 0; id < (*one)->vocabulary_size(); ++id) {
    const std::array<TokenId, 1> token{id};
    if ((*one)->decode(token) == (*other)->decode(token)) continue;
    return Error{differ + "token " + std::to_string(id) +
                 " is another one there. Distillation needs the same tokens; choose models of one family."};
  }
  return {};
}

Result<std::unique_ptr<Teacher>> Teacher::load(const DistillSettings& settings, const HeadChoice& head,
                                               Model& student, const TaskData& rows, const std::string& rows_key,
                                               c10::Device device) {
  const auto pretrained = load_pretrained(settings.teacher, scalar_type_of(settings.training.precision), device);
  if (!pretrained) return pretrained.error();
  ModelOptions options;
  options.head = head ? ModelHead::classification : ModelHead::language_model;
  options.precision = settings.training.precision;
  options.frozen = true;
  if (head) {
    if (head->labels.count() < 2) return Error{"A regression cannot be distilled: its teacher gives no classes."};
    if (Status same = check_same_classes((*pretrained)->config, head->labels); !same) return same.error();
    options.labels = head->labels.count();
    options.pooling = head->pooling;
    bool has_head = false;
    for (std::size_t i = 0; i < (*pretrained)->specs.size(); ++i) {
      has_head = has_head || ((*pretrained)->specs[i].head && (*pretrained)->weights[i].present());
    }
    if (!has_head) {
      return Error{settings.teacher +
                   ": the teacher has no classification head. Fine-tune it for the task first, and export it."};
    }
  }
  auto model = make_model(*pretrained, options);
  if (!model) return model.error();
  if (Status same = check_same_vocabulary(**model, student); !same) return same.error();
  return of({settings.temperature, settings.alpha}, std::move(*model), rows,
            fingerprint(settings.teacher) + "\n" + rows_key + "\n" +
                std::string(precision_name(settings.training.precision)) + " " + device.str());
}

Result<std::unique_ptr<Teacher>> Teacher::of(const Distillation& how, std::unique_ptr<Model> model,
                                             const TaskData& rows, const std::optional<std::string>& key) {
  std::unique_ptr<Teacher> teacher(new Teacher(how, std::move(model), rows));
  LanguageModel* language = teacher->model_->language_model();
  if (language == nullptr) {
    teacher->forward_.emplace(*teacher->model_);
    return teacher;
  }
  teacher->pass_.emplace(*language);
  const std::array<std::int64_t, 1> first{0};
  const Batch batch = rows.batch(first);
  if (Status fits = language->check(batch); !fits) return Error{"The teacher: " + fits.error().message};
  const TokenOutputs out = language->outputs(batch, Pass());
  teacher->head_ = {{}, out.head, out.scale};
  if (key && may_be_kept(*language, rows, out.hidden.value.size(1))) teacher->kept_ = kept_states(*key);
  return teacher;
}

Teacher::Teacher(const Distillation& how, std::unique_ptr<Model> model, const TaskData& rows)
    : how_(how), model_(std::move(model)), rows_(rows) {}

TrainingLoss Teacher::loss(Model& student) {
  TrainingLoss loss;
  loss.compute = [this, &student](const Batch& batch, const Pass& pass, const Denominator& denominator) {
    return this->loss(student, batch, pass, denominator);
  };
  if (how_.alpha > 0) loss.teacher = [this](const Batch& batch) { return outputs(batch); };
  return loss;
}

at::Tensor Teacher::outputs(const Batch& batch) {
  if (forward_) return forward_->logits(batch);
  return kept_ ? kept_->of(batch.row_indices, *pass_, rows_) : pass_->run(batch).hidden;
}

Var Teacher::loss(Model& student, const Batch& batch, const Pass& pass, const Denominator& denominator) {
  const auto teacher = [&] { return pass.inputs != nullptr ? pass.inputs->teacher : outputs(batch); };
  LanguageModel* language = student.language_model();
  if (language == nullptr) {
    const Var logits = student.logits(batch, pass);
    const at::Tensor labels = pass.inputs != nullptr ? pass.inputs->labels : batch.labels.to(student.device());
    return distillation_loss(pass.tape, logits, how_.alpha > 0 ? teacher() : logits.value, labels, how_,
                             denominator);
  }
  const TokenOutputs mine = language->outputs(batch, pass);
  const TokenLabels labels(mine.labels, mine.counted);
  if (how_.alpha == 0) {
    return linear_cross_entropy(pass.tape, mine.hidden, *mine.head, labels, denominator, mine.scale, mine.layout,
                                pass.dropout);
  }
  TeacherLogits logits = head_;
  logits.hidden = teacher();
  return linear_distillation(pass.tape, mine.hidden, *mine.head, logits, labels, how_, denominator, mine.scale);
}

}  // namespace finesweep::worker
