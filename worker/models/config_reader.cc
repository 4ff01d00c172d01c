#include "worker/models/config_reader.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace finesweep::worker {

template <typename T>
T ConfigReader::take(const Result<T>& read, T otherwise) {
  if (read) return *read;
  fail(read.error().message);
  return otherwise;
}

const char* ConfigReader::present(std::initializer_list<const char*> keys) const {
  for (const char* key : keys) {
    if (config_.contains(key)) return key;
  }
  return *keys.begin();
}

std::int64_t ConfigReader::size(std::initializer_list<const char*> keys) {
  return take<std::int64_t>(config_integer(config_, present(keys)), 1);
}

std::int64_t ConfigReader::size(std::initializer_list<const char*> keys, std::int64_t otherwise) {
  return take<std::int64_t>(config_integer(config_, present(keys), otherwise), 1);
}

double ConfigReader::number(const char* key, double otherwise) {
  return take<double>(config_number(config_, key, otherwise), 0);
}

double ConfigReader::probability(const char* key, double otherwise) {
  const double value = number(key, otherwise);
  if (!(value >= 0 && value < 1)) fail(std::string("\"") + key + "\" must be at least 0 and below 1");
  return value;
}

bool ConfigReader::flag(const char* key, bool otherwise) {
  return take<bool>(config_boolean(config_, key, otherwise), false);
}

Activation ConfigReader::activation(const char* key, const char* otherwise) {
  return take<Activation>(config_activation(config_, key, otherwise), Activation::none);
}

void ConfigReader::fail(std::string message) {
  if (status_.ok()) status_ = Error{std::move(message)};
}

void ConfigReader::refuse_if(bool asked, const char* key) {
  if (asked) fail(std::string("\"") + key + "\": " + config_.at(key).dump() + " is not supported");
}

}  // namespace finesweep::worker
