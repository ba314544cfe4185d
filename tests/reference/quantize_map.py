#!/usr/bin/env python3
"""The 256 values of the two dynamic maps for 8-bit states, from their definition: writes
quantize_map.txt.

Source: bitsandbytes.functional.create_dynamic_map(signed, max_exponent_bits=7, total_bits=8), in
exact arithmetic instead of FP32: for exponent i = 0..6 the interval [0.1, 1] is cut into 2^i equal
parts (signed) or 2^(i+1) (unsigned); the values are the parts' middles times 10^(i-6), with both
signs in the signed map; then 0 and 1; sorted."""

import os
from fractions import Fraction


def dynamic_map(signed):
    values = [Fraction(0), Fraction(1)]
    for i in range(7):
        parts = 2 ** i if signed else 2 ** (i + 1)
        width = Fraction(9, 10) / parts
        for part in range(parts):
            value = (Fraction(1, 10) + (part + Fraction(1, 2)) * width) / 10 ** (6 - i)
            values += [value, -value] if signed else [value]
    assert len(set(values)) == 256
    return sorted(values)


def main():
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "quantize_map.txt")
    with open(path, "w") as file:
        file.write("# index, signed, unsigned; by quantize_map.py\n")
        for i, (s, u) in enumerate(zip(dynamic_map(True), dynamic_map(False))):
            file.write(f"{i} {float(s).hex()} {float(u).hex()}\n")


if __name__ == "__main__":
    main()
