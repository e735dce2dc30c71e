"""Rounding that the model is trained with: what the cache keeps and what the released checkpoint stores (spec 7, 12).

Each `fake_*` function returns the rounded values in the dtype of its input and passes the gradient straight through, so
that training sees the numbers the released model computes with; `round_*` return the values alone. The codes behind
them come from `fp8_codes` and `fp4_codes`; the exporter writes those very codes.
"""

from __future__ import annotations

import torch
from torch import Tensor

E4M3_MAX = 448.0
E2M1_MAX = 6.0
_FP8_FLOOR = 1e-4
_FP4_FLOOR = E2M1_MAX * 2.0**-126

KV_BLOCK = 64  # K=V rows: one scale per 64 channels
FP4_BLOCK = 32  # experts and index rows: one scale per 32
WEIGHT_BLOCK = 128  # FP8 weights: one scale per square of 128 x 128


def power_of_two_scale(amax: Tensor, qmax: float) -> Tensor:
    """The smallest power of two s with amax <= qmax * s; amax float32, floored by the caller."""
    bits = (amax * (1.0 / qmax)).view(torch.int32)
    exponent = (bits >> 23) + ((bits & 0x7FFFFF) != 0).to(torch.int32)
    return (exponent << 23).view(torch.float32)


def round_e2m1(x: Tensor) -> Tensor:
    """float32 values in [-6, 6] -> the grid {0, .5, 1, 1.5, 2, 3, 4, 6} with sign; ties go to the even code."""
    a = x.abs()
    magnitude = (
        0.5 * (a > 0.25).float()
        + 0.5 * (a >= 0.75).float()
        + 0.5 * (a > 1.25).float()
        + 0.5 * (a >= 1.75).float()
        + 1.0 * (a > 2.5).float()
        + 1.0 * (a >= 3.5).float()
        + 2.0 * (a > 5.0).float()
    )
    return torch.where(x < 0, -magnitude, magnitude)


def fp8_codes(x: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """x [..., n] -> e4m3 values [..., n / block, block] (dtype float8) and float32 scales [..., n / block, 1]."""
    blocks = x.float().unflatten(-1, (-1, block))
    amax = blocks.abs().amax(-1, keepdim=True).clamp_min(_FP8_FLOOR)
    scale = power_of_two_scale(amax, E4M3_MAX)
    return (blocks / scale).to(torch.float8_e4m3fn), scale


def fp4_codes(x: Tensor, block: int = FP4_BLOCK) -> tuple[Tensor, Tensor]:
    """x [..., n] -> e2m1 values as float32 [..., n / block, block] and float32 scales [..., n / block, 1]."""
    blocks = x.float().unflatten(-1, (-1, block))
    amax = blocks.abs().amax(-1, keepdim=True).clamp_min(_FP4_FLOOR)
    scale = power_of_two_scale(amax, E2M1_MAX)
    return round_e2m1(blocks / scale), scale


def fp8_weight_codes(w: Tensor) -> tuple[Tensor, Tensor]:
    """w [..., out, in] -> e4m3 values [..., out, in] and float32 scales [..., out / 128, in / 128], one per square.

    A matrix smaller than a square (64 rows, say) has one scale for what there is of it.
    """
    rows, columns = min(WEIGHT_BLOCK, w.shape[-2]), min(WEIGHT_BLOCK, w.shape[-1])
    squares = w.float().unflatten(-1, (-1, columns)).unflatten(-3, (-1, rows))  # [..., R, rows, C, columns]
    amax = squares.abs().amax((-3, -1), keepdim=True).clamp_min(_FP8_FLOOR)
    scale = power_of_two_scale(amax, E4M3_MAX)
    codes = (squares / scale).to(torch.float8_e4m3fn)
    return codes.flatten(-4, -3).flatten(-2), scale.squeeze((-3, -1))


def _straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    return x + (rounded.to(x.dtype) - x).detach()


def fake_kv(row: Tensor, nope: int) -> Tensor:
    """K=V rows [..., d] as the cache stores them: FP8 on the first `nope` channels (spec 7.1)."""
    values, scale = fp8_codes(row[..., :nope], KV_BLOCK)
    rounded = (values.float() * scale).flatten(-2).to(row.dtype)
    return _straight_through(row, torch.cat([rounded, row[..., nope:].detach()], -1))


def round_fp4(x: Tensor) -> Tensor:
    """float32 values after FP4 with one scale per 32 of the last axis: index rows (spec 7.2), expert weights (12)."""
    values, scale = fp4_codes(x)
    return (values * scale).flatten(-2)


def round_fp8_weight(w: Tensor) -> Tensor:
    """float32 values of a dense weight [..., out, in] after FP8 with one scale per 128 x 128 (spec 12)."""
    values, scale = fp8_weight_codes(w)
    rows, columns = w.shape[-2] // scale.shape[-2], w.shape[-1] // scale.shape[-1]
    spread = scale.repeat_interleave(rows, -2).repeat_interleave(columns, -1)
    return values.float() * spread


def hadamard(size: int) -> Tensor:
    """The +-1 matrix [size, size] in natural order (Sylvester), float32."""
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def fake_index(x: Tensor, matrix: Tensor) -> Tensor:
    """Hadamard rotation, then the FP4 round trip, of indexer queries or keys [..., d] (spec 5.1)."""
    rotated = ((x.float() @ matrix) * x.shape[-1] ** -0.5).to(x.dtype)
    return _straight_through(rotated, round_fp4(rotated))
