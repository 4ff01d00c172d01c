#pragma once

#include "jobs/settings.h"

namespace finesweep::worker {

/// How attention is computed on this thread while the object lives, way back included: fused where the device has a
/// kernel for it (flash), or as plain products that hold all probabilities (math). Both give the same numbers but
/// for rounding.
class AttentionChoice {
 public:
  explicit AttentionChoice(AttentionKind kind) : before_(of_thread()) { of_thread() = kind; }
  ~AttentionChoice() { of_thread() = before_; }
  AttentionChoice(const AttentionChoice&) = delete;
  AttentionChoice& operator=(const AttentionChoice&) = delete;

  static AttentionKind current() { return of_thread(); }

 private:
  static AttentionKind& of_thread() {
    static thread_local constinit AttentionKind kind = AttentionKind::flash;
    return kind;
  }

  AttentionKind before_;
};

}  // namespace finesweep::worker
