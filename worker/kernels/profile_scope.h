#pragma once

#include <string_view>

namespace finesweep::worker {

/// What a profile sorts time into.
enum class OperatorGroup {
  attention,
  matrix_product,
  normalisation,
  activation,
  embedding,
  loss,
  optimiser,
  data,
  other
};
inline constexpr int operator_groups = 9;

/// "attention", "matrix products", …
std::string_view operator_group_name(OperatorGroup group);

/// What a scope is called. The text is a literal.
struct ScopeLabel {
  const char* name = "";
  OperatorGroup group = OperatorGroup::other;
  /// The way back of what was called so.
  bool backward = false;
};

/// Hears of the scopes of the thread on which it was installed. Scopes end in the reverse order.
class ScopeListener {
 public:
  virtual void scope_begins(const ScopeLabel& label) = 0;
  virtual void scope_ends() = 0;
  /// The scope that is open and was opened last.
  virtual ScopeLabel innermost() const = 0;

  /// Of this thread; null: nobody listens.
  static ScopeListener*& of_thread() {
    static thread_local constinit ScopeListener* listener = nullptr;
    return listener;
  }

 protected:
  ~ScopeListener() = default;
};

/// From here to the end of the block this thread works on something that a profile tells apart. Our operations do
/// not pass through libtorch's dispatcher, so its profiler does not see them: each opens a scope of its own. Where
/// nobody listens a scope reads one pointer (under 2 ns).
class ProfileScope {
 public:
  ProfileScope(const char* name, OperatorGroup group) : ProfileScope(ScopeLabel{name, group, false}) {}
  explicit ProfileScope(const ScopeLabel& label) : listener_(ScopeListener::of_thread()) {
    if (listener_ != nullptr) [[unlikely]]
      listener_->scope_begins(label);
  }
  ~ProfileScope() {
    if (listener_ != nullptr) [[unlikely]]
      listener_->scope_ends();
  }
  ProfileScope(const ProfileScope&) = delete;
  ProfileScope& operator=(const ProfileScope&) = delete;

 private:
  ScopeListener* listener_;
};

}  // namespace finesweep::worker
