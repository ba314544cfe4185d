"""One rank of a ZeRO step by PyTorch: gradients all-reduced over gloo, then
ZeroRedundancyOptimizer(AdamW), which updates a rank's shard and broadcasts it. Rank 0 prints the
median of the rounds in ms. Started by zero.sh under mpirun; torchrun is not needed.

usage: zero_torch.py PARAMS ROUNDS FOLDER_FOR_THE_RENDEZVOUS
"""
import os
import statistics
import sys
import time

import torch
import torch.distributed as dist
from torch.distributed.optim import ZeroRedundancyOptimizer

TENSORS = 16  # it shards by whole tensors
WARMUP = 2
LR, BETAS, EPS, DECAY = 1e-3, (0.9, 0.999), 1e-8, 0.01


def make_tensors(n_params):
    each = n_params // TENSORS
    sizes = [each] * (TENSORS - 1) + [n_params - (TENSORS - 1) * each]
    return [torch.nn.Parameter(torch.full((size,), 0.5)) for size in sizes if size > 0]


def timed_step(params, optimizer, rank, world):
    """Milliseconds from the first rank's start to the last one's end; the clock is the machine's."""
    for p in params:
        p.grad.fill_(1.0 + rank)
    dist.barrier()
    start = time.monotonic()
    for p in params:
        dist.all_reduce(p.grad)
        p.grad.div_(world)
    optimizer.step()
    times = torch.tensor([start, -time.monotonic()], dtype=torch.float64)
    dist.all_reduce(times, op=dist.ReduceOp.MIN)
    return float(-times[1] - times[0]) * 1e3


def expected(steps, world):
    """AdamW on a constant gradient, the mean over the ranks."""
    g, p, m, v = (1 + world) / 2, 0.5, 0.0, 0.0
    for t in range(1, steps + 1):
        p *= 1 - LR * DECAY
        m += (1 - BETAS[0]) * (g - m)
        v = BETAS[1] * v + (1 - BETAS[1]) * g * g
        p -= LR * (m / (1 - BETAS[0] ** t)) / ((v / (1 - BETAS[1] ** t)) ** 0.5 + EPS)
    return p


def main():
    n_params, rounds, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    rank, world = (int(os.environ["OMPI_COMM_WORLD_" + name]) for name in ("RANK", "SIZE"))
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // world))
    dist.init_process_group("gloo", init_method="file://%s/rendezvous" % folder, rank=rank,
                            world_size=world)
    params = make_tensors(n_params)
    for p in params:
        p.grad = torch.empty_like(p)
    optimizer = ZeroRedundancyOptimizer(params, optimizer_class=torch.optim.AdamW, lr=LR,
                                        betas=BETAS, eps=EPS, weight_decay=DECAY)
    times = [timed_step(params, optimizer, rank, world) for _ in range(WARMUP + rounds)][WARMUP:]
    # 13 steps in FP32 on 0.5: a few roundings of 2^-25 a step.
    want = expected(WARMUP + rounds, world)
    wrong = sum(1 for p in params if not bool(((p.detach() - want).abs() < 1e-5).all()))
    if rank == 0:
        print("%.6f" % statistics.median(times), flush=True)
    if wrong:
        print("rank %d: %d tensors are not what AdamW gives" % (rank, wrong), file=sys.stderr)
    dist.barrier()
    dist.destroy_process_group()
    sys.exit(2 if wrong else 0)


if __name__ == "__main__":
    main()
