"""How fast the encoders with feedback are here, what the whole model would take, and how near the CPU's bytes are.

    python tests/quant/encoder_rate.py [--experts 16] [--small]

Matrices of the released shapes, random; one Hessian for all experts of gate and up, one each for down, as in a
conversion. `--small` takes a piece of them, for a CPU. A script and no pytest module: it measures. Under a minute.
"""

from __future__ import annotations

import argparse
import os
import time

import mlx.core as mx
import numpy as np

from ds4_mlx.quant import get_format
from ds4_mlx.quant.encoders.feedback import encode_with_feedback
from ds4_mlx.quant.encoders.hessian import feedback_factor

GATE_UP, DOWN = 185e9, 92e9  # weights of the whole model
SHAPES = {"iq2_xxs": (2048, 4096), "q2_k": (4096, 2048)}


def inputs(width: int, seed: int) -> np.ndarray:
    """A Hessian with outliers and correlations, float32."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((width // 2, width), np.float32) * np.exp(rng.standard_normal(width, np.float32) / 2)
    return x.T @ x / len(x) + np.diag(np.exp(rng.standard_normal(width, np.float32)))


def weights_of(shape: tuple[int, ...]) -> mx.array:
    """What MXFP4 makes of Student's t, float32."""
    fmt = get_format("mxfp4")
    raw = mx.array(np.random.default_rng(0).standard_t(6, shape).astype(np.float32) * 0.02)
    return fmt.decode(*mx.quantize(raw, group_size=32, bits=4, mode="mxfp4")[:2])


def measure(name: str, experts: int, rows: int, width: int) -> tuple[float, float]:
    """Weights per second of the encoder, seconds of one factor."""
    start = time.perf_counter()
    factor = feedback_factor(inputs(width, 1))
    one = time.perf_counter() - start
    start = time.perf_counter()
    factor = feedback_factor(inputs(width, 1))
    one = time.perf_counter() - start
    factors = mx.array(factor)[None]
    if name == "q2_k":
        factors = mx.repeat(factors, experts, axis=0)
    weights = weights_of((experts, rows, width))
    mx.eval(weights, factors)
    encode_with_feedback(name, weights[:1, :64], factors[:1])  # compiles what there is to compile
    start = time.perf_counter()
    arrays = encode_with_feedback(name, weights, factors)
    mx.eval(arrays)
    return weights.size / (time.perf_counter() - start), one


def agreement(name: str) -> tuple[float, float]:
    """The share of rows that CPU and GPU encode to the same bytes, and the quotient of their losses."""
    width, found = 512, []
    hessian = inputs(width, 2)
    weights = weights_of((1, 256, width))
    factor = mx.array(feedback_factor(hessian))[None]
    for device in (mx.Device(mx.cpu), mx.default_device()):
        with mx.stream(device):
            before = mx.default_device()
            mx.set_default_device(device)
            found.append(encode_with_feedback(name, weights, factor))
            mx.set_default_device(before)
    same = np.all(
        [np.array(a == b).reshape(256, -1).all(axis=1) for a, b in zip(*(f.values() for f in found), strict=True)],
        axis=0,
    )
    losses = []
    for arrays in found:
        error = np.array(get_format(name).decode(*arrays.values()) - weights)[0].astype(np.float64)
        losses.append(np.einsum("oi,oi->", error @ hessian, error))
    return float(same.mean()), float(losses[1] / losses[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--experts", type=int, default=16, help="experts at once")
    parser.add_argument("--small", action="store_true", help="256 rows of 1,024 columns, one expert")
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    print(f"{mx.device_info().get('device_name', mx.default_device())}, {cores} CPU cores, MLX {mx.__version__}")
    print("| format | weights/s | a factor, s | same rows as the CPU | loss / the CPU's | whole model |")
    print("|---|---|---|---|---|---|")
    total = 0.0
    for name, (rows, width) in SHAPES.items():
        experts = 1 if options.small else options.experts
        rate, factor = measure(name, experts, *((256, 1024) if options.small else (rows, width)))
        same, quotient = agreement(name)
        minutes = (GATE_UP if name == "iq2_xxs" else DOWN) / rate / 60
        # Factors are made beside the encoding, each with all cores: 43 for gate and up, 43 * 256 for down.
        making = factor * (43 if name == "iq2_xxs" else 43 * 256) / 60
        total += max(minutes, making)
        print(
            f"| {name} | {rate / 1e6:.2f} M | {factor:.2f} | {same:.1%} | {quotient:.4f} | {minutes:.0f} min, its "
            f"factors {making:.0f} min |",
            flush=True,
        )
    print(
        f"Whole model, the longer of the two for each format: {total / 60:.1f} h. "
        f"Peak {mx.get_peak_memory() / 1e9:.1f} GB."
    )


if __name__ == "__main__":
    main()
