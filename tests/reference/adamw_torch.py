"""200 AdamW steps by torch.optim.AdamW in float64 and float32, on inputs that C can make too.

Writes adamw_200.txt beside this file, or to the path given. The generator and a float64 AdamW in C
are in adamw_f64.h. Made with PyTorch 1.13 (Debian's python3-torch): /usr/bin/python3 adamw_torch.py
"""

import os
import sys

import torch

N_ELEMS = 64
REPORTED = (1, 2, 10, 50, 200)
LR, BETAS, EPS, WEIGHT_DECAY = 3e-3, (0.9, 0.99), 1e-8, 0.1

HEADER = """\
# AdamW, 200 steps on {n} elements: torch.optim.AdamW(foreach=False), PyTorch {version}
# lr {lr} betas {b1} {b2} eps {eps} weight_decay {wd}, constant lr, made by adamw_torch.py
# r(step, i) = splitmix64 output for state step * 2^32 + i; it gives the number
#   (r & 1 ? -1 : 1) * (1024 + (r >> 32 & 1023)) * 2^(exponent - 10), exponent = (r >> 1 & 0xffff) % 17 - 12
# so every number is exactly an FP16 number. Step 0 gives the parameters, steps 1..200 the gradients.
# Lines: step index parameter-in-float64-arithmetic parameter-in-float32-arithmetic (hexadecimal floats)
"""

MASK = (1 << 64) - 1


def splitmix64(state):
    """Source: Steele, Lea, Flood, Fast Splittable Pseudorandom Number Generators (2014)."""
    x = (state + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & MASK
    return x ^ x >> 31


def number(step, i):
    r = splitmix64((step << 32) + i)
    exponent = (r >> 1 & 0xFFFF) % 17 - 12
    return (-1.0 if r & 1 else 1.0) * (1024 + (r >> 32 & 1023)) * 2.0 ** (exponent - 10)


def numbers(step, dtype):
    values = torch.tensor([number(step, i) for i in range(N_ELEMS)], dtype=torch.float64)
    assert torch.equal(values, values.half().double())
    return values.to(dtype)


def run(dtype):
    """The parameters after each reported step."""
    param = torch.nn.Parameter(numbers(0, dtype))
    optimizer = torch.optim.AdamW(
        [param], lr=LR, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY, foreach=False
    )
    after = {}
    for step in range(1, max(REPORTED) + 1):
        param.grad = numbers(step, dtype)
        optimizer.step()
        if step in REPORTED:
            after[step] = param.detach().double().tolist()
    return after


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "adamw_200.txt")
    wide, single = run(torch.float64), run(torch.float32)
    with open(path, "w", encoding="ascii") as file:
        file.write(
            HEADER.format(
                n=N_ELEMS,
                version=torch.__version__,
                lr=LR,
                b1=BETAS[0],
                b2=BETAS[1],
                eps=EPS,
                wd=WEIGHT_DECAY,
            )
        )
        for step in REPORTED:
            for i in range(N_ELEMS):
                file.write(f"{step} {i} {wide[step][i].hex()} {single[step][i].hex()}\n")


if __name__ == "__main__":
    main()
