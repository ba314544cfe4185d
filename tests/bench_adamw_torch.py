#!/usr/bin/python3
"""zopt's AdamW kernel beside PyTorch's fused AdamW on the same GPU: prints how many times faster zopt
is, for 16-bit gradients and parameters over FP32 master weights and states. PyTorch's is its fused
kernel on FP32 tensors and the two casts it then needs, gradients up and parameters down.

Ends with 77 and the reason where PyTorch has no GPU. --dry-run does one round on the CPU.
"""
import argparse
import json
import statistics
import subprocess
import sys


def torch_ms(torch, n, device, rounds):
    """Median of a step: cast, update, cast."""
    on_gpu = device == "cuda"
    half = torch.full((n,), 0.03125, dtype=torch.float16, device=device)
    out = torch.empty_like(half)
    master = torch.nn.Parameter(torch.zeros(n, device=device))
    master.grad = torch.empty(n, device=device)
    adamw = torch.optim.AdamW([master], lr=1e-3, **({"fused": True} if on_gpu else {}))
    times = []
    for _ in range(rounds + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2)) if on_gpu else (None, None)
        if on_gpu:
            begin.record()
        master.grad.copy_(half)
        adamw.step()
        with torch.no_grad():
            out.copy_(master)
        if on_gpu:
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
    assert bool((out < 0).all()), "AdamW did not move the parameters"
    return statistics.median(times[2:]) if on_gpu else float("nan")


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--zopt", default="zopt", help="the command")
    arguments.add_argument("--params", type=int, default=1000000000)
    arguments.add_argument("--dry-run", action="store_true")
    args = arguments.parse_args()
    try:
        import torch
    except ImportError:
        print("there is no PyTorch")
        return 77
    if args.dry_run:
        torch_ms(torch, 1000, "cpu", 1)
        return 0
    if not torch.cuda.is_available():
        print("this PyTorch has no GPU")
        return 77
    theirs = torch_ms(torch, args.params, "cuda", 11)
    torch.cuda.empty_cache()
    run = subprocess.run([args.zopt, "bench", "adam", "--device", "cuda", "--params", str(args.params), "--json"],
                         check=True, stdout=subprocess.PIPE)
    ours = json.loads(run.stdout)["rows"][0]["time_ms"]
    print("%.3f" % (theirs / ours))
    return 0


if __name__ == "__main__":
    sys.exit(main())
