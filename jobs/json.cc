#include "jobs/json.h"

namespace finesweep {

Result<Json> parse_json(const std::string& text, const std::string& what) {
  try {
    return Json::parse(text);
  } catch (const Json::exception& e) {
    return Error{what + ": not valid JSON: " + e.what()};
  }
}

namespace {

/// How many bytes of a CBOR head (RFC 8949, section 3) follow its first, for its low five bits; -1: none that
/// to_cbor writes.
int argument_bytes(std::uint8_t info) {
  if (info < 24) return 0;
  return info <= 27 ? 1 << (info - 24) : -1;
}

/// Why the bytes are refused without reading them further; nullptr where they may be read. Needs no stack.
const char* refuse_cbor(const std::vector<std::uint8_t>& bytes) {
  std::vector<std::uint64_t> open;  // items still to come in each array or object around
  std::size_t at = 0;
  while (at < bytes.size()) {
    const int major = bytes[at] >> 5;
    const std::uint8_t info = bytes[at] & 0x1f;
    const int argument = argument_bytes(info);
    ++at;
    if (argument < 0) return "an indefinite length";
    if (bytes.size() - at < static_cast<std::size_t>(argument)) return "cut short";
    std::uint64_t value = info;
    if (argument > 0) value = 0;
    for (int i = 0; i < argument; ++i) value = value << 8 | bytes[at++];
    if (!open.empty()) --open.back();
    if (major == 2 || major == 3) {  // bytes, text
      if (bytes.size() - at < value) return "cut short";
      at += value;
    } else if (major == 4 || major == 5) {  // array, map
      if (value > bytes.size()) return "cut short";
      if (open.size() == kMaxCborNesting) return "nested too deeply";
      open.push_back(major == 4 ? value : 2 * value);
    } else if (major == 6) {
      return "a tag";
    }
    while (!open.empty() && open.back() == 0) open.pop_back();
    if (open.empty() && at < bytes.size()) return "bytes after the end";
  }
  return open.empty() && !bytes.empty() ? nullptr : "cut short";
}

}  // namespace

Result<Json> parse_cbor(const std::vector<std::uint8_t>& bytes) {
  if (const char* reason = refuse_cbor(bytes)) return Error{std::string("not valid CBOR: ") + reason};
  try {
    return Json::from_cbor(bytes);
  } catch (const Json::exception& e) {
    return Error{std::string("not valid CBOR: ") + e.what()};
  }
}

}  // namespace finesweep
