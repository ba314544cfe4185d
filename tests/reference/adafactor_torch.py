"""100 steps of Adafactor by torch.optim and by transformers, in float64 and float32.

Writes adafactor_100.txt beside this file, or to the path given. The numbers are those of
adamw_torch.py; for torch.optim's cases the gradients of an element are scaled by a power of two
from 2^-40 to 2^20. The cases are those of ../test_adafactor.c. torch.optim has Adafactor since 2.5;
made with that of PyTorch 2.5.1 and transformers 4.46.3: python3 adafactor_torch.py
"""

import os
import sys

import torch
from torch.optim import Adafactor as TorchAdafactor
from transformers import Adafactor as HuggingFaceAdafactor

from adamw_torch import number, splitmix64

SHAPES = ((32,), (3, 5), (2, 3, 5))
REPORTED = (1, 10, 100)

HEADER = """\
# 100 steps of torch.optim.Adafactor (foreach=False; PyTorch 2.5.1) and of transformers' (4.46.3)
# The numbers are those of adamw_200.txt; shapes, scales and options: adafactor_torch.py
# Lines: case tensor step index parameter-in-float64-arithmetic parameter-in-float32-arithmetic
"""

# Name: optimizer, options, whether gradients are scaled (transformers has no floor but eps[0]).
CASES = {
    "torch": (
        TorchAdafactor,
        dict(lr=0.02, weight_decay=0.1, eps=(2.0**-23, 1e-3), foreach=False),
        True,
    ),
    "torch_options": (
        TorchAdafactor,
        dict(lr=0.02, beta2_decay=-0.5, d=2.0, eps=(1e-3, 0.1), foreach=False),
        True,
    ),
    "hf_relative": (HuggingFaceAdafactor, dict(weight_decay=0.1, warmup_init=True), False),
    "hf_moment": (
        HuggingFaceAdafactor,
        dict(lr=0.003, beta1=0.9, weight_decay=0.01, scale_parameter=False, relative_step=False),
        False,
    ),
}


def tensor_of(tensor, value, dtype):
    count = torch.Size(SHAPES[tensor]).numel()
    values = torch.tensor([value(i) for i in range(count)], dtype=torch.float64)
    return values.reshape(SHAPES[tensor]).to(dtype)


def gradient(tensor, step, i, scaled):
    scale = 2.0 ** (splitmix64(tensor << 32 | i) % 61 - 38) if scaled else 1.0
    return scale * number(step, tensor * 5000 + i)


def run(case, tensor, dtype):
    """The parameters after each reported step."""
    optimizer, options, scaled = CASES[case]
    start = tensor_of(tensor, lambda i: number(0, i) * 4.0 ** (2 - tensor), dtype)
    param = torch.nn.Parameter(start)
    made = optimizer([param], **options)
    after = {}
    for step in range(1, max(REPORTED) + 1):
        param.grad = tensor_of(tensor, lambda i: gradient(tensor, step, i, scaled), dtype)
        made.step()
        if step in REPORTED:
            after[step] = param.detach().double().flatten().tolist()
    return after


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "adafactor_100.txt")
    with open(path, "w", encoding="ascii") as file:
        file.write(HEADER)
        for case in CASES:
            for tensor in range(len(SHAPES)):
                wide = run(case, tensor, torch.float64)
                single = run(case, tensor, torch.float32)
                for step in REPORTED:
                    for i, (x, y) in enumerate(zip(wide[step], single[step])):
                        file.write(f"{case} {tensor} {step} {i} {x.hex()} {y.hex()}\n")


if __name__ == "__main__":
    main()
