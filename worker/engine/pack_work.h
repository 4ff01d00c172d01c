#pragma once

#include <c10/core/Device.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

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
  /// The end of a member.
  void end(const WaitingMember& member, Outcome outcome);

  const c10::Device device_;

 private:
  const MemberEnded& ended_;
  std::int64_t packed_ = 1;  // the most that ran together
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
