"""The FP8 and FP4 round trips the model was trained with (spec 7), in plain mx ops.

Each function returns the rounded values in the dtype of its input; what a packed cache would store is lossless against
them. All share one scale rule: the smallest power of two s with amax <= qmax * s.
"""

from __future__ import annotations

import mlx.core as mx

E4M3_MAX = 448.0
E2M1_MAX = 6.0
_FP8_AMAX_FLOOR = 1e-4
_FP4_AMAX_FLOOR = E2M1_MAX * 2.0**-126

KV_BLOCK = 64
ACTIVATION_BLOCK = 128
INDEX_BLOCK = 32


def power_of_two_scale(amax: mx.array, qmax: float) -> mx.array:
    """2^ceil(log2(amax / qmax)) as float32, read off the bit pattern of the quotient as the reference does.

    `amax` is float32 and floored so that the result is a normal number.
    """
    bits = (amax * (1.0 / qmax)).view(mx.uint32)
    has_fraction = (bits & 0x7FFFFF) != 0
    exponent = (bits >> 23) + has_fraction.astype(mx.uint32)
    return (exponent << 23).view(mx.float32)


def round_e2m1(x: mx.array) -> mx.array:
    """Rounds float32 values in [-6, 6] to the e2m1 grid {0, .5, 1, 1.5, 2, 3, 4, 6}, ties to the even code."""
    a = mx.abs(x)
    # Each threshold lies between two neighbouring codes; a tie goes up only where the upper code is even.
    magnitude = (
        0.5 * (a > 0.25)
        + 0.5 * (a >= 0.75)
        + 0.5 * (a > 1.25)
        + 0.5 * (a >= 1.75)
        + 1.0 * (a > 2.5)
        + 1.0 * (a >= 3.5)
        + 2.0 * (a > 5.0)
    )
    return mx.where(x < 0, -magnitude, magnitude)


def _blocks(x: mx.array, block: int) -> mx.array:
    """[..., n] -> float32 [..., n / block, block]."""
    return mx.unflatten(x.astype(mx.float32), -1, (-1, block))


def fp8_codes(x: mx.array, block: int) -> tuple[mx.array, mx.array]:
    """The e4m3 codes (uint8 [..., n]) and float32 scales ([..., n / block]) of x [..., n]."""
    blocks = _blocks(x, block)
    amax = mx.maximum(mx.max(mx.abs(blocks), axis=-1, keepdims=True), _FP8_AMAX_FLOOR)
    scale = power_of_two_scale(amax, E4M3_MAX)
    codes = mx.to_fp8(blocks / scale)
    return codes.flatten(-2), scale.squeeze(-1)


def simulate_fp8(x: mx.array, block: int) -> mx.array:
    """Round trip through e4m3 with one power-of-two scale per `block` values of the last axis (spec 7.1, 7.3)."""
    codes, scale = fp8_codes(x, block)
    values = mx.from_fp8(mx.unflatten(codes, -1, (-1, block)), dtype=mx.float32) * scale[..., None]
    return values.flatten(-2).astype(x.dtype)


def simulate_kv(row: mx.array, nope_dim: int) -> mx.array:
    """Rounds the first `nope_dim` channels of K=V rows [..., d] as the cache stores them; RoPE channels stay (spec
    7.1).
    """
    return mx.concatenate([simulate_fp8(row[..., :nope_dim], KV_BLOCK), row[..., nope_dim:]], axis=-1)


def simulate_activation(x: mx.array) -> mx.array:
    """Rounds the input of an FP8/FP4 linear the way the reference's GEMMs quantise it (spec 7.3).

    A width that is no multiple of the block (never so in the released sizes) uses one shorter last block.
    """
    width = x.shape[-1]
    whole = width - width % ACTIVATION_BLOCK
    if whole == width:
        return simulate_fp8(x, ACTIVATION_BLOCK)
    tail = simulate_fp8(x[..., whole:], width - whole)
    return mx.concatenate([simulate_fp8(x[..., :whole], ACTIVATION_BLOCK), tail], axis=-1) if whole else tail


def rotate_index(x: mx.array) -> mx.array:
    """Hadamard rotation of indexer queries or keys [..., d] (spec 5.1)."""
    return mx.hadamard_transform(x.astype(mx.float32), scale=x.shape[-1] ** -0.5).astype(x.dtype)


def rotate_and_simulate_index(x: mx.array) -> mx.array:
    """Hadamard rotation, then the FP4 round trip, of indexer queries or keys [..., d] (spec 5.1, 7.2)."""
    return simulate_index(rotate_index(x))


def simulate_index(x: mx.array) -> mx.array:
    """The FP4 round trip of what was rotated."""
    blocks = _blocks(x, INDEX_BLOCK)
    amax = mx.maximum(mx.max(mx.abs(blocks), axis=-1, keepdims=True), _FP4_AMAX_FLOOR)
    scale = power_of_two_scale(amax, E2M1_MAX)
    return (round_e2m1(blocks / scale) * scale).flatten(-2).astype(x.dtype)
