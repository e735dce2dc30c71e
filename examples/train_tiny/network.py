"""DeepSeek V4 for training, in PyTorch: the same mathematics as `ds4_mlx/model`, on whole rows of a fixed length.

Weights are one flat dict under the checkpoint's own names, but for the experts of a layer, which are stacked
(`layers.0.ffn.experts.w1` [E, I, D]). Rows start at position 0, all as long, so nothing here knows of caches or chunks.

    ids [B, S] -> embed -> streams [B, S, 4, D] -> blocks -> hc_head -> norm -> head -> logits [B, S, vocab]
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from rounding import fake_index, fake_kv, hadamard
from sinkhorn import sinkhorn
from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """The numbers of config.json that the mathematics needs, under their own names."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    qk_rope_head_dim: int
    q_lora_rank: int
    o_lora_rank: int
    o_groups: int
    sliding_window: int
    index_n_heads: int
    index_head_dim: int
    index_topk: int
    n_routed_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    num_hash_layers: int
    routed_scaling_factor: float
    swiglu_limit: float
    hc_mult: int
    hc_sinkhorn_iters: int
    hc_eps: float
    rms_norm_eps: float
    rope_theta: float
    compress_rope_theta: float
    compress_ratios: tuple[int, ...]
    yarn: tuple[float, int, float, float]  # factor, original_max_position_embeddings, beta_fast, beta_slow

    @classmethod
    def of(cls, config: dict) -> Sizes:
        """From the parsed config.json."""
        scaling = config["rope_scaling"]
        keys = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow")
        values = {name: config[name] for name in cls.__dataclass_fields__ if name not in ("compress_ratios", "yarn")}
        ratios = tuple(config["compress_ratios"])
        return cls(**values, compress_ratios=ratios, yarn=tuple(scaling[key] for key in keys))


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


def masks(sizes: Sizes, document: Tensor) -> Masks:
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


def tables(sizes: Sizes, length: int, device: torch.device | str) -> Tables:
    """For rows of `length` tokens."""
    positions = torch.arange(length, dtype=torch.float32)

    def table(frequencies: Tensor) -> tuple[Tensor, Tensor]:
        angles = (positions[:, None] * frequencies).double()
        return angles.cos().float().to(device), angles.sin().float().to(device)

    plain = _plain_frequencies(sizes.qk_rope_head_dim, sizes.rope_theta)
    return Tables(table(plain), table(_yarn_frequencies(sizes)), hadamard(sizes.index_head_dim).to(device))


def _plain_frequencies(dim: int, theta: float) -> Tensor:
    return 1 / (theta ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)).float()


def _yarn_frequencies(sizes: Sizes) -> Tensor:
    dim, theta = sizes.qk_rope_head_dim, sizes.compress_rope_theta
    factor, original, fast, slow = sizes.yarn

    def channel(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(math.floor(channel(fast)), 0), min(math.ceil(channel(slow)), dim - 1)
    ramp = ((torch.arange(dim // 2) - low) / (high - low + (0.001 if low == high else 0))).clamp(0, 1)
    frequencies = _plain_frequencies(dim, theta)
    return frequencies / factor * ramp + frequencies * (1 - ramp)


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


# --- hyper-connections (spec 2, 10) ------------------------------------------------------------------------------


def _mixes(h: Tensor, fn: Tensor, eps: float) -> Tensor:
    z = h.flatten(-2).float()
    return F.linear(z, fn) * torch.rsqrt(z.square().mean(-1, keepdim=True) + eps)


def hc_pre(h: Tensor, w: Weights, site: str, sizes: Sizes) -> tuple[Tensor, Tensor, Tensor]:
    """Streams [B, S, N, D] -> the sublayer's input [B, S, D], post [B, S, N], comb [B, S, N, N]."""
    n, scale, base = sizes.hc_mult, w[f"hc_{site}_scale"], w[f"hc_{site}_base"]
    m = _mixes(h, w[f"hc_{site}_fn"], sizes.rms_norm_eps)
    pre = torch.sigmoid(m[..., :n] * scale[0] + base[:n]) + sizes.hc_eps
    post = 2 * torch.sigmoid(m[..., n : 2 * n] * scale[1] + base[n : 2 * n])
    comb = sinkhorn(
        (m[..., 2 * n :] * scale[2] + base[2 * n :]).unflatten(-1, (n, n)), sizes.hc_sinkhorn_iters, sizes.hc_eps
    )
    return collapse(h, pre), post, comb


def hc_post(y: Tensor, h: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    """h'[k] = post[k] * y + sum_j comb[j, k] * h[j], spelled out over the few streams so that it fuses."""
    n, y = h.shape[-2], y.float()
    old = [h[..., j, :].float() for j in range(n)]
    new = []
    for k in range(n):
        total = post[..., k, None] * y
        for j in range(n):
            total = total + comb[..., j, k, None] * old[j]
        new.append(total.to(h.dtype))
    return torch.stack(new, -2)


def collapse(h: Tensor, gates: Tensor) -> Tensor:
    """sum_j gates[j] * h[j] in float32."""
    total = gates[..., 0, None] * h[..., 0, :].float()
    for j in range(1, h.shape[-2]):
        total = total + gates[..., j, None] * h[..., j, :].float()
    return total.to(h.dtype)


def hc_head(h: Tensor, w: Weights, prefix: str, sizes: Sizes) -> Tensor:
    """The last collapse [B, S, N, D] -> [B, S, D]."""
    m = _mixes(h, w[f"{prefix}hc_head_fn"], sizes.rms_norm_eps)
    return collapse(h, torch.sigmoid(m * w[f"{prefix}hc_head_scale"] + w[f"{prefix}hc_head_base"]) + sizes.hc_eps)


# --- attention (spec 3 to 6) -------------------------------------------------------------------------------------


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
    x: Tensor, w: Weights, ratio: int, sizes: Sizes, table: Tables, near: Tensor, seen: Tensor | None, mode: Mode
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


def _index(x: Tensor, qr: Tensor, w: Weights, sizes: Sizes, table: Tables, mode: Mode) -> IndexInputs:
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
    sizes: Sizes,
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


# --- experts (spec 9) --------------------------------------------------------------------------------------------


class _Permute(torch.autograd.Function):
    """x[order] for a permutation `order`: its gradient is a gather too, not a scatter with collisions."""

    @staticmethod
    def forward(ctx, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(order, back)
        return x[order]

    @staticmethod
    def backward(ctx, grad: Tensor):
        _, back = ctx.saved_tensors
        return grad[back], None, None


def swiglu(gate: Tensor, up: Tensor, limit: float) -> Tensor:
    """silu(min(gate, limit)) * clamp(up, -limit, limit), float32."""
    return F.silu(gate.float().clamp_max(limit)) * up.float().clamp(-limit, limit)


def moe(x: Tensor, ids: Tensor, w: Weights, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """x [B, S, D], ids [B, S] -> [B, S, D], and how many tokens each expert got [E]."""
    k, count, limit = sizes.num_experts_per_tok, sizes.n_routed_experts, sizes.swiglu_limit
    flat = x.flatten(0, 1)
    scores = F.softplus(F.linear(flat.float(), w["ffn.gate.weight"].float())).sqrt()
    if "ffn.gate.tid2eid" in w:
        experts = w["ffn.gate.tid2eid"][ids.flatten()]
    else:
        experts = (scores + w["ffn.gate.bias"]).topk(k, -1).indices
    weights = scores.gather(-1, experts)
    weights = weights / weights.sum(-1, keepdim=True) * sizes.routed_scaling_factor

    chosen = experts.flatten()
    order = chosen.argsort(stable=True)
    back = torch.empty_like(order).scatter_(0, order, torch.arange(order.shape[0], device=order.device))
    load = (chosen[:, None] == torch.arange(count, device=chosen.device)).sum(0)
    ends = load.cumsum(0).to(torch.int32)
    rows = _Permute.apply(flat.repeat_interleave(k, 0), order, back)
    inner = swiglu(_experts(rows, w["ffn.experts.w1"], ends), _experts(rows, w["ffn.experts.w3"], ends), limit)
    inner = inner * _Permute.apply(weights.flatten(), order, back)[:, None]
    down = _experts(inner.to(x.dtype), w["ffn.experts.w2"], ends)
    routed = _Permute.apply(down, back, order).unflatten(0, (-1, k)).float().sum(1)

    shared = swiglu(
        F.linear(flat, w["ffn.shared_experts.w1.weight"]), F.linear(flat, w["ffn.shared_experts.w3.weight"]), limit
    )
    shared = F.linear(shared.to(x.dtype), w["ffn.shared_experts.w2.weight"])
    return (routed + shared.float()).to(x.dtype).view(x.shape), load


def _experts(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """Rows sorted by expert [R, in] times their expert's matrix [E, out, in] -> [R, out]."""
    if rows.dtype == torch.bfloat16:
        return torch._grouped_mm(rows, matrices.transpose(-1, -2), offs=ends)
    starts = [0, *ends.tolist()]  # float32, in checks only
    return torch.cat([rows[a:b] @ m.T for a, b, m in zip(starts, starts[1:], matrices, strict=False)])


# --- the whole ---------------------------------------------------------------------------------------------------


def block(
    h: Tensor,
    ids: Tensor,
    w: Weights,
    ratio: int,
    sizes: Sizes,
    table: Tables,
    near: Tensor,
    seen: Tensor | None,
    mode: Mode,
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer: streams [B, S, N, D] -> streams, the indexer's loss, the experts' loads."""
    eps = sizes.rms_norm_eps
    x, post, comb = hc_pre(h, w, "attn", sizes)
    y, index_loss = attention(rms_norm(x, w["attn_norm.weight"], eps), w, ratio, sizes, table, near, seen, mode)
    h = hc_post(y, h, post, comb)
    x, post, comb = hc_pre(h, w, "ffn", sizes)
    y, load = moe(rms_norm(x, w["ffn_norm.weight"], eps), ids, w, sizes)
    return hc_post(y, h, post, comb), index_loss, load


class Output(NamedTuple):
    """logits float32 [B, S, vocab] of the next token; mtp, alike, of the one after; and training's extras."""

    logits: Tensor
    mtp: Tensor | None
    index_loss: Tensor
    loads: list[Tensor]  # per layer, the MTP block last


def part(weights: Weights, prefix: str) -> Weights:
    """The weights under `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


class Network:
    """Sizes and compiled blocks; the weights come with every call."""

    def __init__(self, sizes: Sizes, *, compiled: bool) -> None:
        self.sizes = sizes
        wrap = partial(torch.compile, dynamic=False) if compiled else lambda f: f
        self._block = wrap(block)
        self._head = wrap(_head)
        self._combine = wrap(_combine)
        self._tables: dict[int, Tables] = {}

    def __call__(
        self,
        weights: Weights,
        ids: Tensor,
        mode: Mode,
        following: Tensor | None = None,
        document: Tensor | None = None,
    ) -> Output:
        """ids [B, S], S a multiple of the window. `following` [B, S] are the ids of the tokens after each, which the
        MTP block sees beside the last streams (spec 11); without them it does not run. `document` [B, S] as in `masks`;
        without it a row is one document.
        """
        sizes, length = self.sizes, ids.shape[1]
        if length not in self._tables:
            self._tables[length] = tables(sizes, length, ids.device)
        table = self._tables[length]
        mask = masks(sizes, torch.zeros_like(ids) if document is None else document)
        embedded = F.embedding(ids, weights["embed.weight"])
        h = embedded[:, :, None].expand(-1, -1, sizes.hc_mult, -1)
        index_loss, loads = torch.zeros((), device=ids.device), []
        for layer in range(sizes.num_hidden_layers):
            ratio = sizes.compress_ratios[layer]
            w, seen = part(weights, f"layers.{layer}."), mask.entries.get(ratio)
            h, loss, load = self._block(h, ids, w, ratio, sizes, table, mask.near, seen, mode)
            index_loss = index_loss + loss
            loads.append(load)
        logits = self._head(h, part_head(weights, ""), sizes)
        mtp = None
        if following is not None:
            w = part(weights, "mtp.0.")
            streams = self._combine(h, F.embedding(following, weights["embed.weight"]), w, sizes)
            streams, _, load = self._block(streams, following, w, 0, sizes, table, mask.near, None, mode)
            loads.append(load)
            mtp = self._head(streams, part_head(weights, "mtp.0."), sizes)
        return Output(logits, mtp, index_loss, loads)


def part_head(weights: Weights, prefix: str) -> Weights:
    """What `_head` needs: final collapse and norm of the model or of its MTP block, and the shared output matrix."""
    names = ("hc_head_fn", "hc_head_base", "hc_head_scale", "norm.weight")
    return {name: weights[prefix + name] for name in names} | {"head.weight": weights["head.weight"]}


def _head(h: Tensor, w: Weights, sizes: Sizes) -> Tensor:
    x = rms_norm(hc_head(h, w, "", sizes), w["norm.weight"], sizes.rms_norm_eps)
    return F.linear(x.float(), w["head.weight"].float())


def _combine(h: Tensor, embedded: Tensor, w: Weights, sizes: Sizes) -> Tensor:
    eps = sizes.rms_norm_eps
    e = F.linear(rms_norm(embedded, w["enorm.weight"], eps), w["e_proj.weight"])
    return F.linear(rms_norm(h, w["hnorm.weight"], eps), w["h_proj.weight"]) + e[:, :, None]
