#!/usr/bin/python3
"""The trainer's GPT beside the same model in PyTorch, each on one thread.

1. Loss and every gradient of a small model (test_model --dump) against torch.autograd.
2. Time of a whole step of the run file's model and batch: forward, backward, clip and AdamW. Both
   programs run in turn, because clock rates drift; the ratio of the medians is printed.

A benchmark, not a test of ctest: only its first part fails. Needs python3-torch.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as F

# Gradients are sums of up to a few hundred FP32 products, in another order: 2^-24 * sqrt(300) * 10.
GRADIENT_TOLERANCE = 1e-5


def forward(p, shape, inputs, targets):
    """Mean cross entropy of a GPT whose parameters are p[name], from the mathematics."""
    batch, time_ = inputs.shape
    width, heads = shape["n_embd"], shape["n_head"]
    causal = torch.triu(torch.ones(time_, time_, dtype=torch.bool), 1)
    norm = lambda x, name: F.layer_norm(x, (width,), p[name + ".weight"], p[name + ".bias"])
    linear = lambda x, name: F.linear(x, p[name + ".weight"], p[name + ".bias"])
    x = p["wte.weight"][inputs] + p["wpe.weight"][:time_]
    for i in range(shape["n_layer"]):
        h = f"h.{i}."
        qkv = linear(norm(x, h + "ln_1"), h + "attn.c_attn")
        q, k, v = (t.view(batch, time_, heads, -1).transpose(1, 2) for t in qkv.split(width, 2))
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(width // heads)
        y = scores.masked_fill(causal, float("-inf")).softmax(-1) @ v
        x = x + linear(y.transpose(1, 2).reshape(batch, time_, width), h + "attn.c_proj")
        y = F.gelu(linear(norm(x, h + "ln_2"), h + "mlp.c_fc"), approximate="tanh")
        x = x + linear(y, h + "mlp.c_proj")
    logits = norm(x, "ln_f") @ p["wte.weight"].T
    return F.cross_entropy(logits.view(-1, shape["vocab"]), targets.reshape(-1))


def param_shapes(shape):
    width = shape["n_embd"]
    shapes = {"wte.weight": (shape["vocab"], width), "wpe.weight": (shape["n_ctx"], width)}
    for i in range(shape["n_layer"]):
        rows = {"ln_1": (width,), "attn.c_attn": (3 * width, width), "attn.c_proj": (width, width),
                "ln_2": (width,), "mlp.c_fc": (4 * width, width), "mlp.c_proj": (width, 4 * width)}
        for name, extents in rows.items():
            shapes[f"h.{i}.{name}.weight"] = extents
            shapes[f"h.{i}.{name}.bias"] = extents[:1]
    return {**shapes, "ln_f.weight": (width,), "ln_f.bias": (width,)}


def compare_gradients(build):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "dump.json")
        subprocess.run([os.path.join(build, "test_model"), "--dump", path], check=True)
        with open(path, encoding="utf-8") as file:
            dump = json.load(file)
    shapes = param_shapes(dump)
    if list(shapes) != list(dump["params"]):
        sys.exit("gradients: the models have other parameters")
    p = {name: torch.tensor(dump["params"][name]["value"]).view(extents).requires_grad_()
         for name, extents in shapes.items()}
    inputs, targets = (torch.tensor(dump[key]).view(dump["batch"], -1)
                       for key in ("inputs", "targets"))
    loss = forward(p, dump, inputs, targets)
    loss.backward()
    worst = abs(loss.item() - dump["loss"])
    for name, tensor in p.items():
        want = tensor.grad.flatten()
        error = (torch.tensor(dump["params"][name]["grad"]) - want).abs().max().item()
        worst = max(worst, error / max(want.abs().max().item(), 0.1))
    print(f"gradients: {len(p)} tensors and the loss agree with torch.autograd within {worst:.1e} "
          f"(tolerance {GRADIENT_TOLERANCE:.0e})")
    if not worst <= GRADIENT_TOLERANCE:
        sys.exit(1)


def torch_step_ms(shape, batch, steps):
    p = {name: (0.02 * torch.randn(extents)).requires_grad_()
         for name, extents in param_shapes(shape).items()}
    groups = [{"params": [t for t in p.values() if t.ndim == 2], "weight_decay": 0.1},
              {"params": [t for t in p.values() if t.ndim == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    times = []
    for _ in range(steps):
        tokens = torch.randint(shape["vocab"], (batch, shape["n_ctx"] + 1))
        start = time.perf_counter()
        optimizer.zero_grad()
        forward(p, shape, tokens[:, :-1], tokens[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(p.values(), 1.0)
        optimizer.step()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def zopt_run(build, run_file, steps, extra):
    """(median step_ms, config.json) of a run of `zopt train` on one rank."""
    with tempfile.TemporaryDirectory() as folder:
        command = [os.path.join(build, "zopt"), "train", run_file, "--out", folder,
                   "--set", f"train_steps={steps}", "--set", "sample.length=0",
                   "--set", "data.val_fraction=0.001"] + extra
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(os.path.join(folder, "metrics.jsonl"), encoding="utf-8") as file:
            times = [json.loads(line)["step_ms"] for line in file]
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            return statistics.median(times), json.load(file)


def main():
    top = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=os.path.join(top, "build"))
    parser.add_argument("--run-file", default=os.path.join(top, "configs", "gpt-kjv.json"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--vocab", type=int, default=73, help="characters of the text, for PyTorch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30, help="of each program, each round")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    compare_gradients(args.build)
    extra = [word for key in args.set for word in ("--set", key)]
    ours, theirs = [], []
    for _ in range(args.rounds):
        ms, config = zopt_run(args.build, args.run_file, args.steps, extra)
        ours.append(ms)
        shape = {"vocab": args.vocab, **config["model"]}
        theirs.append(torch_step_ms(shape, config["train_batch_size"], args.steps))
    ratio = statistics.median(a / b for a, b in zip(ours, theirs))
    print(f"step: zopt {statistics.median(ours):.1f} ms, PyTorch {torch.__version__} "
          f"{statistics.median(theirs):.1f} ms, one thread each; ratio {ratio:.2f} "
          f"(median of {args.rounds} rounds of {args.steps} steps)")


if __name__ == "__main__":
    main()
