#include "worker/kernels/gradient_watch.h"

#include "worker/kernels/parameter.h"

namespace finesweep::worker {
namespace {

thread_local GradientWatch* current = nullptr;

}  // namespace

GradientWatch::GradientWatch(const Tape& tape, std::function<void(const Parameter&)> whole)
    : tape_(&tape), whole_(std::move(whole)) {
  current = this;
}

GradientWatch::~GradientWatch() {
  current = nullptr;
}

GradientWatch* GradientWatch::of_thread() {
  return current;
}

void GradientWatch::adds_to(const Tape& tape, const std::vector<Parameter*>& parameters) {
  if (&tape != tape_) return;
  for (const Parameter* parameter : parameters) {
    if (parameter == nullptr || !parameter->trained || !seen_.insert(parameter).second) continue;
    whole_after_.emplace_back(steps_, parameter);
  }
}

void GradientWatch::ran(const Tape& tape) {
  if (&tape != tape_ || steps_ == 0) return;
  for (; !whole_after_.empty() && whole_after_.back().first == steps_; whole_after_.pop_back()) {
    whole_(*whole_after_.back().second);
  }
  --steps_;
}

}  // namespace finesweep::worker
