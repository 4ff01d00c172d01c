// Any bytes as the beginning of a safetensors file: no crash, no hang, no read outside the file, and what is
// accepted covers the data section exactly.

#include <algorithm>
#include <utility>
#include <vector>

#include "tests/fuzz/weight_file.h"
#include "worker/formats/safetensors_header.h"

namespace finesweep::worker {
namespace {

void check(const WeightFile& file) {
  const auto header = read_safetensors_header(file.reader(), file.bytes);
  if (!header) return check_reason(header.error().message);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> places;
  for (const auto& [name, entry] : header->entries) {
    require(entry.begin <= entry.end && entry.end <= file.bytes - header->data_begin, "a tensor outside the file");
    const std::uint64_t element_bytes = safetensors_element_bytes(entry.dtype);
    if (element_bytes != 0) {
      std::uint64_t bytes = element_bytes;
      for (const std::int64_t size : entry.shape) {
        require(size >= 0, "a negative size");
        bytes *= static_cast<std::uint64_t>(size);
      }
      require(entry.end - entry.begin == bytes, "a size that is not the shape's");
    }
    places.emplace_back(entry.begin, entry.end);
  }
  std::sort(places.begin(), places.end());
  std::uint64_t reached = 0;
  for (const auto& [begin, end] : places) {
    require(begin == reached, "a hole or an overlap");
    reached = end;
  }
  require(reached == file.bytes - header->data_begin, "bytes that belong to no tensor");
}

}  // namespace
}  // namespace finesweep::worker

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size >= 3) finesweep::worker::check({data, size});
  return 0;
}
