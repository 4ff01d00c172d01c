#include <bit>
#include <cstring>
#include <optional>

#include "worker/tokenizers/unigram.h"

namespace finesweep::worker {
namespace {

/// A field of a protocol buffer: its number, and a number or bytes by its wire type.
struct Field {
  std::uint32_t number = 0;
  std::uint64_t value = 0;
  std::string_view bytes;
};

/// Reads the fields of one message, one after the other. https://protobuf.dev/programming-guides/encoding
class Fields {
 public:
  explicit Fields(std::string_view message) : rest_(message) {}

  /// nullopt at the end, and where the message is damaged.
  std::optional<Field> next() {
    if (rest_.empty()) return std::nullopt;
    Field field;
    std::uint64_t key = 0;
    if (!read_number(key)) return std::nullopt;
    field.number = static_cast<std::uint32_t>(key >> 3);
    switch (key & 7) {
      case 0:
        if (!read_number(field.value)) return std::nullopt;
        break;
      case 1:
        if (!read_fixed(field.value, 8)) return std::nullopt;
        break;
      case 2: {
        std::uint64_t size = 0;
        if (!read_number(size)) return std::nullopt;
        if (size > rest_.size()) return damage();
        field.bytes = rest_.substr(0, size);
        rest_.remove_prefix(size);
        break;
      }
      case 5:
        if (!read_fixed(field.value, 4)) return std::nullopt;
        break;
      default:
        return damage();
    }
    return field;
  }
  bool damaged() const { return damaged_; }

 private:
  std::nullopt_t damage() {
    damaged_ = true;
    rest_ = {};
    return std::nullopt;
  }
  bool read_number(std::uint64_t& value) {
    for (int shift = 0; shift < 64; shift += 7) {
      if (rest_.empty()) break;
      const auto byte = static_cast<unsigned char>(rest_[0]);
      rest_.remove_prefix(1);
      value |= std::uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return true;
    }
    damage();
    return false;
  }
  bool read_fixed(std::uint64_t& value, std::size_t size) {
    if (size > rest_.size()) {
      damage();
      return false;
    }
    std::memcpy(&value, rest_.data(), size);
    rest_.remove_prefix(size);
    return true;
  }

  std::string_view rest_;
  bool damaged_ = false;
};

}  // namespace

// Numbers of fields: sentencepiece_model.proto of https://github.com/google/sentencepiece.
Result<SentencePieceModel> parse_sentencepiece(std::string_view bytes) {
  SentencePieceModel model;
  bool damaged = false;
  Fields fields(bytes);
  while (const auto field = fields.next()) {
    Fields inner(field->bytes);
    if (field->number == 1) {
      SentencePieceModel::Piece piece;
      while (const auto part = inner.next()) {
        if (part->number == 1) piece.text = part->bytes;
        if (part->number == 2) piece.score = std::bit_cast<float>(static_cast<std::uint32_t>(part->value));
        if (part->number == 3) piece.type = static_cast<int>(part->value);
      }
      model.pieces.push_back(std::move(piece));
    } else if (field->number == 2) {  // trainer_spec
      while (const auto part = inner.next()) {
        if (part->number == 3) model.model_type = static_cast<int>(part->value);
        if (part->number == 35) model.byte_fallback = part->value != 0;
      }
    } else if (field->number == 3) {  // normalizer_spec
      while (const auto part = inner.next()) {
        if (part->number == 2) model.charsmap = part->bytes;
      }
    }
    damaged |= inner.damaged();
  }
  if (damaged || fields.damaged()) return Error{"it is damaged: it ends or breaks off where a field is expected"};
  if (model.pieces.empty()) return Error{"it holds no pieces"};
  return model;
}

}  // namespace finesweep::worker
