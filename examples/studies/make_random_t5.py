#!/usr/bin/env python3
"""make_random_t5.py DIRECTORY: a T5 v1.1 with random weights and a vocabulary made from verse_modernise.

A model of this kind stands in for T5-small where that cannot be had: random-init, not pretrained. 2 + 2 layers of width
128, about 1.6 million parameters. Needs nothing outside Python's standard library and writes the same bytes each time.
"""
import collections
import hashlib
import json
import math
import pathlib
import struct
import sys

width, heads, head_width, inner, layers, buckets, pieces_wanted = 128, 4, 32, 256, 2, 32, 3000
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
data = pathlib.Path(__file__).resolve().parents[1] / "data" / "verse_modernise" / "train.jsonl"


def vocabulary():
    """Whole words, their beginnings and single characters, with log-probabilities by how often they occur."""
    counts = collections.Counter()
    for line in data.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for word in (row["source"] + " " + row["target"]).split():
            counts["\u2581" + word] += 3
            counts["\u2581"] += 1
            for size in range(1, 5):
                for begin in range(0, len(word) - size + 1):
                    counts[word[begin:begin + size]] += 1
    characters = [piece for piece in counts if len(piece) == 1]
    common = [piece for piece, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if len(piece) > 1]
    kept = sorted(characters) + common[:pieces_wanted - len(characters)]
    total = sum(counts[piece] for piece in kept)
    return [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0]] + [[p, math.log(counts[p] / total)] for p in kept]


def uniform(name, count):
    """Numbers between -1 and 1 that follow from the name alone."""
    numbers = []
    for block in range((count + 7) // 8):
        digest = hashlib.sha256(f"{name}/{block}".encode()).digest()
        numbers += [word / 2**31 - 1 for word in struct.unpack("<8I", digest)]
    return numbers[:count]


pieces = vocabulary()
tensors = {"shared.weight": ([len(pieces), width], 1.0)}
for stack in ("encoder", "decoder"):
    for layer in range(layers):
        block = f"{stack}.block.{layer}.layer"
        attentions = ["0.SelfAttention"] + (["1.EncDecAttention"] if stack == "decoder" else [])
        for attention in attentions:
            for matrix, scale in (("q", (width * head_width)**-0.5), ("k", width**-0.5), ("v", width**-0.5)):
                tensors[f"{block}.{attention}.{matrix}.weight"] = ([heads * head_width, width], scale)
            tensors[f"{block}.{attention}.o.weight"] = ([width, heads * head_width], (heads * head_width)**-0.5)
        if layer == 0:
            tensors[f"{block}.0.SelfAttention.relative_attention_bias.weight"] = ([buckets, heads], width**-0.5)
        last = len(attentions)
        for matrix in ("wi_0", "wi_1"):
            tensors[f"{block}.{last}.DenseReluDense.{matrix}.weight"] = ([inner, width], width**-0.5)
        tensors[f"{block}.{last}.DenseReluDense.wo.weight"] = ([width, inner], inner**-0.5)
        for norm in range(last + 1):
            tensors[f"{block}.{norm}.layer_norm.weight"] = ([width], None)
    tensors[f"{stack}.final_layer_norm.weight"] = ([width], None)
tensors["lm_head.weight"] = ([len(pieces), width], width**-0.5)

header, body = {}, bytearray()
for name, (shape, scale) in sorted(tensors.items()):
    count = math.prod(shape)
    # Uniform between -a and a deviates by a / sqrt(3): scale is that of T5's normal initialisation.
    values = [1.0] * count if scale is None else [math.sqrt(3) * scale * x for x in uniform(name, count)]
    begin = len(body)
    body += struct.pack(f"<{count}f", *values)
    header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, len(body)]}
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
(folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(body))

(folder / "config.json").write_text(json.dumps({
    "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "is_encoder_decoder": True,
    "d_model": width, "d_kv": head_width, "d_ff": inner, "num_heads": heads, "num_layers": layers,
    "num_decoder_layers": layers, "relative_attention_num_buckets": buckets, "relative_attention_max_distance": 128,
    "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "is_gated_act": True, "dropout_rate": 0.0,
    "layer_norm_epsilon": 1e-6, "tie_word_embeddings": False, "vocab_size": len(pieces), "pad_token_id": 0,
    "eos_token_id": 1, "decoder_start_token_id": 0}, indent=2) + "\n")
added = [{"id": i, "content": pieces[i][0], "special": True, "single_word": False, "lstrip": False, "rstrip": False,
          "normalized": False} for i in range(3)]
metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
(folder / "tokenizer.json").write_text(json.dumps({
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
    "post_processor": {"type": "TemplateProcessing",
                       "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                       "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}},
                                {"Sequence": {"id": "B", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                       "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
    "decoder": metaspace, "model": {"type": "Unigram", "unk_id": 2, "vocab": pieces}}, ensure_ascii=False) + "\n")
(folder / "tokenizer_config.json").write_text(json.dumps({
    "tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>",
    "model_max_length": 512}, indent=2) + "\n")
