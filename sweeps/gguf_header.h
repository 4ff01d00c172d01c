#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/result.h"
#include "sweeps/files.h"

namespace finesweep::sweeps {

/// What planning reads of a GGUF file's header (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): numbers
/// and texts of the metadata, lengths of its lists, shapes of the tensors. The engine reads and checks the file
/// whole.
struct GgufHeader {
  std::map<std::string, std::int64_t> integers;
  std::map<std::string, std::string> texts;
  std::map<std::string, std::int64_t> list_lengths;
  struct Tensor {
    std::string name;
    std::vector<std::int64_t> shape;  // outermost first
  };
  std::vector<Tensor> tensors;
};

/// The Error is the reason alone: no GGUF file, an unknown version, a header that is cut off or makes no sense.
Result<GgufHeader> read_gguf_header(const std::filesystem::path& path, SweepFiles& files);

}  // namespace finesweep::sweeps
