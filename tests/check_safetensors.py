"""check_safetensors.py DUMP WHOLE PARTS EXPORTS: every value that ckpt_job has dumped is in the files of the
checkpoint WHOLE, in the parts of PARTS, found through their indexes, and, rounded, in the exports, as
the safetensors package and PyTorch read them; and nothing else is in them."""
import json
import os
import sys

import safetensors
import safetensors.torch
import torch


def read_dump(path):
    values = {}
    for line in open(path):
        name, *numbers = line.split()
        values[name] = torch.tensor([float.fromhex(n) for n in numbers], dtype=torch.float64).float()
    return values


def by_pytorch(folder, stem):
    return safetensors.torch.load_file(os.path.join(folder, stem + ".safetensors"))


def by_safe_open(folder, stem):
    with safetensors.safe_open(os.path.join(folder, stem + ".safetensors"), framework="pt") as file:
        metadata = file.metadata()
        assert metadata["format"] == "pt" and metadata["zopt.step"] == "4", metadata
        return {name: file.get_tensor(name) for name in file.keys()}


def by_index(folder, stem):
    """As loaders of sharded models do: each name from the file that the index gives."""
    index = json.load(open(os.path.join(folder, stem + ".safetensors.index.json")))
    tensors, total = {}, 0
    for name, file in index["weight_map"].items():
        with safetensors.safe_open(os.path.join(folder, file), framework="pt") as part:
            tensors[name] = part.get_tensor(name)
            total += tensors[name].numel() * tensors[name].element_size()
    assert total == index["metadata"]["total_size"], (total, index["metadata"])
    assert len(set(index["weight_map"].values())) > 1, "one part is no test of parts"
    return tensors


def compare(what, tensors, want):
    """Equal bits: integers, so that a NaN or a zero's sign counts too."""
    assert tensors.keys() == want.keys(), (what, tensors.keys() ^ want.keys())
    for name, tensor in tensors.items():
        bits = {2: torch.int16, 4: torch.int32}[tensor.element_size()]
        assert tensor.dtype == want[name].dtype, (what, name, tensor.dtype)
        assert torch.equal(tensor.flatten().view(bits), want[name].view(bits)), (what, name)
    print("%s: %d tensors, %d values, shapes up to %s" % (
        what, len(tensors), sum(t.numel() for t in tensors.values()),
        tuple(max((t.shape for t in tensors.values()), key=len))))


def main():
    dump, whole, parts, exports = sys.argv[1:]
    values = read_dump(dump)
    masters = {n: v for n, v in values.items() if not n.startswith("exp_avg")}
    states = {n: v for n, v in values.items() if n not in masters}
    print("safetensors %s, torch %s" % (safetensors.__version__, torch.__version__))
    assert masters and len(states) == 2 * len(masters)
    for stem, want in (("model", masters), ("optimizer", states)):
        compare(stem + ", PyTorch", by_pytorch(whole, stem), want)
        compare(stem + ", safe_open", by_safe_open(whole, stem), want)
        compare(stem + ", parts", by_index(parts, stem), want)
    for name, dtype in (("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)):
        want = {n: v.to(dtype) for n, v in masters.items()}
        compare("export " + name, by_pytorch(exports, name), want)


main()
