#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "jobs/result.h"
#include "worker/formats/file_reader.h"

namespace finesweep::worker {

/// How ggml stores a tensor: rows of blocks of `block_elements` values in `block_bytes` bytes.
struct GgufType {
  std::uint32_t number = 0;  // as the file has it
  const char* name = "";     // as ggml spells it: "F32", "Q4_1", …
  std::int64_t block_elements = 1;
  std::int64_t block_bytes = 1;
};

/// Null where ggml has no such type, or one newer than this list.
const GgufType* gguf_type(std::uint32_t number);
const GgufType* gguf_type(std::string_view name);

/// A value of the metadata. Integers of every width become std::int64_t and floats double; an array of arrays, or
/// an empty array, is a vector of GgufValue.
struct GgufValue {
  std::variant<std::int64_t, double, bool, std::string, std::vector<std::int64_t>, std::vector<double>,
               std::vector<bool>, std::vector<std::string>, std::vector<GgufValue>>
      value;
  /// "a text", "an array of numbers", …: for messages.
  const char* kind() const;
};

/// Where a tensor lies in a GGUF file.
struct GgufTensorEntry {
  const GgufType* type = nullptr;
  /// Outermost first, as everywhere else; the file has it the other way round.
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;  // bytes from the start of the file
};

struct GgufHeader {
  std::uint32_t version = 0;
  std::map<std::string, GgufValue, std::less<>> metadata;
  std::map<std::string, GgufTensorEntry, std::less<>> tensors;
};

/// Reads and checks the header of a GGUF file, version 2 or 3, little-endian
/// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): every tensor lies inside the file, aligned, none
/// overlap, sizes fit types, counts and lengths fit the file. At most 100 MB of header are read. The Error is the
/// reason, with the key or tensor where there is one. Needs no libtorch, so that it can be fuzzed.
Result<GgufHeader> read_gguf_header(const ReadAt& read, std::uint64_t file_bytes);

}  // namespace finesweep::worker
