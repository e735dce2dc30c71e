"""Sinkhorn normalisation of the hyper-connections' 4 x 4 matrices (spec 2), forward and backward in one kernel each.

Twenty rounds on tiny matrices are 39 kernels each way if written as tensor operations, and a good part of a training
step. `sinkhorn_plain` is the definition and what runs without a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # a machine without a GPU has no use for it
    triton = None


def sinkhorn_plain(logits: Tensor, iterations: int, eps: float) -> Tensor:
    """[..., N, N] -> nearly doubly stochastic: softmax over rows plus eps, then columns, then rows and columns."""
    comb = logits.softmax(-1) + eps
    comb = comb / (comb.sum(-2, keepdim=True) + eps)
    for _ in range(iterations - 1):
        comb = comb / (comb.sum(-1, keepdim=True) + eps)
        comb = comb / (comb.sum(-2, keepdim=True) + eps)
    return comb


if triton is not None:

    @triton.jit
    def _load(pointer, rows, n):
        cells = tl.arange(0, 4)[None, :, None] * 4 + tl.arange(0, 4)[None, None, :]
        return tl.load(pointer + rows[:, None, None] * 16 + cells, mask=rows[:, None, None] < n, other=0.0)

    @triton.jit
    def _store(pointer, rows, n, value):
        cells = tl.arange(0, 4)[None, :, None] * 4 + tl.arange(0, 4)[None, None, :]
        tl.store(pointer + rows[:, None, None] * 16 + cells, value, mask=rows[:, None, None] < n)

    @triton.jit
    def _softmax(x):
        e = tl.exp(x - tl.max(x, 2)[:, :, None])
        return e / tl.sum(e, 2)[:, :, None]

    @triton.jit
    def _normalise(c, step, eps):
        """Step 0, 2, 4, ... divides by column sums, the others by row sums."""
        columns = tl.sum(c, 1)[:, None, :] + eps
        rows = tl.sum(c, 2)[:, :, None] + eps
        return c / tl.where(step % 2 == 0, columns, rows)

    @triton.jit
    def _forward_kernel(x, y, n, eps, STEPS: tl.constexpr, BLOCK: tl.constexpr):
        rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        c = _softmax(_load(x, rows, n)) + eps
        for step in range(STEPS):
            c = _normalise(c, step, eps)
        _store(y, rows, n, c)

    @triton.jit
    def _backward_kernel(x, dy, dx, scratch, n, eps, STEPS: tl.constexpr, BLOCK: tl.constexpr):
        """Goes forward once more, keeps each step's input in `scratch` [STEPS, n, 4, 4], then goes backward."""
        rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        soft = _softmax(_load(x, rows, n))
        c = soft + eps
        for step in range(STEPS):
            _store(scratch + step * n * 16, rows, n, c)
            c = _normalise(c, step, eps)
        tl.debug_barrier()  # another thread of the block may read what this one wrote
        grad = _load(dy, rows, n)
        for back in range(STEPS):
            step = STEPS - 1 - back
            c = _load(scratch + step * n * 16, rows, n)
            columns = tl.sum(c, 1)[:, None, :] + eps
            by_rows = tl.sum(c, 2)[:, :, None] + eps
            weighted = grad * c
            through_columns = tl.sum(weighted, 1)[:, None, :] / (columns * columns)
            through_rows = tl.sum(weighted, 2)[:, :, None] / (by_rows * by_rows)
            even = step % 2 == 0
            grad = grad / tl.where(even, columns, by_rows) - tl.where(even, through_columns, through_rows)
        grad = soft * (grad - tl.sum(grad * soft, 2)[:, :, None])
        _store(dx, rows, n, grad)


_BLOCK = 64


@torch.library.custom_op("train_tiny::sinkhorn", mutates_args=())
def _sinkhorn_gpu(logits: Tensor, iterations: int, eps: float) -> Tensor:
    logits = logits.contiguous()
    out = torch.empty_like(logits)
    n = logits.numel() // 16
    _forward_kernel[(triton.cdiv(n, _BLOCK),)](logits, out, n, eps, STEPS=2 * iterations - 1, BLOCK=_BLOCK)
    return out


@torch.library.custom_op("train_tiny::sinkhorn_backward", mutates_args=())
def _sinkhorn_gpu_backward(logits: Tensor, grad: Tensor, iterations: int, eps: float) -> Tensor:
    logits, grad = logits.contiguous(), grad.contiguous()
    out = torch.empty_like(logits)
    n, steps = logits.numel() // 16, 2 * iterations - 1
    scratch = logits.new_empty(steps, n, 16)
    _backward_kernel[(triton.cdiv(n, _BLOCK),)](logits, grad, out, scratch, n, eps, STEPS=steps, BLOCK=_BLOCK)
    return out


@_sinkhorn_gpu.register_fake
def _(logits: Tensor, iterations: int, eps: float) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


@_sinkhorn_gpu_backward.register_fake
def _(logits: Tensor, grad: Tensor, iterations: int, eps: float) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _keep(ctx, inputs, output) -> None:
    logits, ctx.iterations, ctx.eps = inputs
    ctx.save_for_backward(logits)


def _backward(ctx, grad: Tensor):
    (logits,) = ctx.saved_tensors
    return _sinkhorn_gpu_backward(logits, grad, ctx.iterations, ctx.eps), None, None


_sinkhorn_gpu.register_autograd(_backward, setup_context=_keep)


def sinkhorn(logits: Tensor, iterations: int, eps: float) -> Tensor:
    """logits float32 [..., 4, 4] -> the same shape, nearly doubly stochastic."""
    if logits.is_cuda:
        return _sinkhorn_gpu(logits, iterations, eps)
    return sinkhorn_plain(logits, iterations, eps)
