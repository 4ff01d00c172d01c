#pragma once

#include <c10/core/Device.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "worker/engine/job_model.h"
#include "worker/engine/steps.h"
#include "worker/executor.h"

namespace finesweep::worker {

/// A member of a pack that is still to be ended.
struct WaitingMember {
  std::size_t number = 0;  // execute_pack's
  ExecutionRequest request;
  ExecutionControl* control = nullptr;
};

/// execute_pack's.
using MemberEnded = std::function<void(std::size_t, Outcome)>;
using WhoJoins = std::function<std::vector<WaitingMember>()>;

/// Jobs of one kind that run together (engine/pack.cc), until the last of them has ended.
class PackWork {
 public:
  virtual ~PackWork() = default;
  /// Throws what libraries throw, a lack of memory among it; then save() and remaining().
  virtual void run() = 0;
  /// Writes the checkpoints of those that have not ended, where they can be written.
  virtual void save() noexcept {}
  /// Who has not ended: to be run again, without this.
  virtual std::vector<WaitingMember> remaining() const = 0;

 protected:
  /// `ended` must outlive it.
  PackWork(const MemberEnded& ended, c10::Device device) : device_(device), ended_(ended) {}

  /// So many members run together from now on.
  void run_together(std::size_t members);
  bool has_run_together() const { return packed_ > 1; }
  /// The end of a member.
  void end(const WaitingMember& member, Outcome outcome);
  static void say_not_packed(const JobId& job, const Error& why);

  const c10::Device device_;

 private:
  const MemberEnded& ended_;
  std::int64_t packed_ = 1;  // the most that ran together
};

/// What the members of a pack have in common. left_out: it has ended as failed, and its rows stay in the batches
/// until the pack is formed anew. written: it has computed, and its files are written beside what the others do.
/// does_not_fit: runs by itself, behind the pack.
struct PackedMember {
  enum class State { active, left_out, written, ended, does_not_fit };
  WaitingMember waiting;
  State state = State::active;
  std::optional<JobContext> context;
};

/// A pack of such members; Member is what one kind of job makes of PackedMember.
template <typename Member>
class PackOf : public PackWork {
 protected:
  using State = PackedMember::State;
  using PackWork::PackWork;

  /// Those at the end of members_, which stay where they are.
  std::vector<Member*> add(std::vector<WaitingMember> waiting) {
    std::vector<Member*> added;
    for (WaitingMember& one : waiting) {
      added.push_back(&members_.emplace_back());
      added.back()->waiting = std::move(one);
    }
    return added;
  }

  std::vector<Member*> active() {
    std::vector<Member*> all;
    for (Member& member : members_) {
      if (member.state == State::active) all.push_back(&member);
    }
    return all;
  }

  void end(Member& member, Outcome outcome) {
    member.state = State::ended;
    PackWork::end(member.waiting, std::move(outcome));
  }

  /// The pack's first member stays in any case, alone where it cannot be packed: so those that do not fit come to
  /// an end when they are put together again. `fits` is asked of each of `some`, and of the first.
  template <typename Fits>
  void keep_those_that_fit(const std::vector<Member*>& some, Fits fits) {
    const std::vector<Member*> together = active();
    if (together.size() < 2) return;
    const Status first_fits = fits(*together.front());
    for (Member* member : some) {
      const Status its = first_fits ? fits(*member) : first_fits;
      if (its) continue;
      say_not_packed(member->waiting.request.job.id, its.error());
      if (member != together.front()) member->state = State::does_not_fit;
    }
  }

  /// The frozen model that the batches go through; without one nobody fits.
  void take_base(Result<JobModel> base) {
    if (base) {
      host_ = std::move(*base);
    } else {
      std::fprintf(stderr, "jobs are not packed: %s\n", base.error().message.c_str());
    }
  }

  JobModel host_;  // goes after those that are packed
  std::deque<Member> members_;
};

/// What a member's own work gives. What it throws is its own failure, but for a lack of memory, which the pack is
/// to blame for.
std::optional<Outcome> guarded_member(const std::function<std::optional<Outcome>()>& work);

/// Trainings of adapters, which hold the members' steps in checkpoints. `who_joins` may be empty; it must outlive
/// it.
std::unique_ptr<PackWork> make_training_pack(std::vector<WaitingMember> members, const MemberEnded& ended,
                                             c10::Device device, const WhoJoins& who_joins);
/// Evaluations of adapters by what passes give, without generated text. Who is to be run again begins anew.
std::unique_ptr<PackWork> make_evaluation_pack(std::vector<WaitingMember> members, const MemberEnded& ended,
                                               c10::Device device);

}  // namespace finesweep::worker
