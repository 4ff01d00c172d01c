#include <ATen/core/grad_mode.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "worker/engine/device.h"
#include "worker/engine/evaluation_job.h"
#include "worker/engine/pack_work.h"
#include "worker/kernels/attention_choice.h"
#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/matmul.h"
#include "worker/training/pack_forward.h"

namespace finesweep::worker {
namespace {

/// Rows of both pass through heads of one kind.
bool same_kind_of_head(const HeadChoice& a, const HeadChoice& b) {
  if (!a || !b) return !a && !b;
  return a->pooling == b->pooling;
}

/// Adapters of both stand on one model, kept in one way.
bool same_base(const ModelSource& a, const ModelSource& b) {
  return a.model == b.model && a.quantization == b.quantization && a.compute == b.compute && a.storage == b.storage;
}

/// On a GPU a number that is none would reach the rows of other jobs through products with all ranks. The device is
/// waited for once.
Status check_finite(const Adapter& adapter) {
  const std::vector<Parameter*> parameters = adapter.parameters();
  std::vector<at::Tensor> finite;
  for (const Parameter* parameter : parameters) finite.push_back(at::isfinite(parameter->value).all());
  const at::Tensor found = at::stack(finite).cpu();
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (!found[static_cast<std::int64_t>(i)].item<bool>())
      return Error{parameters[i]->parts.front().name + " has a number that is not finite"};
  }
  return {};
}

struct EvaluationMember : PackedMember {
  std::optional<ModelSource> source;
  std::unique_ptr<EvaluationJob> job;
  std::unique_ptr<EvaluationPasses> passes;
  std::optional<Batch> batch;  // the next one
};

/// A pass of a pack that the device computes.
struct PassOut {
  std::vector<std::optional<Batch>> batches;  // of each job
  std::vector<double> counted;
  PackForward::Given given;
};

class EvaluationPack final : public PackOf<EvaluationMember> {
 public:
  EvaluationPack(std::vector<WaitingMember> waiting, const MemberEnded& ended, c10::Device device)
      : PackOf(ended, device) {
    add(std::move(waiting));
  }

  void run() override {
    for (Member& member : members_) prepare(member);
    load_base();
    keep_those_that_fit(active(), [this](const Member& member) { return check_fits(member, *active().front()); });
    for (Member& member : members_) {
      if (member.state == State::does_not_fit) member.job.reset();
    }
    const std::vector<Member*> together = active();
    if (together.empty()) return;
    if (together.size() == 1) return evaluate_alone(*together.front());
    evaluate_together(together);
  }

  std::vector<WaitingMember> remaining() const override {
    std::vector<WaitingMember> all;
    for (const Member& member : members_) {
      if (member.state != State::ended) all.push_back(member.waiting);
    }
    return all;
  }

 private:
  using Member = EvaluationMember;

  void prepare(Member& member) {
    auto failed = guarded_member([&]() -> std::optional<Outcome> {
      const ExecutionRequest& request = member.waiting.request;
      auto context = read_job_context(request.job.context);
      if (!context) return failed_for_good(context.error().message);
      member.context = std::move(*context);
      auto source = find_model(request, *member.context);
      if (!source) return failed_for_good(source.error().message);
      member.source = std::move(*source);
      // Another base would take this one's place among what is kept loaded.
      const auto first = std::find_if(members_.begin(), members_.end(), [](const Member& m) { return m.source; });
      if (!same_base(*member.source, *first->source)) {
        member.state = State::does_not_fit;
        return std::nullopt;
      }
      member.job = std::make_unique<EvaluationJob>(request, *member.context, device_, *member.waiting.control);
      if (auto outcome = member.job->prepare(*member.source)) return outcome;
      auto passes = member.job->passes();
      if (!passes) return failed_for_good(passes.error().message);
      member.passes = std::move(*passes);
      return std::nullopt;
    });
    if (!failed) return;
    end(member, std::move(*failed));
    member.job.reset();
  }

  Status check_fits(const Member& member, const Member& first) const {
    if (!host_.model) return Error{"there is no base"};
    if (member.job->adapter() == nullptr) return Error{"it has no adapter"};
    if (!same_kind_of_head(member.job->head(), first.job->head()) ||
        member.passes->output() != first.passes->output()) {
      return Error{"it measures something else"};
    }
    if (Status fits = check_packable(*host_.model, member.job->model()); !fits) return fits;
    if (device_.is_cpu()) return {};
    if (!gpu::has_kernels(host_.model->compute_type(), device_)) return Error{"no kernels of this GPU compute it"};
    return check_finite(*member.job->adapter());
  }

  /// The first member's base is the pack's.
  void load_base() {
    const std::vector<Member*> together = active();
    if (together.size() < 2) return;
    const Member& first = *together.front();
    take_base(load_host(*first.source, first.job->head(), first.job->settings().precision, {}, device_));
  }

  void evaluate_alone(Member& member) {
    member.job.reset();
    host_.model.reset();
    const auto outcome = guarded_member(
        [&] { return evaluate(member.waiting.request, *member.context, device_, *member.waiting.control); });
    end(member, *outcome);
  }

  void evaluate_together(const std::vector<Member*>& together) {
    const AttentionChoice attention(together.front()->job->settings().attention);
    const at::NoGradGuard no_graph;
    run_together(together.size());
    std::vector<Model*> models;
    for (Member* member : together) models.push_back(&member->job->model());
    std::int64_t passes = 1;
    bool captured = false;
    for (const Member* member : together) {
      passes = std::max(passes, member->job->passes_to_make());
      captured |= member->job->is_captured();
    }
    const gpu::RepeatedProducts repeats(passes);
    PackForward forward(*host_.model, std::move(models), captured ? 2 : ForwardGraphs::kSeldom);
    rehearse(forward, together, captured ? 2 : 1);
    for (Member* member : together) member->job->await_turn();
    std::optional<PassOut> out;  // a GPU computes it while the next batches are drawn
    do {
      draw(together);
      std::optional<PassOut> next = start_pass(forward, together);
      if (out) take(*out, together);
      out = std::move(next);
      end_finished(together, out);
    } while (out);
  }

  /// Where the pack is to wait for its turn: makes its first pass ready.
  void rehearse(PackForward& forward, const std::vector<Member*>& together, int times) try {
    if (device_.is_cpu() || together.front()->waiting.control->has_turn()) return;
    for (; times > 0 && forward.captured() == 0; --times) {
      for (Member* member : together) {
        const auto passes = member->job->passes();
        auto batch = passes ? (*passes)->next(member->job->model()) : passes.error();
        if (!batch) return;  // fails when it counts
        member->batch = std::move(*batch);
      }
      start_pass(forward, together);
    }
  } catch (...) {
    // There may be memory for it when it is the pack's turn.
    if (!describe_exception().out_of_memory) throw;
    release_cached_memory(device_);
  }

  /// Each member's next batch; who is stopped or has failed ends.
  void draw(const std::vector<Member*>& together) {
    for (Member* member : together) {
      member->batch.reset();
      if (member->state != State::active || member->passes->finished()) continue;
      if (auto ended = guarded_member([&] { return draw(*member); })) end(*member, std::move(*ended));
    }
  }

  static std::optional<Outcome> draw(Member& member) {
    if (!member.job->go_on(member.passes->done())) {
      Outcome stopped;
      stopped.kind = OutcomeKind::interrupted;
      return stopped;
    }
    auto batch = member.passes->next(member.job->model());
    if (!batch) return failed_for_good(batch.error().message);
    member.batch = std::move(*batch);
    return std::nullopt;
  }

  /// Of the batches that were drawn; none: there are none.
  static std::optional<PassOut> start_pass(PackForward& forward, const std::vector<Member*>& together) {
    std::vector<std::optional<Batch>> batches;
    std::vector<double> counted;
    for (Member* member : together) {
      batches.push_back(std::exchange(member->batch, std::nullopt));
      const auto& batch = batches.back();
      counted.push_back(batch ? static_cast<double>(member->job->model().counted(*batch)) : 0);
    }
    std::vector<const Batch*> given;
    for (const auto& batch : batches) given.push_back(batch ? &*batch : nullptr);
    if (std::ranges::count(given, nullptr) == std::ssize(given)) return std::nullopt;
    const bool logits = together.front()->passes->output() == EvaluationPasses::Output::logits;
    PackForward::Given output = logits ? forward.logits(given) : forward.losses(given, counted);
    return PassOut{std::move(batches), std::move(counted), std::move(output)};
  }

  static void take(const PassOut& out, const std::vector<Member*>& together) {
    const bool logits = together.front()->passes->output() == EvaluationPasses::Output::logits;
    const std::vector<at::Tensor> of_rows = logits ? out.given.logits() : std::vector<at::Tensor>();
    const std::vector<double> losses = logits ? std::vector<double>() : out.given.losses();
    for (std::size_t j = 0; j < together.size(); ++j) {
      if (!out.batches[j] || together[j]->state != State::active) continue;
      EvaluationPasses::Given given;
      if (logits) {
        given.logits = of_rows[j];
      } else {
        given.loss = losses[j];
        given.counted = static_cast<std::int64_t>(out.counted[j]);
      }
      together[j]->passes->take(*out.batches[j], given);
    }
  }

  /// Those that have no batch in the pass that is out, and none left.
  void end_finished(const std::vector<Member*>& together, const std::optional<PassOut>& out) {
    for (std::size_t j = 0; j < together.size(); ++j) {
      Member& member = *together[j];
      if (member.state != State::active || !member.passes->finished() || (out && out->batches[j])) continue;
      const auto metrics = member.passes->metrics();
      Outcome outcome = metrics ? member.job->finish(*metrics) : failed_for_good(metrics.error().message);
      outcome.metrics.erase("peak_memory_mb");  // is that of all
      end(member, std::move(outcome));
    }
  }
};

}  // namespace

std::unique_ptr<PackWork> make_evaluation_pack(std::vector<WaitingMember> members, const MemberEnded& ended,
                                               c10::Device device) {
  return std::make_unique<EvaluationPack>(std::move(members), ended, device);
}

}  // namespace finesweep::worker
