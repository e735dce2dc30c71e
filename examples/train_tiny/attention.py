"""Attention of the training network (spec 3 to 7): a window of raw rows, compressed entries, and the indexer.

Whole rows at once: queries go in blocks as long as the window, and every compressed entry is scored, then masked.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from rounding import fake_index, fake_kv, hadamard
from torch import Tensor

from ds4_mlx.config import ModelConfig

Weights = dict[str, Tensor]

# What a query attends to where there are more compressed entries than it may have.
EVERYTHING, CHOSEN, RECENT = 0, 1, 2


class Mode(NamedTuple):
    """How a forward pass runs.

    `simulate`: the cache's FP8 and the indexer's FP4 rounding. `attend`, an int tensor so that all three share one
    compiled graph: EVERYTHING, as in the first stage of training; what the indexer has CHOSEN; or the most RECENT
    entries, to measure what the indexer is worth.
    """

    attend: Tensor
    simulate: bool = True


class Masks(NamedTuple):
    """Who sees what, bool: near [B, S, 2 W] over the rows of a query's two window blocks; entries, by ratio, [B, S, N].

    Rows hold several documents one after another. Tokens see their own document only, as they will in use; seeing the
    others as well, attention to compressed entries never gets sharp enough to recall anything.
    """

    near: Tensor
    entries: dict[int, Tensor]


def documents(ids: Tensor, bos: int = 0) -> Tensor:
    """Which document each token of ids [B, S + 2] belongs to -> [B, S]; every document starts with BOS."""
    return (ids[:, :-2] == bos).cumsum(1)


def masks(sizes: ModelConfig, document: Tensor) -> Masks:
    """`document` [B, S]: a number per token that changes where a new document begins."""
    length = document.shape[1]
    width, device = sizes.sliding_window, document.device
    query = torch.arange(length, device=device)[:, None]
    row = (query // width - 1) * width + torch.arange(2 * width, device=device)  # [S, 2 W]
    near = (row <= query) & (row > query - width) & (row >= 0)
    own = document[:, row.clamp(min=0)] == document[:, :, None]
    entries = {}
    for ratio in sorted(set(sizes.compress_ratios) - {0}):
        first = torch.arange(0, length // ratio * ratio, ratio, device=device)
        # Entry b is visible from token ratio * b + ratio - 1 on.
        causal = first + ratio - 1 <= query
        entries[ratio] = causal & (document[:, first][:, None] == document[:, :, None])
    return Masks(near & own, entries)


class Tables(NamedTuple):
    """What depends on the row length only: cosines and sines [S, rope / 2] of both kinds, and the Hadamard matrix."""

    plain: tuple[Tensor, Tensor]
    yarn: tuple[Tensor, Tensor]
    hadamard: Tensor


def tables(sizes: ModelConfig, length: int, device: torch.device | str) -> Tables:
    """For rows of `length` tokens."""
    positions = torch.arange(length, dtype=torch.float32)

    def table(frequencies: Tensor) -> tuple[Tensor, Tensor]:
        angles = (positions[:, None] * frequencies).double()
        return angles.cos().float().to(device), angles.sin().float().to(device)

    plain = _plain_frequencies(sizes.qk_rope_head_dim, sizes.rope_theta)
    return Tables(table(plain), table(_yarn_frequencies(sizes)), hadamard(sizes.index_head_dim).to(device))


def _plain_frequencies(dim: int, theta: float) -> Tensor:
    return 1 / (theta ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)).float()


def _yarn_frequencies(sizes: ModelConfig) -> Tensor:
    dim, theta = sizes.qk_rope_head_dim, sizes.compress_rope_theta
    yarn = sizes.rope_scaling

    def channel(rotations: float) -> float:
        return dim * math.log(yarn.original_max_position_embeddings / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(math.floor(channel(yarn.beta_fast)), 0), min(math.ceil(channel(yarn.beta_slow)), dim - 1)
    ramp = ((torch.arange(dim // 2) - low) / (high - low + (0.001 if low == high else 0))).clamp(0, 1)
    frequencies = _plain_frequencies(dim, theta)
    return frequencies / yarn.factor * ramp + frequencies * (1 - ramp)


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """Over the last axis in float32, back to the dtype of x."""
    y = x.float()
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
    return (y if weight is None else y * weight.float()).to(x.dtype)


def rotate(x: Tensor, table: tuple[Tensor, Tensor], *, inverse: bool = False) -> Tensor:
    """Turns the last channels of x [B, S, ..., d], in interleaved pairs, by the angles [S, pairs] of its positions."""
    cos, sin = table
    pairs = cos.shape[-1]
    shape = (cos.shape[0],) + (1,) * (x.ndim - 3) + (pairs,)
    cos, sin = cos.view(shape), (-sin if inverse else sin).view(shape)
    still, turned = x[..., : -2 * pairs], x[..., -2 * pairs :]
    a, b = turned.float().unflatten(-1, (pairs, 2)).unbind(-1)
    turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    return torch.cat([still, turned.to(x.dtype)], -1)


def compress(x: Tensor, w: Weights, name: str, ratio: int, table: tuple[Tensor, Tensor], eps: float) -> Tensor:
    """Pools complete blocks of `ratio` tokens: x [B, S, D] -> entries [B, S // ratio, d], normed and rotated."""
    count = x.shape[1] // ratio
    x = x[:, : count * ratio].float()
    values = F.linear(x, w[f"{name}.wkv.weight"].float()).unflatten(1, (count, ratio))
    gates = F.linear(x, w[f"{name}.wgate.weight"].float()).unflatten(1, (count, ratio)) + w[f"{name}.ape"]
    if ratio == 4:  # an entry pools the first series of the block before with the second series of its own
        d = values.shape[-1] // 2
        values, gates = (
            torch.cat([F.pad(series[..., :d], (0, 0, 0, 0, 1, 0), value=empty)[:, :-1], series[..., d:]], 2)
            for series, empty in ((values, 0.0), (gates, -math.inf))
        )
    pooled = (gates.softmax(2) * values).sum(2).to(w[f"{name}.wkv.weight"].dtype)
    cos, sin = table
    first = slice(0, count * ratio, ratio)
    return rotate(rms_norm(pooled, w[f"{name}.norm.weight"], eps), (cos[first], sin[first]))


def index_scores(q: Tensor, weights: Tensor, keys: Tensor) -> Tensor:
    """sum_h w_h * relu(q_h . k): q [B, S, H, d], weights [B, S, H], keys [B, N, d] -> float32 [B, S, N]."""
    products = (q.flatten(1, 2) @ keys.transpose(1, 2)).unflatten(1, q.shape[1:3])
    return (products.relu().float() * weights.float()[..., None]).sum(2)


def attention(
    x: Tensor, w: Weights, ratio: int, sizes: ModelConfig, table: Tables, near: Tensor, seen: Tensor | None, mode: Mode
) -> tuple[Tensor, Tensor]:
    """x [B, S, D] after attn_norm -> [B, S, D], and the indexer's loss (0 where there is no indexer).

    `near` and `seen` are this layer's parts of `Masks`.
    """
    eps, heads, d = sizes.rms_norm_eps, sizes.num_attention_heads, sizes.head_dim
    angles = table.yarn if ratio else table.plain
    qr = rms_norm(F.linear(x, w["attn.wq_a.weight"]), w["attn.q_norm.weight"], eps)
    q = rms_norm(F.linear(qr, w["attn.wq_b.weight"]).unflatten(-1, (heads, d)), None, eps)
    q = rotate(q, angles) * d**-0.5  # [B, S, H, d]
    kv = rotate(rms_norm(F.linear(x, w["attn.wkv.weight"]), w["attn.kv_norm.weight"], eps), angles)
    nope = d - sizes.qk_rope_head_dim
    if mode.simulate:
        kv = fake_kv(kv, nope)
    entries, index = None, None
    if ratio and x.shape[1] >= ratio:
        entries = compress(x, w, "attn.compressor", ratio, angles, eps)
        if mode.simulate:
            entries = fake_kv(entries, nope)
        if ratio == 4:
            index = _index(x.detach(), qr.detach(), w, sizes, table, mode)
    o, index_loss = _attend(q, kv, near, entries, seen, index, w["attn.attn_sink"], sizes, mode)
    o = rotate(o, angles, inverse=True)
    groups = sizes.o_groups
    o = o.flatten(-2).unflatten(-1, (groups, -1))
    wo_a = w["attn.wo_a.weight"].unflatten(0, (groups, -1))  # [G, r, H d / G]
    u = torch.einsum("bsgi,gri->bsgr", o, wo_a).flatten(-2)
    return F.linear(u, w["attn.wo_b.weight"]), index_loss


class IndexInputs(NamedTuple):
    """Queries [B, S, H, d], head weights [B, S, H] and keys [B, N, d] of an indexer."""

    queries: Tensor
    weights: Tensor
    keys: Tensor


def _index(x: Tensor, qr: Tensor, w: Weights, sizes: ModelConfig, table: Tables, mode: Mode) -> IndexInputs:
    """The indexer learns from its own loss alone: what comes in is detached from the graph."""
    heads, d = sizes.index_n_heads, sizes.index_head_dim
    q = rotate(F.linear(qr, w["attn.indexer.wq_b.weight"]).unflatten(-1, (heads, d)), table.yarn)
    keys = compress(x, w, "attn.indexer.compressor", 4, table.yarn, sizes.rms_norm_eps)
    if mode.simulate:
        q, keys = fake_index(q, table.hadamard), fake_index(keys, table.hadamard)
    weights = F.linear(x, w["attn.indexer.weights_proj.weight"]) * (d**-0.5 * heads**-0.5)
    return IndexInputs(q, weights, keys)


def _attend(
    q: Tensor,
    kv: Tensor,
    near_mask: Tensor,
    entries: Tensor | None,
    seen: Tensor | None,
    index: IndexInputs | None,
    sink: Tensor,
    sizes: ModelConfig,
    mode: Mode,
) -> tuple[Tensor, Tensor]:
    """Softmax with a sink over the window and the compressed entries; keys are the values.

    Queries go in blocks as long as the window, each against its own block of rows and the one before.
    """
    batch, length, heads, d = q.shape
    width = sizes.sliding_window
    blocks = length // width
    rows = q.reshape(batch, blocks, width * heads, d)
    own = kv.unflatten(1, (blocks, width))
    near = torch.cat([F.pad(own, (0, 0, 0, 0, 1, 0))[:, :-1], own], 2)  # [B, blocks, 2 W, d]
    scores = (rows @ near.transpose(-1, -2)).view(batch, length, heads, 2 * width)
    scores = scores.float().masked_fill(~near_mask[:, :, None], -math.inf)

    index_loss = torch.zeros((), device=q.device)
    if entries is not None:
        count = entries.shape[1]
        far = (q.flatten(1, 2) @ entries.transpose(1, 2)).view(batch, length, heads, count)
        visible = seen
        if index is not None:
            if torch.is_grad_enabled():
                index_loss = _index_loss(far.detach(), scores.detach(), seen, index, sink.detach())
            if count > sizes.index_topk:
                visible = visible & _chosen(index, seen, sizes.index_topk, mode.attend)
        far = far.float().masked_fill(~visible[:, :, None], -math.inf)
    top = scores.amax(-1, keepdim=True)  # finite: a token sees itself
    if entries is not None:
        top = torch.maximum(top, far.amax(-1, keepdim=True))
    weights = (scores - top).exp()
    total = weights.sum(-1, keepdim=True) + (sink[:, None] - top).exp()
    if entries is not None:
        far_weights = (far - top).exp()
        total = total + far_weights.sum(-1, keepdim=True)
    weights = (weights / total).to(q.dtype).view(batch, blocks, width * heads, 2 * width)
    o = (weights @ near).view(q.shape)
    if entries is not None:
        o = o + ((far_weights / total).to(q.dtype).flatten(1, 2) @ entries).view(q.shape)
    return o, index_loss


@torch.no_grad()
def _chosen(index: IndexInputs, seen: Tensor, k: int, attend: Tensor) -> Tensor:
    """bool [B, S, N]: the k entries of highest score (or of highest number, or all, as `attend` says)."""
    age = torch.arange(seen.shape[-1], device=seen.device, dtype=torch.float32)
    scores = torch.where(attend == RECENT, age, index_scores(*index)).masked_fill(~seen, -math.inf)
    threshold = scores.topk(k, -1).values.amin(-1, keepdim=True)
    return (scores >= threshold) | (attend == EVERYTHING)


_LOSS_STRIDE = 8  # the indexer learns from every eighth query: the other seven would tell it little more


def _index_loss(far: Tensor, near: Tensor, seen: Tensor, index: IndexInputs, sink: Tensor) -> Tensor:
    """KL from the attention that all heads together pay to the entries to the softmax of the index scores.

    The choice itself has no gradient; this is how DeepSeek trains an indexer (DeepSeek-V3.2, lightning indexer).
    far [B, S, H, N] and near [B, S, H, 2 W] are the main attention's scores.
    """
    some = slice(_LOSS_STRIDE - 1, None, _LOSS_STRIDE)
    seen = seen[:, some]
    far = far[:, some].float().masked_fill(~seen[:, :, None], -math.inf)
    everything = torch.cat([far, near[:, some], sink[:, None].expand(*far.shape[:3], 1)], -1)
    target = everything.softmax(-1)[..., : far.shape[-1]].sum(2)  # [B, S / 8, N]
    target = target / target.sum(-1, keepdim=True).clamp_min(1e-9)
    scores = index_scores(index.queries[:, some], index.weights[:, some], index.keys).masked_fill(~seen, -1e9)
    log_chosen = scores.log_softmax(-1)
    divergence = target * (target.clamp_min(1e-9).log() - log_chosen)
    return divergence.masked_fill(~seen, 0.0).sum(-1).mean()
