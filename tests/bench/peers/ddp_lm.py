"""Training steps of a GPT-2 (124M, random weights) with PyTorch's DistributedDataParallel on one GPU and on several: the
peer of engine_scaling_bench. It needs torch alone: the model is written out here, with PyTorch's own flash attention.

    python ddp_lm.py [--gpus N] [--steps N] [--rows N] [--length N] [--compile] [--cpu]

bf16 autocast, fused AdamW, clipping, for LoRA (rank 8 on the query, key and value projection) and full fine-tuning. The
lines are those of engine_scaling_bench: one GPU; N GPUs with as many rows for each; N GPUs with the same rows.
"""
import argparse
import os
import statistics
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn as nn
import torch.nn.functional as F

arguments = argparse.ArgumentParser()
arguments.add_argument("--gpus", type=int, default=2)
arguments.add_argument("--steps", type=int, default=100)
arguments.add_argument("--rows", type=int, default=8)
arguments.add_argument("--length", type=int, default=512)
arguments.add_argument("--compile", action="store_true", help="torch.compile the model")
arguments.add_argument("--cpu", action="store_true", help="on CPUs over Gloo, in fp32")

WIDTH, LAYERS, HEADS, VOCABULARY = 768, 12, 12, 50257


class LoraLinear(nn.Module):
    def __init__(self, base, rank=8, alpha=16):
        super().__init__()
        self.base, self.scale = base, alpha / rank
        self.a = nn.Parameter(torch.randn(rank, base.in_features) * 0.02)
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + F.linear(F.linear(x, self.a), self.b) * self.scale


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        rows, length, _ = x.shape
        q, k, v = (t.view(rows, length, HEADS, -1).transpose(1, 2) for t in self.qkv(self.norm1(x)).split(WIDTH, dim=2))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(rows, length, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(1024, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, ids):
        x = self.words(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.words.weight)
        return F.cross_entropy(logits[:, :-1].reshape(-1, VOCABULARY).float(), ids[:, 1:].reshape(-1))


def train(rank, ranks, a, full, rows, results):
    torch.manual_seed(0)
    device = torch.device("cpu") if a.cpu else torch.device("cuda", rank)
    if not a.cpu:
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = True
    if ranks > 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ["MASTER_PORT"] = str(29500 + os.getppid() % 1000 + (7 if full else 0))
        dist.init_process_group("gloo" if a.cpu else "nccl", rank=rank, world_size=ranks)
    model = Gpt2().to(device)
    if not full:
        model.requires_grad_(False)
        for block in model.blocks:
            block.qkv = LoraLinear(block.qkv).to(device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    step_model = torch.compile(model) if a.compile else model
    if ranks > 1:
        step_model = nn.parallel.DistributedDataParallel(step_model, device_ids=None if a.cpu else [rank],
                                                         gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, fused=True)
    mine = rows // ranks
    batches = [torch.randint(5, 30005, (mine, a.length), device=device) for _ in range(8)]

    def step(i):
        with torch.autocast(device.type, torch.bfloat16, enabled=not a.cpu):
            loss = step_model(batches[i % 8])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def wait():
        if not a.cpu:
            torch.cuda.synchronize()

    group = 1 if a.cpu else 10
    for i in range(2 if a.cpu else 20):
        step(i)
    wait()
    times = []
    for _ in range(max(1, a.steps // group)):
        begin = time.perf_counter()
        for i in range(group):
            step(i)
        wait()
        times.append((time.perf_counter() - begin) * 1e3 / group)
    if rank == 0:
        results.put((statistics.median(times), min(times)))
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()


def measure(a, ranks, full, rows):
    results = mp.get_context("spawn").SimpleQueue()
    mp.spawn(train, args=(ranks, a, full, rows, results), nprocs=ranks)
    return results.get()


def main():
    a = arguments.parse_args()

    def line(what, ranks, rows, ms, ideal):
        scaling = f"  {100 * ideal / ms[0]:5.1f} % of perfect scaling" if ideal else ""
        print(f"DDP {what:<28} {ranks:2} x {rows // ranks:4} rows  {ms[0]:9.3f} ms (least {ms[1]:9.3f})  "
              f"{rows * a.length / ms[0] * 1e3:9.0f} tokens/s{scaling}", flush=True)

    for full in (False, True):
        name = "full" if full else "lora"
        one = measure(a, 1, full, a.rows)
        line(f"{name}, one", 1, a.rows, one, None)
        line(f"{name}, as many rows for each", a.gpus, a.rows * a.gpus, measure(a, a.gpus, full, a.rows * a.gpus), one[0])
        line(f"{name}, the same rows", a.gpus, a.rows, measure(a, a.gpus, full, a.rows), one[0] / a.gpus)


if __name__ == "__main__":
    main()
