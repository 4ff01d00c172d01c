"""Milliseconds of one training step with Hugging Face transformers and PEFT: the peer of engine_train_bench.

    pip install torch transformers peft
    python hf_train.py MODEL_DIRECTORY [--threads N] [--steps N] [--rows N] [--length N] [--real N] [--bf16]

LoRA of rank 8 on query and value, then full fine-tuning, of a classifier with six labels over random token ids, with
the model's own dropout, AdamW, clipping and a linear schedule.
"""
import argparse
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, get_linear_schedule_with_warmup, logging

arguments = argparse.ArgumentParser()
arguments.add_argument("model")
arguments.add_argument("--threads", type=int, default=2)
arguments.add_argument("--steps", type=int, default=12)
arguments.add_argument("--rows", type=int, default=16)
arguments.add_argument("--length", type=int, default=64)
arguments.add_argument("--real", type=int, default=0)
arguments.add_argument("--bf16", action="store_true")
a = arguments.parse_args()
logging.set_verbosity_error()
torch.set_num_threads(a.threads)
torch.manual_seed(0)


def batch():
    mask = torch.ones(a.rows, a.length, dtype=torch.long)
    if a.real:
        mask[:, a.real:] = 0
    return dict(input_ids=torch.randint(5, 30005, (a.rows, a.length)), attention_mask=mask,
                labels=torch.randint(0, 6, (a.rows,)))


def measure(name, model):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, 2, 100000)
    model.train()
    batches = [batch() for _ in range(4)]
    times, processor_times = [], []
    for step in range(a.steps + 3):
        begin, processor_begin = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=a.bf16):
            loss = model(**batches[step % 4]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        times.append((time.perf_counter() - begin) * 1e3)
        processor_times.append((time.process_time() - processor_begin) * 1e3)
    times, processor = sorted(times[3:]), statistics.median(processor_times[3:])
    median = times[len(times) // 2]
    print(f"transformers {name} {'bf16' if a.bf16 else 'fp32'} cls {a.rows}x{a.length} threads {a.threads}: "
          f"median {median:.1f} ms, least {times[0]:.1f} ms, processor {processor:.1f} ms, {a.rows * a.length / median * 1e3:.0f} tokens/s, "
          f"{sum(p.numel() for p in parameters)} trained", flush=True)


def classifier():
    return AutoModelForSequenceClassification.from_pretrained(a.model, num_labels=6)


measure("lora", get_peft_model(classifier(), LoraConfig(
    r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["query", "value"], task_type="SEQ_CLS")))
measure("full", classifier())
