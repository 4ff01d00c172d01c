#pragma once

#include <filesystem>
#include <string>

#include "jobs/json.h"

namespace finesweep::worker {

/// tokenizer.json of a byte-level BPE tokenizer without merges, for models of a few hundred tokens: a token for
/// each byte, ids 3 to 258, and "<|endoftext|>" with the id `end`.
inline Json byte_level_tokenizer(int end) {
  Json vocabulary = Json::object();
  // The letters that GPT-2 gives to bytes: printable ones stand for themselves.
  int further = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    const int code_point = printable ? byte : further++;
    std::string letter;
    if (code_point < 128) {
      letter = static_cast<char>(code_point);
    } else {
      letter = {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 63))};
    }
    vocabulary[letter] = 3 + byte;
  }
  vocabulary["<|endoftext|>"] = end;
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", Json::array({{{"id", end},
                                         {"content", "<|endoftext|>"},
                                         {"single_word", false},
                                         {"lstrip", false},
                                         {"rstrip", false},
                                         {"normalized", false},
                                         {"special", true}}})},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", ""},
            {"end_of_word_suffix", ""},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"vocab", std::move(vocabulary)},
            {"merges", Json::array()}}}};
}

}  // namespace finesweep::worker
