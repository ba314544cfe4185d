"""100 steps of every optimizer and variant by torch.optim, in float64 and float32.

Writes optimizers_100.txt beside this file, or to the path given. The numbers are those of
adamw_torch.py; the cases are those of ../optimizer_cases.h. PyTorch has no Lion: it is written here
from the paper, in tensor operations of the same precision. Made with PyTorch 1.13 (Debian's
python3-torch): /usr/bin/python3 optimizers_torch.py
"""

import os
import sys

import torch

from adamw_torch import number

N_ELEMS = 32
REPORTED = (1, 10, 100)

HEADER = """\
# 100 steps on {n} elements by torch.optim (foreach=False), PyTorch {version}, and Lion from its paper
# The numbers are those of adamw_200.txt; hyper-parameters: optimizers_torch.py
# Lines: case step index parameter-in-float64-arithmetic parameter-in-float32-arithmetic
"""


class Lion(torch.optim.Optimizer):
    """Source: Chen et al., Symbolic Discovery of Optimization Algorithms, Algorithm 2."""

    def __init__(self, params, lr, betas, weight_decay, foreach=False):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["exp_avg"] = torch.zeros_like(p)
                m = state["exp_avg"]
                direction = (m * beta1 + p.grad * (1 - beta1)).sign()
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
                m.mul_(beta2).add_(p.grad, alpha=1 - beta2)


O = torch.optim
B = (0.9, 0.99)
CASES = {
    "sgd": (O.SGD, dict(lr=0.05, weight_decay=0.01)),
    "sgd_momentum": (O.SGD, dict(lr=0.02, weight_decay=0.01, momentum=0.9, dampening=0.25)),
    "sgd_nesterov": (O.SGD, dict(lr=0.02, momentum=0.8, nesterov=True)),
    "rmsprop": (O.RMSprop, dict(lr=0.01, weight_decay=0.1, alpha=0.95)),
    "rmsprop_momentum": (O.RMSprop, dict(lr=0.003, alpha=0.9, momentum=0.9)),
    "rmsprop_centered": (
        O.RMSprop,
        dict(lr=0.01, weight_decay=0.01, alpha=0.9, centered=True, eps=1e-6),
    ),
    "rmsprop_centered_momentum": (
        O.RMSprop,
        dict(lr=0.003, alpha=0.95, centered=True, momentum=0.5, eps=1e-4),
    ),
    "adagrad": (O.Adagrad, dict(lr=0.1)),
    "adagrad_decay": (
        O.Adagrad,
        dict(lr=0.1, weight_decay=0.05, lr_decay=0.01, initial_accumulator_value=0.1),
    ),
    "adam": (O.Adam, dict(lr=0.003, betas=B, weight_decay=0.1)),
    "adam_amsgrad": (O.Adam, dict(lr=0.003, betas=B, amsgrad=True)),
    "adamw": (O.AdamW, dict(lr=0.003, betas=B, weight_decay=0.1)),
    "adamw_amsgrad": (
        O.AdamW,
        dict(lr=0.003, betas=B, weight_decay=0.01, amsgrad=True, eps=1e-5),
    ),
    "lion": (Lion, dict(lr=0.003, betas=B, weight_decay=0.1)),
}


def numbers(step, dtype):
    return torch.tensor([number(step, i) for i in range(N_ELEMS)], dtype=torch.float64).to(dtype)


def run(optimizer, options, dtype):
    """The parameters after each reported step."""
    param = torch.nn.Parameter(numbers(0, dtype))
    made = optimizer([param], foreach=False, **options)
    after = {}
    for step in range(1, max(REPORTED) + 1):
        param.grad = numbers(step, dtype)
        made.step()
        if step in REPORTED:
            after[step] = param.detach().double().tolist()
    return after


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "optimizers_100.txt")
    with open(path, "w", encoding="ascii") as file:
        file.write(HEADER.format(n=N_ELEMS, version=torch.__version__))
        for name, (optimizer, options) in CASES.items():
            wide = run(optimizer, options, torch.float64)
            single = run(optimizer, options, torch.float32)
            for step in REPORTED:
                for i in range(N_ELEMS):
                    file.write(f"{name} {step} {i} {wide[step][i].hex()} {single[step][i].hex()}\n")


if __name__ == "__main__":
    main()
