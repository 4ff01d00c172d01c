#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>

namespace finesweep::worker::gpu {

/// A file with what was found out once and every process would ask again. Several processes may have it open: each
/// sees what the others have added, and of two answers to one question the first one counts. A record that is
/// damaged ends the file: it is begun anew. What cannot be read or written is found out again, and nothing else
/// happens. One thread at a time.
class KeptChoices {
 public:
  using Question = std::array<std::int64_t, 13>;
  using Answer = std::array<std::uint64_t, 8>;

  /// Folders on the way are made with the first record. An empty path keeps nothing.
  explicit KeptChoices(std::filesystem::path file) : file_(std::move(file)) {}

  std::optional<Answer> find(const Question& question);
  void add(const Question& question, const Answer& answer);

  /// More are not kept.
  static constexpr std::size_t kMost = 10000;

 private:
  struct Record;

  void read_on();

  std::filesystem::path file_;
  std::map<Question, Answer> known_;
  std::uintmax_t read_ = 0;  // bytes
};

}  // namespace finesweep::worker::gpu
