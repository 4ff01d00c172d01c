"""Megabytes of text a second with the Hugging Face `tokenizers` package on one core: the peer of tokenizer_bench.

    pip install tokenizers
    python tokenizers_hf.py TOKENIZER_DIRECTORY TEXT_FILE [--bytes N] [--rounds N]

The directory must hold tokenizer.json. Prints the fastest of its ways: texts one by one, and batches with and without
offsets.
"""
import argparse
import os
import statistics
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
from tokenizers import Tokenizer  # noqa: E402

arguments = argparse.ArgumentParser()
arguments.add_argument("directory")
arguments.add_argument("text")
arguments.add_argument("--bytes", type=int, default=1000)
arguments.add_argument("--rounds", type=int, default=5)
a = arguments.parse_args()

with open(a.text, "rb") as file:
    data = file.read()
texts, part = [], b""
for line in data.split(b"\n"):
    part += line + b"\n"
    if len(part) >= a.bytes:
        texts.append(part.decode())
        part = b""
part = part[:-1]
if part:
    texts.append(part.decode())


def one_by_one(tokenizer):
    return sum(len(tokenizer.encode(text).ids) for text in texts)


def batches(encode):
    return sum(len(e.ids) for i in range(0, len(texts), 256) for e in encode(texts[i:i + 256]))


ways = {
    "encode": one_by_one,
    "encode_batch": lambda tokenizer: batches(tokenizer.encode_batch),
    "encode_batch_fast": lambda tokenizer: batches(tokenizer.encode_batch_fast),
}
best = None
for name, way in ways.items():
    rates, processor_rates, loads = [], [], []
    for _ in range(a.rounds):
        start = time.perf_counter()
        tokenizer = Tokenizer.from_file(os.path.join(a.directory, "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        loads.append(time.perf_counter() - start)
        start, started = time.perf_counter(), time.process_time()
        tokens = way(tokenizer)
        processor_rates.append(len(data) / 1e6 / (time.process_time() - started))
        rates.append(len(data) / 1e6 / (time.perf_counter() - start))
    found = (statistics.median(processor_rates), statistics.median(rates), name, tokens, statistics.median(loads))
    best = max(best or found, found)
print(f"MB_per_second {best[1]:.2f} MB_per_processor_second {best[0]:.2f} tokens {best[3]} texts {len(texts)} "
      f"load_ms {1000 * best[4]:.0f} way {best[2]}")
