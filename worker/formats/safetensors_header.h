#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/result.h"
#include "worker/formats/file_reader.h"

namespace finesweep::worker {

/// Where a tensor lies in a safetensors file (https://huggingface.co/docs/safetensors).
struct TensorEntry {
  std::string dtype;  // as the file spells it: "F32", "BF16", …
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;  // bytes within the data section
};

struct SafetensorsHeader {
  std::uint64_t data_begin = 0;  // bytes from the start of the file
  std::map<std::string, TensorEntry, std::less<>> entries;
  std::map<std::string, std::string> metadata;
};

/// Bytes of one element of a dtype that we load; 0 for all others.
std::uint64_t safetensors_element_bytes(std::string_view dtype);

/// Reads and checks the header of a file of `file_bytes` bytes: every tensor lies inside the file, none overlap,
/// there are no holes, and shape and dtype agree with the size. The Error is the reason, with the tensor where
/// there is one. Needs no libtorch, so that it can be fuzzed.
Result<SafetensorsHeader> read_safetensors_header(const ReadAt& read, std::uint64_t file_bytes);

}  // namespace finesweep::worker
