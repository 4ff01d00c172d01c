#include "worker/kernels/gpu/kept_choices.h"

#include <fcntl.h>
#include <unistd.h>

#include <boost/crc.hpp>
#include <cstddef>
#include <fstream>
#include <system_error>

namespace finesweep::worker::gpu {

namespace fs = std::filesystem;

struct KeptChoices::Record {
  Question question;
  Answer answer;
  std::uint64_t checksum = 0;

  std::uint64_t computed() const {
    boost::crc_optimal<64, 0x42F0E1EBA9EA3693, ~0ull, ~0ull, true, true> crc;  // CRC-64/XZ, but for its name
    crc.process_bytes(this, offsetof(Record, checksum));
    return crc.checksum();
  }
};

void KeptChoices::read_on() {
  if (file_.empty()) return;
  std::error_code failed;
  const std::uintmax_t size = fs::file_size(file_, failed);
  if (failed || size == read_) return;
  if (size < read_) read_ = 0;  // another one has begun it anew
  std::ifstream in(file_, std::ios::binary);
  in.seekg(static_cast<std::streamoff>(read_));
  for (Record record; read_ < size; read_ += sizeof record) {
    in.read(reinterpret_cast<char*>(&record), sizeof record);
    if (!in || record.checksum != record.computed()) {
      fs::remove(file_, failed);
      read_ = 0;
      return;
    }
    known_.emplace(record.question, record.answer);
  }
}

std::optional<KeptChoices::Answer> KeptChoices::find(const Question& question) {
  const auto known = known_.find(question);
  if (known != known_.end()) return known->second;
  read_on();
  const auto found = known_.find(question);
  return found == known_.end() ? std::nullopt : std::optional(found->second);
}

void KeptChoices::add(const Question& question, const Answer& answer) {
  if (find(question) || known_.size() >= kMost) return;
  known_.emplace(question, answer);
  if (file_.empty()) return;
  std::error_code ignored;
  fs::create_directories(file_.parent_path(), ignored);
  const int file = ::open(file_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (file < 0) return;
  Record record{question, answer};
  record.checksum = record.computed();
  // At once, so that records of several processes do not mix; one that is cut off is found by its checksum.
  [[maybe_unused]] const auto written = ::write(file, &record, sizeof record);
  ::close(file);
}

}  // namespace finesweep::worker::gpu
