"""Writes kernels/tests/data/nf4.json: what bitsandbytes makes of small reproducible weights.

    python tests/peers/quant_golden.py        # needs torch, numpy and bitsandbytes; no GPU

The weights are products of two streams of SplitMix64, which the Rust test draws again (`weights`), so that the file holds
results only. Floats are stored as their bits.

The codes of the doubly quantised scales are those of bitsandbytes' kernels for GPUs, the nearest level of the dynamic
map. Its library for CPUs looks the level up in a table of 2^16 places, which misses by one level where a value lies
almost exactly between two; this script checks that it differs nowhere else.
"""

import json
import pathlib

import bitsandbytes
import bitsandbytes.functional as functional
import numpy
import torch

MASK = (1 << 64) - 1
BLOCK, NESTED_BLOCK = 64, 256
BLOCKS = 300


def uniform(seed: int, count: int) -> numpy.ndarray:
    """Numbers in [-1, 1), multiples of 2^-23."""
    state = (seed * 0x9E3779B97F4A7C15 + 1) & MASK
    out = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        out.append(((z ^ (z >> 31)) >> 40) / (1 << 23) - 1.0)
    return numpy.array(out, dtype=numpy.float32)


def weights() -> torch.Tensor:
    """300 blocks of 64; block 3 is zero, block 5 holds every midpoint of the NF4 levels and 1, block 7 is tiny."""
    count = BLOCKS * BLOCK
    w = torch.from_numpy(uniform(1, count) * uniform(2, count) * numpy.float32(0.05))
    levels = functional.get_4bit_type("nf4", device="cpu")
    w[3 * BLOCK : 4 * BLOCK] = 0.0
    w[5 * BLOCK : 5 * BLOCK + 15] = (levels[:-1] + levels[1:]) / 2
    w[5 * BLOCK + 15] = 1.0
    w[7 * BLOCK : 8 * BLOCK] *= 1e-30
    return w


def bits(x: torch.Tensor) -> list[int]:
    return [int(v) & 0xFFFFFFFF for v in x.detach().float().contiguous().view(torch.int32).flatten()]


def text(x: torch.Tensor) -> str:
    return bytes(x.to(torch.uint8).flatten().tolist()).hex()


def main() -> None:
    w = weights()
    codes, state = functional.quantize_4bit(w, blocksize=BLOCK, quant_type="nf4")
    values = functional.dequantize_4bit(codes, state).flatten()
    # The last, shorter block, and an odd number of weights.
    tail = w[: 2 * BLOCK + 37]
    tail_codes, tail_state = functional.quantize_4bit(tail, blocksize=BLOCK, quant_type="nf4")
    fp4 = w[: 64 * BLOCK]
    fp4_codes, fp4_state = functional.quantize_4bit(fp4, blocksize=BLOCK, quant_type="fp4")
    fp4_values = functional.dequantize_4bit(fp4_codes, fp4_state).flatten()

    absmax = state.absmax
    offset = absmax.mean()
    level = functional.create_dynamic_map()
    bounds = (level[:-1] + level[1:]) / 2
    centred = absmax - offset
    nested_absmax = torch.stack([part.abs().max() for part in centred.split(NESTED_BLOCK)])
    block = torch.arange(BLOCKS) // NESTED_BLOCK
    scaled = (centred * (1.0 / nested_absmax)[block]).clamp(-1, 1)
    nested = torch.bucketize(scaled, bounds)
    library, library_state = functional.quantize_blockwise(centred, blocksize=NESTED_BLOCK)
    assert torch.equal(library_state.absmax, nested_absmax)
    other = (library.long() != nested).nonzero().flatten()
    for i in other.tolist():
        gap = (scaled[i] - bounds).abs().min().item()
        assert gap < 1 / 65535 and abs(int(library[i]) - int(nested[i])) == 1, (i, gap)
    library_state.absmax, library_state.offset, library_state.nested = nested_absmax, offset, False
    scales = functional.dequantize_blockwise(nested.to(torch.uint8), library_state) + offset

    matrix = w[: 8 * 96].reshape(8, 96).clone()
    rows, row_absmax, _ = functional.int8_vectorwise_quant(matrix)
    # In f16, the only type for which bitsandbytes means it, the numbers are others; the rule is the same.
    row_values = functional.int8_vectorwise_dequant(rows, row_absmax)

    golden = {
        "made_by": f"tests/peers/quant_golden.py, bitsandbytes {bitsandbytes.__version__}, torch {torch.__version__}",
        "nf4_levels": bits(functional.get_4bit_type("nf4", device="cpu")),
        "fp4_levels": bits(functional.get_4bit_type("fp4", device="cpu")),
        "codes": text(codes),
        "absmax": bits(absmax),
        "first_values": bits(values[:128]),
        "tail_codes": text(tail_codes),
        "tail_absmax": bits(tail_state.absmax),
        "fp4_codes": text(fp4_codes),
        "fp4_first_values": bits(fp4_values[:128]),
        "dynamic_map": bits(level),
        "offset": bits(offset.reshape(1)),
        "nested_codes": text(nested),
        "nested_absmax": bits(nested_absmax),
        "scales": bits(scales),
        "int8_codes": text(rows.view(torch.uint8)),
        "int8_absmax": bits(row_absmax),
        "int8_first_values": bits(row_values.flatten()[:96]),
    }
    path = pathlib.Path(__file__).parents[2] / "kernels" / "tests" / "data" / "nf4.json"
    path.parent.mkdir(exist_ok=True)
    fields = [f"{json.dumps(name)}: {json.dumps(value, separators=(',', ':'))}" for name, value in golden.items()]
    path.write_text("{\n" + ",\n".join(fields) + "\n}\n")
    print(f"{path}: {path.stat().st_size} bytes")
    print(f"the CPU library chose another neighbour for {len(other)} of {BLOCKS} scales")


if __name__ == "__main__":
    main()
