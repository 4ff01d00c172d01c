#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>

#include "jobs/json.h"
#include "jobs/result.h"
#include "worker/models/family.h"

namespace finesweep::worker {

/// Reads the keys of a config.json one after the other and keeps the first Error, so that a family can list what it
/// needs and look once, at the end. A value that could not be read is 1, 0 or false.
class ConfigReader {
 public:
  explicit ConfigReader(const Json& config) : config_(config) {}

  /// A positive integer, under the first of these keys that is there: transformers knows some by two names.
  std::int64_t size(std::initializer_list<const char*> keys);
  /// The same, also where no key is there or its value is null.
  std::int64_t size(std::initializer_list<const char*> keys, std::int64_t otherwise);
  double number(const char* key, double otherwise);
  /// A dropout: at least 0 and below 1.
  double probability(const char* key, double otherwise);
  bool flag(const char* key, bool otherwise);
  Activation activation(const char* key, const char* otherwise);

  void fail(std::string message);
  /// `key` asks for something that is not supported.
  void refuse_if(bool asked, const char* key);
  const Status& status() const { return status_; }

 private:
  template <typename T>
  T take(const Result<T>& read, T otherwise);
  const char* present(std::initializer_list<const char*> keys) const;

  const Json& config_;
  Status status_;
};

}  // namespace finesweep::worker
