// Any bytes as tokenizer.json, tokenizer_config.json and a text, with a NUL byte between them: no crash, no hang,
// and a tokenizer that is accepted gives ids that it has, and text for them.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "tests/fuzz/memory_folder.h"
#include "tests/fuzz/weight_file.h"
#include "worker/tokenizers/tokenizer.h"

namespace finesweep::worker {
namespace {

constexpr const char* kText =
    "Hello, W\xC3\xB6rld! 12 caf\x65\xCC\x81 \xE4\xBD\xA0\xE5\xA5\xBD\t<s> don't \xFF\xF0\x9F\x98\x80";

void check_ids(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  for (const TokenId id : ids) require(id >= 0 && id < tokenizer.vocabulary_size(), "an id that no token has");
}

void check(std::string_view bytes) {
  static const MemoryFolder folder;
  std::array<std::string_view, 3> parts{"", "{}", kText};
  for (std::string_view& part : parts) {
    const std::size_t end = std::min(bytes.find('\0'), bytes.size());
    part = bytes.substr(0, end);
    if (end == bytes.size()) break;
    bytes.remove_prefix(end + 1);
  }
  folder.put("tokenizer.json", parts[0]);
  folder.put("tokenizer_config.json", parts[1]);
  const auto loaded = load_tokenizer(folder.path());
  if (!loaded) {
    require(loaded.error().message.find(folder.path().string()) != std::string::npos, "an error without the file");
    return;
  }
  Tokenizer& tokenizer = **loaded;
  for (const std::string_view text : {parts[2], std::string_view(kText)}) {
    const auto ids = tokenizer.ids_of(text);
    check_ids(tokenizer, ids);
    require(ids == tokenizer.ids_of(text), "the same text gives other ids");
    (void)tokenizer.decode(ids);
    (void)tokenizer.decode(ids, SpecialTokens::skip);
    for (const auto truncation : {Truncation::none, Truncation::longest_first, Truncation::only_first}) {
      EncodeOptions options;
      options.truncation = truncation;
      options.max_length = 7;
      options.pad_to_max_length = truncation != Truncation::none;
      const auto encoded = tokenizer.encode_pair(text, "second text", options);
      if (!encoded) continue;
      require(
          encoded->ids.size() == encoded->type_ids.size() && encoded->ids.size() == encoded->attention_mask.size(),
          "vectors of different lengths");
      if (truncation != Truncation::none) require(encoded->ids.size() == 7, "not of the length that was asked for");
      check_ids(tokenizer, encoded->ids);
    }
  }
}

}  // namespace
}  // namespace finesweep::worker

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  finesweep::worker::check({reinterpret_cast<const char*>(data), size});
  return 0;
}
