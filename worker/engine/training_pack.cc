#include <algorithm>
#include <chrono>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "worker/engine/device.h"
#include "worker/engine/finetune.h"
#include "worker/engine/pack_work.h"
#include "worker/engine/steps.h"
#include "worker/engine/training_run.h"
#include "worker/training/pack_trainer.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;

// Who joins makes the others wait until its data and adapter are there, about as long as so many of their steps
// take.
constexpr std::int64_t kStepsWorthJoining = 100;
constexpr std::chrono::milliseconds kAsksEvery{500};

struct TrainingMember : PackedMember {
  std::optional<FinetuneRecipe> recipe;
  std::unique_ptr<TrainingRun> run;
  std::future<Outcome> outcome;  // once its files are written
};

/// Jobs that train together, until the last of them has ended.
class TrainingPack final : public PackOf<TrainingMember> {
 public:
  TrainingPack(std::vector<WaitingMember> waiting, const MemberEnded& ended, c10::Device device,
               const WhoJoins& who_joins)
      : PackOf(ended, device), who_joins_(who_joins) {
    add(std::move(waiting));
  }

  void run() override try {
    train_all();
    tell_written(/*all=*/true);
  } catch (...) {
    tell_written(/*all=*/true);
    throw;
  }

  void save() noexcept override {
    for (Member* member : active()) {
      if (!member->run) continue;
      try {
        if (Status saved = member->run->save(); !saved) {
          std::fprintf(stderr, "no checkpoint: %s\n", saved.error().message.c_str());
        }
      } catch (const std::exception& error) {
        std::fprintf(stderr, "no checkpoint: %s\n", error.what());
      }
    }
  }

  /// From their checkpoints.
  std::vector<WaitingMember> remaining() const override {
    std::vector<WaitingMember> all = joining_;
    for (const Member& member : members_) {
      if (member.state != State::active && member.state != State::does_not_fit) continue;
      WaitingMember& one = all.emplace_back(member.waiting);
      const fs::path& staging = one.request.staging;
      std::error_code ignored;
      fs::remove_all(staging / "artifact", ignored);
      auto& checkpoints = one.request.earlier_checkpoints;
      if (std::find(checkpoints.begin(), checkpoints.end(), staging / "checkpoints") == checkpoints.end()) {
        checkpoints.insert(checkpoints.begin(), staging / "checkpoints");
      }
    }
    return all;
  }

 private:
  using Member = TrainingMember;

  void train_all() {
    for (Member& member : members_) prepare(member);
    load_base();
    keep_those_that_fit(active());
    rehearse();
    for (Member* member : active()) member->run->await_turn(/*alone=*/trainer_ == nullptr);
    for (bool first = true; !active().empty(); first = false) {
      if (!first) let_join();
      const std::vector<Member*> together = active();
      // One that others may still join is stepped as a pack.
      const bool may_be_joined = has_run_together() && may_join();
      if (together.size() == 1 && !may_be_joined) {
        tell_written(/*all=*/true);
        end(*together.front(), together.front()->run->train());
      } else {
        train(together);
      }
      for (Member& member : members_) {
        if (member.state != State::active && member.state != State::written) member.run.reset();
      }
    }
  }

  using PackOf::end;
  void end(Member& member, Ending ending) {
    if (!ending.write) return end(member, std::move(ending.outcome));
    member.state = State::written;
    written_.push_back(&member);
    member.outcome =
        std::async(std::launch::async, [ending = std::move(ending)]() mutable { return ending.written(); });
  }

  /// Tells of those whose files are written, in the order in which they ended, or waits for all of them. Their
  /// places are free from then on.
  void tell_written(bool all) {
    for (; !written_.empty(); written_.pop_front()) {
      Member& member = *written_.front();
      if (!all && member.outcome.wait_for(std::chrono::seconds(0)) != std::future_status::ready) return;
      end(member, member.outcome.get());
      member.run.reset();
      asked_ = {};
    }
  }

  void prepare(Member& member) {
    const auto failed = guarded_member([&]() -> std::optional<Outcome> {
      const ExecutionRequest& request = member.waiting.request;
      auto context = read_job_context(request.job.context);
      if (!context) return failed_for_good(context.error().message);
      auto recipe = FinetuneRecipe::read(request.job.settings);
      if (!recipe) return failed_for_good(recipe.error().message);
      member.context = std::move(*context);
      member.recipe.emplace(std::move(*recipe));
      member.run =
          std::make_unique<TrainingRun>(request, *member.context, device_, *member.waiting.control, *member.recipe);
      return member.run->prepare();
    });
    if (failed) {
      end(member, std::move(*failed));
      member.run.reset();
    }
  }

  /// The first member's base is the pack's.
  void load_base() {
    const std::vector<Member*> together = active();
    if (together.size() < 2) return;
    const TrainingRun& first = *together.front()->run;
    const TrainingSettings& of_first = together.front()->recipe->training();
    take_base(load_host(first.source(), first.head(), of_first.precision, of_first.model_dropout, device_));
  }

  Status fits(Member& member) {
    if (!host_.model) return Error{"there is no base"};
    return check_trainable_in_pack(*host_.model, member.run->model(), member.run->parameters());
  }

  void keep_those_that_fit(const std::vector<Member*>& some) {
    PackOf::keep_those_that_fit(some, [this](Member& member) { return fits(member); });
    for (Member* member : some) {
      if (member->state == State::does_not_fit) member->run.reset();
    }
  }

  std::unique_ptr<PackTrainer> trainer_of(const std::vector<Member*>& together) {
    std::vector<PackedTraining> trainings;
    for (Member* member : together) {
      trainings.push_back({&member->run->model(), &member->run->training(), *member->waiting.request.job.seed});
    }
    return std::make_unique<PackTrainer>(*host_.model, std::move(trainings));
  }

  /// Where the pack is to wait for its turn: makes its first step ready.
  void rehearse() try {
    const std::vector<Member*> together = active();
    if (device_.is_cpu() || together.size() < 2 || together.front()->waiting.control->has_turn()) return;
    std::vector<std::vector<Batch>> batches;
    for (Member* member : together) {
      batches.push_back(member->run->coming_batches());
      if (batches.back().empty()) return;
    }
    trainer_ = trainer_of(together);
    trainer_->rehearse(batches);
  } catch (...) {
    // There may be memory for it when it is the pack's turn.
    if (!describe_exception().out_of_memory) throw;
    trainer_.reset();
    release_cached_memory(device_);
  }

  /// While somebody has a while to go.
  bool may_join() {
    if (!who_joins_ || !host_.model) return false;
    const std::vector<Member*> together = active();
    return std::any_of(together.begin(), together.end(), [](const Member* member) {
      return member->run->steps_left() >= kStepsWorthJoining && !member->waiting.control->stop_requested();
    });
  }

  /// True where somebody comes: then the pack is to be formed anew.
  bool ask_who_joins() {
    asked_ = Clock::now();
    if (may_join()) joining_ = who_joins_();
    return !joining_.empty();
  }

  /// Others take the places of those that have left.
  void let_join() {
    if (joining_.empty() && (!written_.empty() || !ask_who_joins())) return;
    std::vector<Member*> joined = add(std::exchange(joining_, {}));
    for (Member* member : joined) prepare(*member);
    std::erase_if(joined, [](const Member* member) { return member->state != State::active; });
    keep_those_that_fit(joined);
    for (Member* member : joined) {
      if (member->state == State::active) member->run->await_turn(/*alone=*/false);
    }
  }

  /// Until somebody leaves.
  void train(const std::vector<Member*>& together) {
    run_together(together.size());
    for (Member* member : together) member->run->join_pack(static_cast<std::int64_t>(together.size()));
    const std::unique_ptr<PackTrainer> made = trainer_ ? std::move(trainer_) : trainer_of(together);
    PackTrainer& trainer = *made;
    try {
      while (step(trainer, together)) {
      }
      finish_steps(trainer, together, 0);
      for (Member* member : together) member->run->drop_steps();
      trainer.settle();
    } catch (...) {
      try {
        finish_steps(trainer, together, 0);  // a checkpoint is of whole steps
      } catch (const std::exception& error) {
        std::fprintf(stderr, "steps under way are lost: %s\n", error.what());
        for (Member* member : together) member->run.reset();
      }
      throw;
    }
  }

  /// False where the pack is to be formed anew.
  bool step(PackTrainer& trainer, const std::vector<Member*>& together) {
    tell_written(/*all=*/false);
    std::vector<Member*> due;
    for (Member* member : together) {
      if (member->state == State::active && member->run->is_due()) due.push_back(member);
    }
    if (!due.empty()) {
      if (!finish_steps(trainer, together, 0)) return stays(trainer, together);
      trainer.settle();
      bool left = false;
      for (Member* member : due) {
        std::optional<Ending> ended;
        auto failed = guarded_member([&]() -> std::optional<Outcome> {
          ended = member->run->rest();
          return std::nullopt;
        });
        if (failed) ended.emplace(std::move(*failed));
        left |= ended.has_value();
        if (ended) end(*member, std::move(*ended));
      }
      // Rows that are computed for nothing stay no longer than until now.
      if (left || active().size() < together.size()) return false;
    }
    // Who could come now may not have been there when the last one left.
    if (Clock::now() - asked_ >= kAsksEvery && ask_who_joins()) return false;
    std::vector<std::vector<Batch>> batches;
    for (Member* member : together) {
      const Training& training = member->run->training();
      if (training.steps_done() == training.total_steps()) return false;  // of one that is left out
      auto failed = guarded_member([&]() -> std::optional<Outcome> {
        auto drawn = member->run->next_batches();
        if (!drawn) return failed_for_good(drawn.error().message);
        for (const Batch& batch : *drawn) {
          if (Status fits = member->run->model().check(batch); !fits) return failed_for_good(fits.error().message);
        }
        batches.push_back(std::move(*drawn));
        return std::nullopt;
      });
      if (!failed) continue;
      if (member->state == State::active) end(*member, std::move(*failed));
      return false;
    }
    trainer.start(batches);
    // A GPU gets a step before it is done with the last one.
    return finish_steps(trainer, together, device_.is_cpu() ? 0 : 1) || stays(trainer, together);
  }

  /// Whether those that are left go on as they are after somebody failed.
  bool stays(const PackTrainer& trainer, const std::vector<Member*>& together) {
    return trainer.can_leave_out() && !spoilt_ &&
           std::any_of(together.begin(), together.end(), [](const Member* m) { return m->state == State::active; });
  }

  /// Waits until no more than so many steps are under way. False where one was not done, since a training diverged:
  /// that one has ended, and none is under way.
  bool finish_steps(PackTrainer& trainer, const std::vector<Member*>& together, std::int64_t most) {
    while (trainer.unfinished() > most) {
      const std::vector<StepReport> reports = trainer.finish();
      const bool done = std::all_of(reports.begin(), reports.end(), [](const StepReport& r) { return r.finite; });
      spoilt_ = false;
      for (std::size_t j = 0; j < together.size(); ++j) {
        Member& member = *together[j];
        spoilt_ |= !reports[j].finite && member.state != State::active;
        if (done && member.state == State::active) member.run->step_ended(reports[j]);
        if (!reports[j].finite && member.state == State::active) {
          end(member, *member.run->step_ended(reports[j]));
          member.state = State::left_out;
          if (trainer.can_leave_out()) trainer.leave_out(j);
        }
        if (!done || member.state != State::active) member.run->drop_steps();
      }
      if (!done) return false;
    }
    return true;
  }

  using Clock = std::chrono::steady_clock;
  const WhoJoins& who_joins_;
  Clock::time_point asked_ = Clock::now();
  std::vector<WaitingMember> joining_;    // who has come, and is not a member yet
  std::deque<Member*> written_;           // whose files are being written
  bool spoilt_ = false;                   // the last step, by somebody who is left out
  std::unique_ptr<PackTrainer> trainer_;  // of those that are active, made ready
};

}  // namespace

std::unique_ptr<PackWork> make_training_pack(std::vector<WaitingMember> members, const MemberEnded& ended,
                                             c10::Device device, const WhoJoins& who_joins) {
  return std::make_unique<TrainingPack>(std::move(members), ended, device, who_joins);
}

}  // namespace finesweep::worker
