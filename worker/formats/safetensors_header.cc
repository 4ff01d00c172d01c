#include "worker/formats/safetensors_header.h"

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

namespace finesweep::worker {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

// The library's own bound.
constexpr std::uint64_t max_header_bytes = 100'000'000;
constexpr int max_header_depth = 4;

/// Parses the header, refusing duplicate keys and nesting that no header has.
std::optional<std::string> parse_header(const std::string& text, nlohmann::json& header) {
  std::vector<std::set<std::string>> keys;
  std::optional<std::string> problem;
  const auto callback = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    using Event = nlohmann::json::parse_event_t;
    if (depth > max_header_depth) {
      if (!problem) problem = "its header is nested too deeply";
      return false;
    }
    if (event == Event::object_start) {
      keys.emplace_back();
    } else if (event == Event::object_end) {
      if (!keys.empty()) keys.pop_back();
    } else if (event == Event::key && !keys.empty()) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.back().insert(key).second && !problem) problem = "its header names '" + printable(key) + "' twice";
    }
    return true;
  };
  header = nlohmann::json::parse(text, callback, /*allow_exceptions=*/false);
  if (problem) return problem;
  if (header.is_discarded() || !header.is_object()) return "its header is not a JSON object";
  return std::nullopt;
}

std::optional<std::string> read_entry(const nlohmann::json& json, TensorEntry& entry) {
  if (!json.is_object()) return "is not described by an object";
  const auto dtype = json.find("dtype"), shape = json.find("shape"), offsets = json.find("data_offsets");
  if (dtype == json.end() || !dtype->is_string()) return "has no dtype";
  if (shape == json.end() || !shape->is_array()) return "has no shape";
  if (offsets == json.end() || !offsets->is_array() || offsets->size() != 2 ||
      !(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned()) {
    return "has no data_offsets [begin, end]";
  }
  entry.dtype = printable(dtype->get<std::string>());
  entry.begin = (*offsets)[0].get<std::uint64_t>();
  entry.end = (*offsets)[1].get<std::uint64_t>();
  if (entry.begin > entry.end) return "has data_offsets that run backwards";

  std::uint64_t elements = 1;
  for (const auto& size : *shape) {
    if (!size.is_number_unsigned() || size.get<std::uint64_t>() > INT64_MAX)
      return "has a size that is not a natural number";
    entry.shape.push_back(static_cast<std::int64_t>(size.get<std::uint64_t>()));
    if (__builtin_mul_overflow(elements, size.get<std::uint64_t>(), &elements)) return "has a shape that overflows";
  }
  // Dtypes that we cannot load (F8_E4M3, …) fail when they are asked for, not on opening.
  if (const std::uint64_t element_bytes = safetensors_element_bytes(entry.dtype)) {
    std::uint64_t bytes = 0;
    if (__builtin_mul_overflow(elements, element_bytes, &bytes) || bytes != entry.end - entry.begin) {
      return "has " + std::to_string(entry.end - entry.begin) + " bytes, but its shape and dtype need " +
             std::to_string(elements) + " × " + std::to_string(element_bytes);
    }
  }
  return std::nullopt;
}

}  // namespace

std::uint64_t safetensors_element_bytes(std::string_view dtype) {
  if (dtype == "BOOL" || dtype == "U8" || dtype == "I8") return 1;
  if (dtype == "I16" || dtype == "F16" || dtype == "BF16") return 2;
  if (dtype == "I32" || dtype == "F32") return 4;
  if (dtype == "F64" || dtype == "I64") return 8;
  return 0;
}

Result<SafetensorsHeader> read_safetensors_header(const ReadAt& read, std::uint64_t file_bytes) {
  const auto refuse = [](const std::string& reason) { return Error{reason}; };
  SafetensorsHeader result;
  std::uint64_t header_bytes = 0;
  if (file_bytes < 8) return refuse("it has only " + std::to_string(file_bytes) + " bytes");
  if (auto why = read(&header_bytes, 8, 0); !why.empty()) return refuse(why);
  if (header_bytes > max_header_bytes) {
    return refuse("its header claims " + std::to_string(header_bytes) + " bytes (at most 100 MB are allowed)");
  }
  if (header_bytes > file_bytes - 8) {
    return refuse("its header claims " + std::to_string(header_bytes) + " bytes, but the file has only " +
                  std::to_string(file_bytes) + "; was it downloaded whole?");
  }
  std::string text(header_bytes, '\0');
  if (auto why = read(text.data(), header_bytes, 8); !why.empty()) return refuse(why);

  nlohmann::json header;
  if (auto why = parse_header(text, header)) return refuse(*why);
  for (const auto& [name, json] : header.items()) {
    if (name == "__metadata__") {
      if (!json.is_object()) return refuse("its __metadata__ is not an object");
      for (const auto& [key, value] : json.items()) {
        if (!value.is_string()) return refuse("its __metadata__ holds something that is not text");
        result.metadata[key] = value.get<std::string>();
      }
      continue;
    }
    TensorEntry entry;
    if (auto why = read_entry(json, entry)) return refuse("tensor '" + printable(name) + "' " + *why);
    result.entries.emplace(name, std::move(entry));
  }

  // As the library: the data section is covered exactly, without holes or overlaps.
  result.data_begin = 8 + header_bytes;
  const std::uint64_t data_bytes = file_bytes - result.data_begin;
  std::vector<std::pair<const TensorEntry*, const std::string*>> by_offset;
  for (const auto& [name, entry] : result.entries) by_offset.emplace_back(&entry, &name);
  std::sort(by_offset.begin(), by_offset.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first->begin, a.first->end) < std::pair(b.first->begin, b.first->end);
  });
  std::uint64_t reached = 0;
  for (const auto& [entry, name] : by_offset) {
    if (entry->end > data_bytes) {
      return refuse("tensor '" + printable(*name) + "' lies beyond the end of the file; was it downloaded whole?");
    }
    if (entry->begin < reached) return refuse("tensor '" + printable(*name) + "' overlaps the tensor before it");
    if (entry->begin > reached) return refuse("there is a hole before tensor '" + printable(*name) + "'");
    reached = entry->end;
  }
  if (reached != data_bytes) {
    return refuse(std::to_string(data_bytes - reached) + " bytes at its end belong to no tensor");
  }

  return result;
}

}  // namespace finesweep::worker
