#pragma once

#include <cstddef>
#include <functional>
#include <set>
#include <utility>
#include <vector>

namespace finesweep::worker {

class Tape;        // worker/kernels/tape.h
struct Parameter;  // worker/kernels/parameter.h

/// Hears on the way back of a tape of each trained parameter as soon as no step is left that adds to its gradient.
/// While it lives it is the thread's only one, and the tape outlives it. It sees steps that are recorded after it
/// was made; what `recomputed` computes again is no step of the tape.
class GradientWatch {
 public:
  GradientWatch(const Tape& tape, std::function<void(const Parameter&)> whole);
  ~GradientWatch();
  GradientWatch(const GradientWatch&) = delete;
  GradientWatch& operator=(const GradientWatch&) = delete;
  /// Null where nobody watches.
  static GradientWatch* of_thread();

  // What the tape and its steps tell it.
  void recorded(const Tape& tape) { steps_ += &tape == tape_ ? 1 : 0; }
  void ran(const Tape& tape);
  void adds_to(const Tape& tape, const std::vector<Parameter*>& parameters);

 private:
  const Tape* tape_;
  std::function<void(const Parameter&)> whole_;
  std::size_t steps_ = 0;  // that are on the tape
  std::set<const Parameter*> seen_;
  /// With the number of steps up to the first that uses it, which is the last to add to its gradient.
  std::vector<std::pair<std::size_t, const Parameter*>> whole_after_;
};

/// The step that the tape recorded last adds to the gradients of these, where they are trained; null: of nothing.
/// Every step that adds to one says so.
inline void adds_to(const Tape* tape, const std::vector<Parameter*>& parameters) {
  if (GradientWatch* watch = GradientWatch::of_thread()) watch->adds_to(*tape, parameters);
}

}  // namespace finesweep::worker
