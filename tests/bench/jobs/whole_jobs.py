#!/usr/bin/env python3
"""whole_jobs.py ROOT [--only NAME] [--finesweep PROGRAM]: what training jobs take as `finesweep run` runs them on a GPU.

Data loading, evaluation, checkpoints and artifacts are around the steps, as in every sweep. Prints for each case the
milliseconds of a step, the job's and the sweep's seconds, when the first step had ended after the command, and how busy the
GPU was (nvidia-smi, sampled over the whole sweep). ROOT holds the models that
tests/bench/studies/make_full_size.py makes. Texts are cut into blocks, so all rows are of full length.
"""
import argparse
import csv
import json
import os
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import threading
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("root", type=pathlib.Path)
parser.add_argument("--only", default="")
parser.add_argument("--finesweep", default="finesweep")
options = parser.parse_args()
root = options.root.resolve()

# Text of random words, enough for every case.
draw = random.Random(1)
verses = [json.loads(line)["text"] for line in
          (pathlib.Path(__file__).resolve().parents[3] / "examples/data/verse_genre/train.jsonl").open(encoding="utf-8")]
for split, lines in (("train", 12000), ("validation", 400)):
    (root / f"words-{split}.txt").write_text(
        "".join(" ".join(draw.choice(verses) for _ in range(8)) + "\n" for _ in range(lines)), encoding="utf-8")
for split, lines in (("train", 4000), ("validation", 256)):
    (root / f"topics-{split}.jsonl").write_text(
        "".join(json.dumps({"text": " ".join(draw.choice(verses) for _ in range(16)), "label": i % 4}) + "\n"
                for i in range(lines)), encoding="utf-8")


def language(model, step, axes=None, pack="auto"):
    return {"model": str(root / "models" / model), "task": "causal_lm",
            "data": {"train": str(root / "words-train.txt"), "validation": str(root / "words-validation.txt"),
                     "rows": "blocks", "limit": {"validation": 32}},
            "pipeline": [step, {"evaluate": {"split": "validation", "batch_size": 16}}],
            "sweep": {"axes": axes or [], "seed": 1}, "resources": {"pack": pack}}


def lora(rows, length, steps, **more):
    return {"finetune": {"method": "lora", "rank": 8, "alpha": 16, "steps": steps, "batch_size": rows,
                         "sequence_length": length, "learning_rate": 2e-4, "precision": "bf16", "dropout": 0.0,
                         "model_dropout": 0.0, **more}}


eight = [{"finetune.rank": [2, 4, 8, 16], "finetune.alpha": [4, 8, 16, 32]}, {"finetune.learning_rate": [2e-4, 5e-4]}]
many = eight + [{"finetune.warmup": [0, 1, 2, 3, 4]}, {"finetune.weight_decay": [0, 0.01, 0.02, 0.03, 0.04]}]
topics = {"model": str(root / "models/roberta-base"), "task": "classification",
          "data": {"train": str(root / "topics-train.jsonl"), "validation": str(root / "topics-validation.jsonl"),
                   "fields": {"text": "text", "label": "label"}},
          "pipeline": [lora(16, 256, 200), {"evaluate": {"split": "validation", "batch_size": 32}}],
          "sweep": {"seed": 1}}
full = lora(8, 512, 200, method="full")
for key in ("rank", "alpha", "dropout"):
    del full["finetune"][key]
distillation = {"distill": {"teacher": str(root / "models/gpt2-medium"), "epochs": 4, "batch_size": 8, "sequence_length": 512,
                            "learning_rate": 2e-4, "precision": "bf16", "model_dropout": 0.0}}
distilled = language("gpt2", distillation)
distilled["data"]["limit"]["train"] = 400

cases = {
    "gpt2-lora-8x512": language("gpt2", lora(8, 512, 400)),
    "gpt2-lora-8x512-dropout": language("gpt2", lora(8, 512, 200, dropout=0.1, model_dropout=0.1)),
    "gpt2-lora-8x128": language("gpt2", lora(8, 128, 600)),
    "gpt2-lora-32x512": language("gpt2", lora(32, 512, 100)),
    "roberta-lora-16x256": topics,
    "gpt2-qlora-8x512": language("gpt2", lora(8, 512, 200, method="qlora", double=True)),
    "gpt2-full-8x512": language("gpt2", full),
    "gpt2-distill-8x512": distilled,
    "8-jobs-2x128-alone": language("gpt2", lora(2, 128, 300), eight, "off"),
    "8-jobs-2x128-pack": language("gpt2", lora(2, 128, 300), eight),
    "8-jobs-8x128-alone": language("gpt2", lora(8, 128, 200), eight, "off"),
    "8-jobs-8x128-pack": language("gpt2", lora(8, 128, 200), eight),
    "8-jobs-8x512-alone": language("gpt2", lora(8, 512, 60), eight, "off"),
    "8-jobs-8x512-pack": language("gpt2", lora(8, 512, 60), eight, 8),
    "long-among-12-shorter": language("gpt2", lora(2, 128, 100), [{"finetune.steps": [1200] + 12 * [100],
                                      "finetune.weight_decay": [0.001 * i for i in range(13)]}], 4),
    "24-short-jobs-alone": language("gpt2", lora(4, 128, 40), eight + [{"finetune.warmup": [0, 2, 4]}], "off"),
    "24-short-jobs-pack": language("gpt2", lora(4, 128, 40), eight + [{"finetune.warmup": [0, 2, 4]}]),
    "200-short-jobs-alone": language("gpt2", lora(4, 128, 40), many, "off"),
    "200-short-jobs-pack": language("gpt2", lora(4, 128, 40), many),
}


class Busy:
    """How many of the samples of nvidia-smi saw a kernel at work, in percent of the time, as pairs (time, percent)."""

    def __init__(self):
        self.samples = []
        self.process = subprocess.Popen(["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits",
                                         "-lms", "100"], stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            if line.strip().isdigit():
                self.samples.append((time.monotonic(), int(line)))

    def mean(self, begin, end):
        inside = [percent for at, percent in self.samples if begin <= at <= end]
        return statistics.mean(inside) if inside else float("nan")

    def stop(self):
        self.process.terminate()


def first_step(run):
    """When the first training step of a run had ended, in seconds since 1970: from the events and the job's own log."""
    for line in (run / "events.jsonl").open(encoding="utf-8"):
        event = json.loads(line)
        if event["event"] != "attempt_started":
            continue
        log = run / "logs" / f"{event['job']}.{event['attempt']}.log"
        found = re.search(r"([\d.]+) s training", log.read_text(encoding="utf-8", errors="replace")) if log.exists() else None
        if found:
            return event["time"] / 1000 + float(found[1])
    return float("nan")


def last_result(run):
    """When the last job had succeeded, in seconds since 1970."""
    events = [json.loads(line) for line in (run / "events.jsonl").open(encoding="utf-8")]
    return max(event["time"] for event in events if event["event"] == "job_succeeded") / 1000


def run(name, sweep):
    folder = root / "whole-jobs" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(json.dumps({"name": name, **sweep}), encoding="utf-8")
    os.sync()  # what was written before is not to be waited for
    busy = Busy()
    begin, began = time.monotonic(), time.time()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([options.finesweep, "run", str(folder / "sweep.yaml"), "--out", str(folder / "run"),
                                    "--json"], stdout=subprocess.PIPE, stderr=log, text=True)
        for line in process.stdout:
            log.write(line)
    code = process.wait()
    end = time.monotonic()
    busy.stop()
    (folder / "run/busy.csv").write_text("".join(f"{at - begin + began:.3f},{percent}\n" for at, percent in busy.samples))
    if code != 0:
        print(f"{name:28} exit code {code}: {(folder / 'log').read_text()[-1500:]}", flush=True)
        return
    rows = list(csv.DictReader((folder / "run/reports/results.csv").open(encoding="utf-8")))
    first, last, to_mono = first_step(folder / "run"), last_result(folder / "run"), begin - began
    step = "distill" if "distill.seconds" in rows[0] else "finetune"
    value = lambda key: [float(row[f"{step}.{key}"]) for row in rows if row.get(f"{step}.{key}")]
    print(f"{name:28} {statistics.median(value('batch_ms_mean')):8.2f} ms a batch, {sum(value('tokens_per_second')) / len(rows):9.0f} "
          f"tokens/s a job; jobs {statistics.median(value('seconds')):6.2f} s; sweep {end - begin:6.2f} s; first step after "
          f"{first - began:5.2f} s; GPU busy {busy.mean(begin, end):5.1f} % of all, {busy.mean(first + to_mono, last + to_mono):5.1f} % "
          f"between the first step and the last result", flush=True)


for name, sweep in cases.items():
    if options.only in name:
        run(name, sweep)
