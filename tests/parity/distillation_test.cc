// The distillation loss and its gradient against PyTorch's.

#include "worker/kernels/distillation.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include "tests/parity/models.h"

namespace finesweep::parity {
namespace {

using namespace finesweep::worker;

/// The fixtures' stated tolerance for scalars; gradients are sums of a few of them.
constexpr double kTolerance = 1e-5;

struct DistillationCase {
  at::Tensor student, teacher, labels;  // a row for each that could count
  double counted = 0;
  std::vector<std::int64_t> shape;  // of the student tensor as the fixtures have it
  bool shift = false;

  /// The gradient of the rows as that of the whole student tensor: the last position of a shifted row has none.
  at::Tensor whole(const at::Tensor& gradient) const {
    if (!shift) return gradient.view(shape);
    at::Tensor all = at::zeros(shape, at::kFloat);
    all.narrow(1, 0, shape[1] - 1).copy_(gradient.view({shape[0], shape[1] - 1, shape[2]}));
    return all;
  }
};

DistillationCase read_case(const Tensors& tensors, const nlohmann::json& json) {
  const std::string kind = json.at("kind");
  DistillationCase c;
  c.shift = json.at("shift");
  at::Tensor student = tensors.at(kind + ".student"), teacher = tensors.at(kind + ".teacher"),
             labels = tensors.at(kind + ".labels");
  c.shape = student.sizes().vec();
  if (c.shift) {
    const std::int64_t kept = labels.size(1) - 1;
    student = student.narrow(1, 0, kept);
    teacher = teacher.narrow(1, 0, kept);
    labels = labels.narrow(1, 1, kept);
  }
  c.student = student.reshape({-1, student.size(-1)}).clone();
  c.teacher = teacher.reshape({-1, teacher.size(-1)}).clone();
  c.labels = labels.reshape({-1}).clone();
  c.counted = static_cast<double>(c.labels.ne(-100).sum().item<std::int64_t>());
  return c;
}

/// A loss and the gradient of the student's logits.
using Loss = std::function<Var(Tape* tape, const Var& student, const DistillationCase& c, const Distillation& how)>;

Var from_logits(Tape* tape, const Var& student, const DistillationCase& c, const Distillation& how) {
  return distillation_loss(tape, student, c.teacher, c.labels, how, c.counted);
}

/// Through heads that are the identity, so that hidden states are logits.
Var from_hidden_states(Tape* tape, const Var& student, const DistillationCase& c, const Distillation& how) {
  static Parameter identity;
  identity.value = at::eye(c.student.size(1));
  static LinearModule head;
  head.weight = &identity;
  const at::Tensor teacher = c.teacher.index_select(0, at::nonzero(c.labels.ne(-100)).squeeze(1));
  return linear_distillation(tape, student, head, {teacher, &head, 1}, c.labels, how, c.counted, 1);
}

void compare(const Loss& loss) {
  const Tensors tensors = read_tensors(fixtures() / "distill" / "tensors.safetensors");
  const auto expected = read_json(fixtures() / "distill" / "expected.json");
  ASSERT_FALSE(expected.at("cases").empty());
  int gradients = 0;
  for (const auto& json : expected.at("cases")) {
    const std::string key = json.at("key");
    SCOPED_TRACE(key);
    const DistillationCase c = read_case(tensors, json);
    const Distillation how{json.at("temperature"), json.at("alpha")};
    const auto value = [&](double alpha) {
      return loss(nullptr, Var(c.student), c, {how.temperature, alpha}).value.item<double>();
    };
    EXPECT_NEAR(value(1), json.at("kd").get<double>(), kTolerance);
    EXPECT_NEAR(value(0), json.at("ce").get<double>(), kTolerance);
    Tape tape;
    const Var student = tape.track(c.student);
    const Var total = loss(&tape, student, c, how);
    EXPECT_NEAR(total.value.item<double>(), json.at("total").get<double>(), kTolerance);
    backward(tape, total);
    const at::Tensor gradient = c.whole(student.slot->grad);
    EXPECT_NEAR(gradient.norm().item<double>(), json.at("grad_norm").get<double>(), kTolerance);
    const auto stored = tensors.find("grad." + key);
    if (stored == tensors.end()) continue;
    ++gradients;
    EXPECT_LT(largest_difference(gradient, stored->second), 1e-6);
  }
  EXPECT_GT(gradients, 0);
}

TEST(DistillationParity, losses_and_gradients_of_logits) {
  compare(from_logits);
}

TEST(DistillationParity, losses_and_gradients_straight_from_hidden_states) {
  compare(from_hidden_states);
}

}  // namespace
}  // namespace finesweep::parity
