"""Every case of training and generation on a CPU, finesweep and Hugging Face + PEFT in turn, as one table.

    pip install torch transformers peft gguf
    cmake --build build/release --target engine_train_bench engine_generate_bench
    python tests/bench/peers/cpu_pairs.py [--rounds 3] [--threads 1 2] [--case WORD]

Needs models/minilm-l6 and models/smollm2-135m-instruct.gguf (scripts/setup --models); a GPT-2 of 124M with random
weights is made in a temporary folder, for both sides. Both programs of a round run one after the other, pinned to the
same cores, the order swapped from round to round; a figure is the median of its rounds' medians, and the ratio the
median of the rounds' ratios (how many times the peer's the speed is).
"""
import argparse
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

arguments = argparse.ArgumentParser()
arguments.add_argument("--rounds", type=int, default=3)
arguments.add_argument("--threads", type=int, nargs="*", default=[1, 2])
arguments.add_argument("--case", default="")
a = arguments.parse_args()

root = pathlib.Path(__file__).resolve().parents[3]
ours, peers = root / "build/release/bin", root / "tests/bench/peers"
minilm, smollm2 = root / "models/minilm-l6", root / "models/smollm2-135m-instruct.gguf"
temporary = tempfile.TemporaryDirectory()
gpt2 = pathlib.Path(temporary.name) / "gpt2"
subprocess.run([sys.executable, peers / "hf_lm.py", "make", gpt2], check=True, stdout=subprocess.DEVNULL)

# ours, the peer's, and of each case that both measure: its name, and a word of its line in the output
cases = [
    ([ours / "engine_train_bench", minilm, "--steps", "10"], [peers / "hf_train.py", minilm, "--steps", "10"],
     [("MiniLM-L6 LoRA r8, 16 x 64", "lora"), ("MiniLM-L6 full, 16 x 64", "full")]),
    ([ours / "engine_train_bench", gpt2, "--lm", "--rows", "4", "--length", "128", "--method", "lora", "--steps", "5"],
     [peers / "hf_lm.py", "train", gpt2, "--steps", "5"], [("GPT-2 124M LoRA r8, 4 x 128", "")]),
    ([ours / "engine_train_bench", smollm2, "--lm", "--rows", "4", "--length", "64", "--method", "lora", "--steps", "5"],
     [peers / "hf_lm.py", "train", smollm2, "--targets", "q_proj,v_proj", "--length", "64", "--steps", "5"],
     [("SmolLM2-135M LoRA r8, 4 x 64", "")]),
    ([ours / "engine_generate_bench", gpt2], [peers / "hf_lm.py", "generate", gpt2, "--rows", "1"],
     [("GPT-2 124M greedy, 32 + 32 tokens", "")]),
]


def medians_ms(command, threads, words):
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0))[:threads])
    run = subprocess.run(["taskset", "-c", cores, *map(str, command), "--threads", str(threads)], check=True,
                         capture_output=True, text=True)
    medians = []
    for word in words:
        lines = [line for line in run.stdout.splitlines() if word in line and "median" in line]
        if not lines:
            raise SystemExit(f"no median in the output of {command}:\n{run.stdout}{run.stderr}")
        medians.append(float(re.search(r"median ([0-9.]+) ms", lines[0]).group(1)))
    return medians


print("| case | threads | finesweep, ms | Hugging Face, ms | ratio | ratio of each round |\n|---|---|---|---|---|---|")
for our_command, peer_command, measured in cases:
    if not any(a.case in name for name, word in measured):
        continue
    words = [word for name, word in measured]
    for threads in a.threads:
        times = {"ours": [], "peer": []}
        for number in range(a.rounds):
            sides = [("ours", our_command), ("peer", [sys.executable, *peer_command])]
            for side, command in sides if number % 2 == 0 else reversed(sides):
                times[side].append(medians_ms(command, threads, words))
        for i, (name, word) in enumerate(measured):
            our, peer = [t[i] for t in times["ours"]], [t[i] for t in times["peer"]]
            ratios = [p / o for o, p in zip(our, peer)]
            print(f"| {name} | {threads} | {statistics.median(our):.0f} | {statistics.median(peer):.0f} | "
                  f"{statistics.median(ratios):.2f} | {', '.join(f'{ratio:.2f}' for ratio in ratios)} |", flush=True)
