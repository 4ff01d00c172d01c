"""Training steps and generation of a language model with Hugging Face transformers and PEFT: the peer of
engine_train_bench --lm and of engine_generate_bench.

    pip install torch transformers peft
    python hf_lm.py make DIRECTORY                        a GPT-2 (124M) with random weights, for both sides
    python hf_lm.py train MODEL [--targets c_attn] [--threads N] [--steps N] [--rows N] [--length N] [--full]
    python hf_lm.py generate MODEL --rows 1 [--threads N] [--prompt N] [--new N] [--times N]

MODEL is a directory, or FILE.gguf (with the package gguf). fp32, the model's own dropout.
"""
import argparse
import os
import statistics
import time

import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, get_linear_schedule_with_warmup, logging

arguments = argparse.ArgumentParser()
arguments.add_argument("what", choices=["make", "train", "generate"])
arguments.add_argument("model")
arguments.add_argument("--targets", default="c_attn")
arguments.add_argument("--full", action="store_true")
arguments.add_argument("--threads", type=int, default=2)
arguments.add_argument("--steps", type=int, default=8)
arguments.add_argument("--rows", type=int, default=4)
arguments.add_argument("--length", type=int, default=128)
arguments.add_argument("--prompt", type=int, default=32)
arguments.add_argument("--new", type=int, default=32)
arguments.add_argument("--times", type=int, default=5)
a = arguments.parse_args()
logging.set_verbosity_error()
torch.set_num_threads(a.threads)
torch.manual_seed(0)


def load():
    if a.model.endswith(".gguf"):
        folder, name = os.path.split(os.path.abspath(a.model))
        return AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    return AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32)


def train():
    model = load()
    if not a.full:
        from peft import LoraConfig, get_peft_model
        model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, task_type="CAUSAL_LM",
                                                 target_modules=a.targets.split(",")))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, 2, 100000)
    model.train()
    batches = [torch.randint(5, 40005, (a.rows, a.length)) for _ in range(4)]
    times = []
    for step in range(a.steps + 3):
        begin = time.perf_counter()
        loss = model(input_ids=batches[step % 4], labels=batches[step % 4]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        times.append((time.perf_counter() - begin) * 1e3)
    median = statistics.median(times[3:])
    print(f"transformers {'full' if a.full else 'lora'} lm {a.rows}x{a.length} threads {a.threads}: median {median:.1f} ms, "
          f"least {min(times[3:]):.1f} ms, {a.rows * a.length / median * 1e3:.0f} tokens/s, "
          f"{sum(p.numel() for p in parameters)} trained", flush=True)


@torch.no_grad()
def generate():
    model = load().eval()
    ids = torch.randint(5, 40005, (a.rows, a.prompt))
    times = []
    for _ in range(a.times + 1):
        begin = time.perf_counter()
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=a.new, min_new_tokens=a.new,
                             do_sample=False, use_cache=True, pad_token_id=0, eos_token_id=None)
        times.append((time.perf_counter() - begin) * 1e3)
        assert out.shape[1] == a.prompt + a.new
    median = statistics.median(times[1:])
    print(f"transformers generate {a.rows} rows, {a.prompt} + {a.new} tokens, threads {a.threads}: median {median:.1f} ms, "
          f"least {min(times[1:]):.1f} ms, {a.rows * a.new / median * 1e3:.1f} new tokens/s", flush=True)


if a.what == "make":
    GPT2LMHeadModel(GPT2Config()).save_pretrained(a.model)
elif a.what == "train":
    train()
else:
    generate()
