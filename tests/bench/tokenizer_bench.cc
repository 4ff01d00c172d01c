// Megabytes of text a second that a tokenizer turns into ids, on one core.
//
//   tokenizer_bench TOKENIZER_DIRECTORY TEXT_FILE [--bytes N] [--rounds N]
//
// The text is cut at line ends into pieces of at least N bytes (1000), each encoded alone with its special tokens.
// Every round starts with a tokenizer that has seen nothing. Of the two numbers, the first counts the time of the
// clock and the second that of the processor: what to compare on a busy machine. The peer is
// tests/bench/peers/tokenizers_hf.py with the same arguments; text that repeats itself flatters both, as both
// remember words.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include "storage/files.h"
#include "worker/tokenizers/tokenizer.h"

namespace {

using namespace finesweep;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::vector<std::string> pieces_of(const std::string& text, std::size_t bytes) {
  std::vector<std::string> pieces(1);
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size() - 1) + 1;
    pieces.back() += text.substr(begin, end - begin);
    begin = end;
    if (pieces.back().size() >= bytes) pieces.emplace_back();
  }
  if (pieces.back().empty()) pieces.pop_back();
  return pieces;
}

}  // namespace

int main(int count, char** arguments) {
  std::size_t bytes = 1000;
  int rounds = 5;
  for (int i = 3; i + 1 < count; i += 2) {
    if (std::strcmp(arguments[i], "--bytes") == 0) bytes = static_cast<std::size_t>(std::atoi(arguments[i + 1]));
    if (std::strcmp(arguments[i], "--rounds") == 0) rounds = std::atoi(arguments[i + 1]);
  }
  if (count < 3 || rounds < 1) {
    std::fprintf(stderr, "usage: tokenizer_bench TOKENIZER_DIRECTORY TEXT_FILE [--bytes N] [--rounds N]\n");
    return 2;
  }
  const auto text = storage::read_file(arguments[2]);
  if (!text) {
    std::fprintf(stderr, "%s\n", text.error().message.c_str());
    return 1;
  }
  const auto pieces = pieces_of(*text, bytes);
  std::vector<double> rates, processor_rates, loads;
  std::size_t tokens = 0;
  for (int round = 0; round < rounds; ++round) {
    auto start = Clock::now();
    auto tokenizer = worker::load_tokenizer(arguments[1]);
    if (!tokenizer) {
      std::fprintf(stderr, "%s\n", tokenizer.error().message.c_str());
      return 1;
    }
    loads.push_back(seconds_since(start));
    tokens = 0;
    start = Clock::now();
    const std::clock_t started = std::clock();
    for (const std::string& piece : pieces) tokens += (*tokenizer)->encode(piece)->ids.size();
    rates.push_back(static_cast<double>(text->size()) / 1e6 / seconds_since(start));
    processor_rates.push_back(static_cast<double>(text->size()) / 1e6 /
                              (static_cast<double>(std::clock() - started) / CLOCKS_PER_SEC));
  }
  for (auto* values : {&rates, &processor_rates, &loads}) std::sort(values->begin(), values->end());
  std::printf("MB_per_second %.2f MB_per_processor_second %.2f tokens %zu texts %zu load_ms %.0f\n",
              rates[rates.size() / 2], processor_rates[processor_rates.size() / 2], tokens, pieces.size(),
              1000 * loads[loads.size() / 2]);
  return 0;
}
