#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace finesweep {

using Sha256Digest = std::array<std::uint8_t, 32>;

/// SHA-256 (FIPS 180-4) over a stream of bytes; libcrypto does the work.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void update(const void* data, std::size_t bytes);
  /// Ends the stream; nothing may be added after.
  Sha256Digest finish();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

Sha256Digest sha256(std::string_view bytes);

/// Lower-case hex of any byte range.
std::string to_hex(const std::uint8_t* data, std::size_t bytes);
std::string to_hex(const Sha256Digest& digest);

}  // namespace finesweep
