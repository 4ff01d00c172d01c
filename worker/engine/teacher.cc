#include "worker/engine/teacher.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/nonzero.h>

#include <array>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <utility>

#include "worker/engine/loaded_base.h"
#include "worker/engine/model_files.h"
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

/// Hidden states of the tokens that count: of all rows one after the other, and how many each has.
struct CountedStates {
  at::Tensor hidden;
  std::vector<std::int64_t> counts;
};

CountedStates counted_states(LanguageModel& teacher, const Batch& batch) {
  if (Status fits = teacher.check(batch); !fits) throw std::runtime_error("the teacher: " + fits.error().message);
  const TokenOutputs out = teacher.outputs(batch, Pass());
  const at::Tensor counts = out.labels.ne(-100);
  CountedStates states;
  states.hidden = at::index_select(out.hidden.value, 0, at::nonzero(counts).squeeze(1));
  const at::Tensor on_cpu = counts.to(at::kCPU, at::kLong);
  for (std::int64_t r = 0; r < out.layout->rows; ++r) {
    states.counts.push_back(
        on_cpu.narrow(0, out.layout->starts[r], out.layout->tokens_of(r)).sum().item<std::int64_t>());
  }
  return states;
}

/// One at a time is kept, from job to job.
std::shared_ptr<TeacherStates> kept_states(const std::string& key) {
  // One job at a time runs in a process, on one thread.
  static std::string kept_key;
  static std::shared_ptr<TeacherStates> kept;
  if (kept == nullptr || kept_key != key) {
    kept = std::make_shared<TeacherStates>();
    kept_key = key;
  }
  return kept;
}

bool may_be_kept(const LanguageModel& teacher, const TaskData& rows, std::int64_t width) {
  std::int64_t tokens = 0;
  for (std::int64_t row = 0; row < rows.rows(); ++row) tokens += rows.tokens_in_row(row);
  const auto bytes_a_value = static_cast<std::int64_t>(c10::elementSize(teacher.compute_type()));
  return tokens * width * bytes_a_value <= Teacher::most_kept_bytes;
}

}  // namespace

at::Tensor TeacherStates::of(const std::vector<std::int64_t>& rows, LanguageModel& teacher, const TaskData& data) {
  rows_.resize(static_cast<std::size_t>(data.rows()));
  std::vector<at::Tensor> wanted;
  for (const std::int64_t row : rows) {
    if (!rows_[static_cast<std::size_t>(row)].defined()) {
      const auto group = consecutive_rows(row / group_rows * group_rows, group_rows, data.rows());
      const CountedStates states = counted_states(teacher, data.batch(group));
      std::int64_t begin = 0;
      for (std::size_t i = 0; i < group.size(); ++i) {
        rows_[static_cast<std::size_t>(group[i])] = states.hidden.narrow(0, begin, states.counts[i]);
        begin += states.counts[i];
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
  std::unique_ptr<Teacher> teacher(new Teacher({settings.temperature, settings.alpha}, std::move(*model), rows));
  LanguageModel* language = teacher->model_->language_model();
  if (language == nullptr) return teacher;
  const std::array<std::int64_t, 1> first{0};
  const Batch batch = rows.batch(first);
  if (Status fits = language->check(batch); !fits) return Error{"The teacher: " + fits.error().message};
  const TokenOutputs out = language->outputs(batch, Pass());
  teacher->head_ = {{}, out.head, out.scale};
  if (may_be_kept(*language, rows, out.hidden.value.size(1))) {
    teacher->kept_ = kept_states(fingerprint(settings.teacher) + "\n" + rows_key + "\n" +
                                 std::string(precision_name(settings.training.precision)) + " " + device.str());
  }
  return teacher;
}

Var Teacher::loss(Model& student, const Batch& batch, const Pass& pass, double denominator) {
  LanguageModel* language = student.language_model();
  if (language == nullptr) {
    const Var logits = student.logits(batch, pass);
    const at::Tensor labels = batch.labels.to(student.device());
    const at::Tensor teacher = how_.alpha > 0 ? model_->logits(batch, Pass()).value : logits.value;
    return distillation_loss(pass.tape, logits, teacher, labels, how_, denominator);
  }
  const TokenOutputs mine = language->outputs(batch, pass);
  if (how_.alpha == 0) {
    return linear_cross_entropy(pass.tape, mine.hidden, *mine.head, mine.labels, denominator, mine.scale,
                                mine.layout, pass.dropout);
  }
  LanguageModel& teacher = *model_->language_model();
  TeacherLogits logits = head_;
  logits.hidden = kept_ ? kept_->of(batch.row_indices, teacher, rows_) : counted_states(teacher, batch).hidden;
  return linear_distillation(pass.tape, mine.hidden, *mine.head, logits, mine.labels, how_, denominator,
                             mine.scale);
}

}  // namespace finesweep::worker
