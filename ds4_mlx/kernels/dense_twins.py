"""What the kernels of dense matrices compute, in plain operations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import mlx.core as mx

from ds4_mlx.kernels.expert_twins import swiglu
from ds4_mlx.quant.formats import FORMATS

# Storages that are no format, by their names in safetensors.
FLOATS = {"BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32}


class Job(NamedTuple):
    """What is made of one matrix: its products, `rounded` to the dtype of x or left in `float32`.

    `swiglu` takes two matrices of the same size and storage, gate and up, and gives silu(gate) * up with the clamp of
    the model, all products rounded.
    """

    storage: str
    result: Literal["rounded", "float32", "swiglu"] = "rounded"

    @property
    def matrices(self) -> int:
        """How many it takes."""
        return 2 if self.result == "swiglu" else 1


def parts_of(storage: str) -> int:
    """How many arrays a matrix in that storage has."""
    return len(FORMATS[storage].parts) if storage in FORMATS else 1


def decoded(storage: str, arrays: Sequence[mx.array]) -> mx.array:
    """The matrix in float32, exactly."""
    return FORMATS[storage].decode(*arrays) if storage in FORMATS else arrays[0].astype(mx.float32)


def rms_norm(x: mx.array, weight: mx.array | None, eps: mx.array | float) -> mx.array:
    """x / rms(x) over the last axis times a weight, in float32, back to the dtype of x (spec 2)."""
    z = x.astype(mx.float32)
    z = z * mx.rsqrt(mx.mean(z * z, axis=-1, keepdims=True) + eps)
    return (z if weight is None else z * weight.astype(mx.float32)).astype(x.dtype)


def dense_twin(jobs: Sequence[Job], groups: int, normed: bool, *inputs: mx.array) -> list[mx.array]:
    """x [T, groups * in] after its norm, each group of it times its share of the rows of every matrix: [T, out]."""
    rest = iter(inputs)
    x = next(rest)
    if normed:
        x = rms_norm(x, next(rest), next(rest))
    limit = next(rest) if any(job.result == "swiglu" for job in jobs) else None
    return [_made(job, mx.unflatten(x, -1, (groups, -1)).swapaxes(0, 1), rest, limit) for job in jobs]


def _made(job: Job, x: mx.array, arrays: Iterator[mx.array], limit: mx.array | None) -> mx.array:
    products = []
    for _ in range(job.matrices):
        matrix = decoded(job.storage, [next(arrays) for _ in range(parts_of(job.storage))])
        matrix = mx.unflatten(matrix, 0, (x.shape[0], -1))
        product = (x.astype(mx.float32) @ matrix.swapaxes(-1, -2)).swapaxes(0, 1).flatten(1)
        products.append(product if job.result == "float32" else product.astype(x.dtype))
    if limit is None or job.result != "swiglu":
        return products[0]
    gate, up = products
    return swiglu(gate, up, limit).astype(x.dtype)
