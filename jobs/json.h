#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "jobs/result.h"

namespace finesweep {

/// Keys are kept sorted, so dump() of equal values gives equal bytes: the canonical form that is hashed.
using Json = nlohmann::json;

/// Parses JSON text; the Error names `what` and the byte where it went wrong.
Result<Json> parse_json(const std::string& text, const std::string& what);

/// Arrays and objects within one another in what other processes send; more is an Error, not a full stack.
inline constexpr int kMaxCborNesting = 64;

/// Reads what Json::to_cbor writes, from whoever wrote it. Tags, indefinite lengths and trailing bytes, which it
/// never writes, are an Error too.
Result<Json> parse_cbor(const std::vector<std::uint8_t>& bytes);

/// The integer as a T; throws std::out_of_range where it does not fit and std::invalid_argument where the value is
/// no integer. Json::get would change it silently.
template <typename T>
T checked_integer(const Json& value) {
  static_assert(std::is_integral_v<T>);
  if (!value.is_number_integer()) throw std::invalid_argument("expected an integer");
  const bool fits = value.is_number_unsigned() ? std::in_range<T>(value.get<std::uint64_t>())
                                               : std::in_range<T>(value.get<std::int64_t>());
  if (!fits) throw std::out_of_range("an integer out of range");
  return value.get<T>();
}

}  // namespace finesweep
