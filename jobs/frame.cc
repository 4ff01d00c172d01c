#include "jobs/frame.h"

#include <array>
#include <boost/crc.hpp>
#include <cstring>

namespace finesweep {

namespace {

constexpr std::array<std::uint8_t, 4> kFrameMagic{'F', 'S', 'W', 'P'};

std::uint32_t crc32(const std::uint8_t* data, std::size_t bytes) {
  boost::crc_32_type crc;
  crc.process_bytes(data, bytes);
  return crc.checksum();
}

template <typename T>
void put(Bytes& out, T value) {
  for (std::size_t i = 0; i < sizeof value; ++i) out.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
}

template <typename T>
T get(const std::uint8_t* data) {
  T value = 0;
  for (std::size_t i = 0; i < sizeof value; ++i) value |= static_cast<T>(T{data[i]} << (8 * i));
  return value;
}

struct Header {
  std::uint16_t type;
  std::uint32_t length;
  std::uint32_t crc;
};

Result<Header> read_header(const std::uint8_t* data) {
  if (std::memcmp(data, kFrameMagic.data(), kFrameMagic.size()) != 0)
    return Error{"not a finesweep frame: wrong magic bytes"};
  const auto version = get<std::uint16_t>(data + 4);
  if (version != kFrameVersion)
    return Error{"frame of protocol version " + std::to_string(version) + ", this build speaks " +
                 std::to_string(kFrameVersion) + ": all processes of a sweep must be of one build"};
  Header header{get<std::uint16_t>(data + 6), get<std::uint32_t>(data + 8), get<std::uint32_t>(data + 12)};
  if (header.length > kMaxPayload)
    return Error{"frame of " + std::to_string(header.length) + " bytes: longer than any message"};
  return header;
}

}  // namespace

Bytes encode_frame(std::uint16_t type, const Bytes& payload) {
  Bytes out;
  out.reserve(kFrameHeaderBytes + payload.size());
  out.insert(out.end(), kFrameMagic.begin(), kFrameMagic.end());
  put(out, kFrameVersion);
  put(out, type);
  put(out, static_cast<std::uint32_t>(payload.size()));
  put(out, crc32(payload.data(), payload.size()));
  out.insert(out.end(), payload.begin(), payload.end());
  return out;
}

Result<Frame> decode_frame(const std::uint8_t* data, std::size_t bytes) {
  FrameReader reader;
  reader.append(data, bytes);
  auto frame = reader.next();
  if (!frame) return frame.error();
  if (!*frame) return Error{"a frame was cut short at " + std::to_string(bytes) + " bytes"};
  if ((*frame)->payload.size() + kFrameHeaderBytes != bytes) return Error{"bytes after the end of a frame"};
  return std::move(**frame);
}

Result<std::size_t> frame_size(const std::uint8_t* bytes) {
  const auto header = read_header(bytes);
  if (!header) return header.error();
  return kFrameHeaderBytes + header->length;
}

void FrameReader::append(const std::uint8_t* data, std::size_t bytes) {
  if (begin_ == buffer_.size()) {
    buffer_.clear();
    begin_ = 0;
  }
  buffer_.insert(buffer_.end(), data, data + bytes);
}

Result<std::optional<Frame>> FrameReader::next() {
  const std::size_t available = buffer_.size() - begin_;
  if (available < kFrameHeaderBytes) return std::optional<Frame>{};
  const std::uint8_t* start = buffer_.data() + begin_;
  const auto header = read_header(start);
  if (!header) return header.error();
  if (available < kFrameHeaderBytes + header->length) return std::optional<Frame>{};
  const std::uint8_t* payload = start + kFrameHeaderBytes;
  if (crc32(payload, header->length) != header->crc) return Error{"a frame's checksum does not match its bytes"};
  Frame frame{header->type, Bytes(payload, payload + header->length)};
  begin_ += kFrameHeaderBytes + header->length;
  if (begin_ > (std::size_t{1} << 20)) {
    buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(begin_));
    begin_ = 0;
  }
  return std::optional<Frame>{std::move(frame)};
}

}  // namespace finesweep
