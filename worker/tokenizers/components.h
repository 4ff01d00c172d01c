#pragma once

#include "worker/tokenizers/decoder.h"
#include "worker/tokenizers/normalizer.h"
#include "worker/tokenizers/pre_tokenizer.h"
#include "worker/tokenizers/tokenizer_files.h"

namespace finesweep::worker {

// The components of tokenizer.json. All throw Unsupported for what we do not have, and for components that are
// nested deeper than any real file's.

Normalizer read_normalizer(const Json& json);

struct PreTokenization {
  PreTokenizer pre_tokenizer;
  /// Words go to the model as letters for bytes.
  bool byte_level = false;
};
/// `prefix_space`: instead of the add_prefix_space of a ByteLevel that stands alone.
PreTokenization read_pre_tokenizer(const Json& json, std::optional<bool> prefix_space = std::nullopt);

Decoder read_decoder(const Json& json);

SequenceTemplate read_post_processor(const Json& json);
/// [CLS] a [SEP] b [SEP], with the types 0 and 1.
SequenceTemplate bert_template(TokenId classify, TokenId separator);
/// <s> a </s></s> b </s>, all of type 0.
SequenceTemplate roberta_template(TokenId classify, TokenId separator);
/// The texts one after the other, each between what is given.
SequenceTemplate causal_template(std::optional<TokenId> begin, std::optional<TokenId> end);

}  // namespace finesweep::worker
