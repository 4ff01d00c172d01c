#include "worker/tokenizers/tokenizer.h"

#include <algorithm>

namespace finesweep::worker {
namespace {

struct Lengths {
  std::size_t first = 0, second = 0;
};

/// How much of each text stays when both together may have `room` tokens: truncate_encodings of the Hugging Face
/// `tokenizers` package.
Result<Lengths> cut(Lengths lengths, bool is_pair, Truncation truncation, std::size_t room) {
  const std::size_t total = lengths.first + lengths.second;
  if (total <= room) return lengths;
  if (room == 0) return Lengths{};
  const std::size_t excess = total - room;
  if (truncation == Truncation::longest_first) {
    if (!is_pair) return Lengths{room, 0};
    std::size_t shorter = lengths.first, longer = lengths.second;
    const bool swapped = shorter > longer;
    if (swapped) std::swap(shorter, longer);
    longer = shorter > room ? shorter : std::max(shorter, room - shorter);
    if (shorter + longer > room) {
      shorter = room / 2;
      longer = shorter + room % 2;
    }
    if (swapped) std::swap(shorter, longer);
    return Lengths{shorter, longer};
  }
  if (truncation == Truncation::only_second && !is_pair) {
    return Error{"Cannot cut the second text only: there is no second text."};
  }
  std::size_t& target = truncation == Truncation::only_first ? lengths.first : lengths.second;
  if (target <= excess) {
    return Error{std::string("Cannot cut ") + std::to_string(excess) + " tokens from the " +
                 (truncation == Truncation::only_first ? "first" : "second") + " text, which has " +
                 std::to_string(target) + ". Raise the sequence length or cut the longest first."};
  }
  target -= excess;
  return lengths;
}

std::span<const TokenId> kept(std::span<const TokenId> ids, std::size_t length, Side side) {
  return side == Side::right ? ids.first(length) : ids.last(length);
}

}  // namespace

std::vector<TokenId> Tokenizer::ids_of(std::string_view text) {
  std::vector<TokenId> ids;
  append_ids(text, ids);
  return ids;
}

Result<Encoding> Tokenizer::encode(std::string_view text, const EncodeOptions& options) {
  return wrap(ids_of(text), nullptr, options);
}

Result<Encoding> Tokenizer::encode_pair(std::string_view first, std::string_view second,
                                        const EncodeOptions& options) {
  if (second.empty()) return encode(first, options);
  const auto second_ids = ids_of(second);
  return wrap(ids_of(first), &second_ids, options);
}

Result<Encoding> Tokenizer::wrap(std::span<const TokenId> first, const std::vector<TokenId>* second,
                                 const EncodeOptions& options) const {
  static const SequenceTemplate bare;
  const bool is_pair = second != nullptr;
  const SequenceTemplate& around = options.add_special_tokens ? traits_.sequence_template : bare;
  const auto& pieces = is_pair ? around.pair : around.single;
  std::span<const TokenId> texts[2] = {first,
                                       is_pair ? std::span<const TokenId>(*second) : std::span<const TokenId>()};

  if (options.truncation != Truncation::none) {
    std::size_t special = 0;
    for (const auto& piece : pieces) special += piece.ids.size();
    if (options.max_length < static_cast<std::int64_t>(special)) {
      return Error{"A sequence length of " + std::to_string(options.max_length) + " leaves no room beside the " +
                   std::to_string(special) + " special tokens."};
    }
    const auto lengths = cut({texts[0].size(), texts[1].size()}, is_pair, options.truncation,
                             static_cast<std::size_t>(options.max_length) - special);
    if (!lengths) return lengths.error();
    texts[0] = kept(texts[0], lengths->first, traits_.truncation_side);
    texts[1] = kept(texts[1], lengths->second, traits_.truncation_side);
  }

  Encoding encoding;
  for (const auto& piece : pieces) {
    const auto ids = piece.sequence < 0 ? std::span<const TokenId>(piece.ids) : texts[piece.sequence];
    encoding.ids.insert(encoding.ids.end(), ids.begin(), ids.end());
    encoding.type_ids.insert(encoding.type_ids.end(), ids.size(), piece.type_id);
  }
  encoding.attention_mask.assign(encoding.ids.size(), 1);

  const auto wanted = static_cast<std::size_t>(std::max<std::int64_t>(options.max_length, 0));
  if (options.pad_to_max_length && encoding.ids.size() < wanted) {
    if (!traits_.pad) return Error{"The tokenizer has no padding token."};
    const std::size_t missing = wanted - encoding.ids.size();
    const auto pad = [&](std::vector<TokenId>& values, TokenId with) {
      values.insert(traits_.padding_side == Side::right ? values.end() : values.begin(), missing, with);
    };
    pad(encoding.ids, *traits_.pad);
    pad(encoding.type_ids, traits_.pad_type_id);
    pad(encoding.attention_mask, 0);
  }
  return encoding;
}

}  // namespace finesweep::worker
