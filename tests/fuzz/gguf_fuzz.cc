// Any bytes as the beginning of a GGUF file: no crash, no hang, no read outside the file, and what is accepted lies
// where it says.

#include <algorithm>
#include <utility>
#include <vector>

#include "tests/fuzz/weight_file.h"
#include "worker/formats/gguf_header.h"

namespace finesweep::worker {
namespace {

void check(const WeightFile& file) {
  const auto header = read_gguf_header(file.reader(), file.bytes);
  if (!header) return check_reason(header.error().message);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> places;
  for (const auto& [name, entry] : header->tensors) {
    std::int64_t values = 1;
    for (const std::int64_t size : entry.shape) {
      require(size > 0, "a size that is not positive");
      require(!__builtin_mul_overflow(values, size, &values), "a shape that overflows");
    }
    require(entry.begin <= entry.end && entry.end <= file.bytes, "a tensor outside the file");
    require(values % entry.type->block_elements == 0, "a part of a block");
    require(entry.end - entry.begin ==
                static_cast<std::uint64_t>(values / entry.type->block_elements * entry.type->block_bytes),
            "a size that is not the shape's");
    places.emplace_back(entry.begin, entry.end);
  }
  std::sort(places.begin(), places.end());
  for (std::size_t i = 1; i < places.size(); ++i)
    require(places[i - 1].second <= places[i].first, "tensors that overlap");
  for (const auto& [key, value] : header->metadata) require(value.kind() != nullptr, "a value of no kind");
}

}  // namespace
}  // namespace finesweep::worker

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size >= 3) finesweep::worker::check({data, size});
  return 0;
}
