"""The errors of our encoders of IQ2_XXS and Q2_K beside those of ds4's quantiser, on made-up and on trained weights.

    python tests/oracles/encoder_error.py                        # ours alone
    python tests/oracles/encoder_error.py --ds4 ds4/gguf-tools   # the folder with ds4's quants.c, compiled here with cc

A script and no pytest module, because it needs ds4's source (README.md beside this file). Ends with status 1 if an
error of ours is more than 3 % above ds4's.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ds4_mlx.checkpoint import open_checkpoint
from ds4_mlx.engine.hub import DEFAULT_MODEL
from ds4_mlx.quant import get_format
from ds4_mlx.quant.encoders import encode

GGML_TYPES = {"iq2_xxs": 16, "q2_k": 10}
EXPERTS = {"iq2_xxs": ("w1", "w3"), "q2_k": ("w2",)}  # which of ds4-tiny's matrices, as in ds4's 2-bit files
SHAPE = (256, 4096)
WORSE = 1.03

# weights [E, out, in], importance [in] or None -> what the weights become
Quantise = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


class Errors(NamedTuple):
    """Sums of squares beside those of the weights, and millions of weights per second."""

    plain: float
    weighted: float
    speed: float


def ours(name: str) -> Quantise:
    def quantise(weights: np.ndarray, importance: np.ndarray | None) -> np.ndarray:
        arrays = encode(name, mx.array(weights), None if importance is None else mx.array(importance))
        return np.array(get_format(name).decode(*arrays.values()))

    return quantise


def ds4(name: str, library: ctypes.CDLL) -> Quantise:
    """ds4's quantiser, one matrix at a time as deepseek4-quantize.c calls it."""
    fmt, floats = get_format(name), ctypes.POINTER(ctypes.c_float)

    def one(weights: np.ndarray, importance: np.ndarray | None) -> np.ndarray:
        rows, width = weights.shape
        if importance is None and name == "iq2_xxs":
            importance = np.square(weights).sum(axis=0)
        blocks = np.zeros((rows, width // fmt.block * fmt.gguf_block.itemsize), np.uint8)
        library.ds4q_quantize_chunk(
            ctypes.c_int(GGML_TYPES[name]),
            weights.ctypes.data_as(floats),
            blocks.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int64(0),
            ctypes.c_int64(rows),
            ctypes.c_int64(width),
            None if importance is None else importance.ctypes.data_as(floats),
        )
        return blocks

    def quantise(weights: np.ndarray, importance: np.ndarray | None) -> np.ndarray:
        blocks = np.stack([one(np.ascontiguousarray(matrix), importance) for matrix in weights])
        return np.array(fmt.decode(*map(mx.array, fmt.from_gguf(blocks).values())))

    return quantise


def compiled(folder: Path) -> ctypes.CDLL:
    """quants.c of that folder as a library, with the flags of ds4's Makefile."""
    out = Path(tempfile.mkdtemp()) / "quants.so"
    flags = ["-O3", "-std=c11", "-march=native", "-D_GNU_SOURCE", "-shared", "-fPIC"]
    subprocess.run(["cc", *flags, str(folder / "quants.c"), "-o", str(out), "-lm", "-lpthread"], check=True)
    return ctypes.CDLL(str(out))


def samples(name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Weights to measure on, float32 [E, out, in]."""
    rng = np.random.default_rng(0)
    yield "normal", rng.standard_normal((1, *SHAPE), np.float32)
    yield "Student t, 6", rng.standard_t(6, (1, *SHAPE)).astype(np.float32)
    yield "Student t, 4", rng.standard_t(4, (1, *SHAPE)).astype(np.float32)
    yield f"ds4-tiny {' '.join(EXPERTS[name])}", tiny_experts(EXPERTS[name])


def tiny_experts(names: tuple[str, ...]) -> np.ndarray:
    """The experts' matrices of these names of all layers of ds4-tiny, [E, 256, 256]."""
    arrays = dict(open_checkpoint(DEFAULT_MODEL).load())
    fmt = get_format("mxfp4")
    suffixes = tuple(f".experts.{name}.weight" for name in names)
    found = [key.removesuffix("weight") for key in arrays if key.endswith(suffixes)]
    matrices = [fmt.decode(*(arrays[key + part.name] for part in fmt.parts)) for key in found]
    return np.concatenate([np.array(m) for m in matrices])


def measure(quantise: Quantise, weights: np.ndarray, importance: np.ndarray | None, costs: np.ndarray) -> Errors:
    """costs [in]: what the weighted error is measured with."""
    quantise(weights[:1, :64], importance)  # tables are made at first use
    start = time.perf_counter()
    result = quantise(weights, importance)
    seconds = time.perf_counter() - start
    errors, squares = np.square(result - weights, dtype=np.float64), np.square(weights, dtype=np.float64)
    plain, weighted = errors.sum() / squares.sum(), (costs * errors).sum() / (costs * squares).sum()
    return Errors(plain, weighted, weights.size / seconds / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ds4", type=Path, metavar="FOLDER", help="gguf-tools of antirez/ds4")
    options = parser.parse_args()
    library = compiled(options.ds4) if options.ds4 else None
    worst = 0.0
    print("| format | weights | importance | plain: ours | ds4 | weighted: ours | ds4 | Mw/s: ours | ds4 |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in GGML_TYPES:
        for label, weights in samples(name):
            costs = np.exp(np.random.default_rng(1).standard_normal(weights.shape[-1])).astype(np.float32)
            for kind, importance in {"none": None, "ones": np.ones_like(costs), "lognormal": costs}.items():
                mine = measure(ours(name), weights, importance, costs)
                theirs = measure(ds4(name, library), weights, importance, costs) if library else None
                if theirs:
                    # The weighted error counts where the encoder was told of it.
                    worst = max(worst, mine.plain / theirs.plain)
                    worst = max(worst, mine.weighted / theirs.weighted if kind == "lognormal" else 0)
                cells = [
                    f"{getattr(e, field):.{digits}f}" if e else ""
                    for field, digits in (("plain", 4), ("weighted", 4), ("speed", 1))
                    for e in (mine, theirs)
                ]
                print("|", " | ".join([name, label, kind, *cells]), "|", flush=True)
    if library:
        print(f"\nWorst quotient of ours and ds4's: {worst:.3f}.")
    sys.exit(int(worst > WORSE))


if __name__ == "__main__":
    main()
