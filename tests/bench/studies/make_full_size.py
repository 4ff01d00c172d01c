#!/usr/bin/env python3
"""make_full_size.py ROOT: models of the five studies' sizes with random weights, and data of their lengths.

Writes ROOT/models and ROOT/data as the files in examples/studies name them, so that these run where the pretrained
models and the studies' own data cannot be had. Times and memory are then those of the full size; what the models
answer means nothing. Needs torch, transformers and tokenizers; texts come from examples/data.
"""
import itertools
import json
import pathlib
import random
import sys

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

root = pathlib.Path(sys.argv[1])
examples = pathlib.Path(__file__).resolve().parents[3] / "examples" / "data"
draw = random.Random(0)
torch.manual_seed(0)


def rows(name):
    return [json.loads(line) for line in (examples / name).read_text(encoding="utf-8").splitlines()]


genre = [row for split in ("train", "validation", "test") for row in rows(f"verse_genre/{split}.jsonl")]
texts = [row["text"] for row in genre]


def write(name, lines):
    path = root / "data" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def many(count):
    return " ".join(draw.choice(texts) for _ in range(count))


for split, count in (("train", 2000), ("validation", 200), ("test", 400)):
    write(f"news/{split}.jsonl",
          (json.dumps({"article": many(20), "summary": many(1)}) for _ in range(count)))
    write(f"wikitext/{split}.txt", (many(4) for _ in range(count)))
    write(f"topics/{split}.jsonl",
          (json.dumps({"text": row["text"] + " " + many(2), "label": row["label"] % 4})
           for row in itertools.islice(itertools.cycle(genre), count)))
    write(f"pairs/{split}.jsonl", (json.dumps(row) for row in rows(f"verse_paraphrase/{split}.jsonl")))


def byte_level_bpe(specials):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=8000, special_tokens=specials,
                                                             initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def save(name, config, kind, tokenizer, settings, dtype=torch.float32):
    folder = root / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = kind._from_config(config, dtype=dtype) if hasattr(kind, "_from_config") else kind(config)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    print(f"{name}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} million random weights", flush=True)


gpt2 = byte_level_bpe(["<|endoftext|>"])
gpt2_settings = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>",
                 "unk_token": "<|endoftext|>", "model_max_length": 1024}
ends = {"bos_token_id": 0, "eos_token_id": 0}
save("gpt2", transformers.GPT2Config(**ends), transformers.GPT2LMHeadModel, gpt2, gpt2_settings)
save("gpt2-medium", transformers.GPT2Config(n_embd=1024, n_layer=24, n_head=16, **ends), transformers.GPT2LMHeadModel, gpt2,
     gpt2_settings)
save("gpt-neo-1.3B",
     transformers.GPTNeoConfig(hidden_size=2048, num_layers=24, attention_types=[[["global", "local"], 12]], num_heads=16,
                               **ends), transformers.GPTNeoForCausalLM, gpt2, gpt2_settings)

roberta = byte_level_bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
roberta.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
save("roberta-base", transformers.RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1,
                                                layer_norm_eps=1e-5), transformers.RobertaModel, roberta,
     {"tokenizer_class": "RobertaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>",
      "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>", "model_max_length": 512})

bert = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
bert.normalizer = normalizers.BertNormalizer()
bert.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
bert.train_from_iterator(texts, trainers.WordPieceTrainer(
    vocab_size=8000, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
bert.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
save("tinybert-4l-312", transformers.BertConfig(hidden_size=312, num_hidden_layers=4, num_attention_heads=12,
                                                intermediate_size=1200), transformers.BertModel, bert,
     {"tokenizer_class": "BertTokenizer", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]",
      "unk_token": "[UNK]", "mask_token": "[MASK]", "do_lower_case": True, "model_max_length": 512})
(root / "models/tinybert-4l-312/vocab.txt").write_text(
    "".join(word + "\n" for word, _ in sorted(bert.get_vocab().items(), key=lambda item: item[1])), encoding="utf-8")

t5 = tokenizers.Tokenizer(models.Unigram())
t5.pre_tokenizer = pre_tokenizers.Metaspace()
t5.decoder = decoders.Metaspace()
t5.train_from_iterator(texts, trainers.UnigramTrainer(vocab_size=8000, special_tokens=["<pad>", "</s>", "<unk>"],
                                                      unk_token="<unk>"))
t5.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
save("t5-small", transformers.T5Config(), transformers.T5ForConditionalGeneration, t5,
     {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
      "model_max_length": 512})
