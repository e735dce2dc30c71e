"""DeepSeek V4 for training, in PyTorch: the same mathematics as `ds4_mlx/model`, on whole rows of a fixed length.

Weights are one flat dict under the checkpoint's own names, but for the experts of a layer, which are stacked
(`layers.0.ffn.experts.w1` [E, I, D]). Rows start at position 0, all as long, so nothing here knows of caches or chunks.

    ids [B, S] -> embed -> streams [B, S, 4, D] -> blocks -> hc_head -> norm -> head -> logits [B, S, vocab]
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from attention import Mode, Tables, Weights, attention, masks, rms_norm, tables
from sinkhorn import sinkhorn
from torch import Tensor

from ds4_mlx.config import ModelConfig

# --- hyper-connections (spec 2, 10) ------------------------------------------------------------------------------


def _mixes(h: Tensor, fn: Tensor, eps: float) -> Tensor:
    z = h.flatten(-2).float()
    return F.linear(z, fn) * torch.rsqrt(z.square().mean(-1, keepdim=True) + eps)


def hc_pre(h: Tensor, w: Weights, site: str, sizes: ModelConfig) -> tuple[Tensor, Tensor, Tensor]:
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


def hc_head(h: Tensor, w: Weights, prefix: str, sizes: ModelConfig) -> Tensor:
    """The last collapse [B, S, N, D] -> [B, S, D]."""
    m = _mixes(h, w[f"{prefix}hc_head_fn"], sizes.rms_norm_eps)
    return collapse(h, torch.sigmoid(m * w[f"{prefix}hc_head_scale"] + w[f"{prefix}hc_head_base"]) + sizes.hc_eps)


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


def moe(x: Tensor, ids: Tensor, w: Weights, sizes: ModelConfig) -> tuple[Tensor, Tensor]:
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
    sizes: ModelConfig,
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

    def __init__(self, sizes: ModelConfig, *, compiled: bool) -> None:
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


def _head(h: Tensor, w: Weights, sizes: ModelConfig) -> Tensor:
    x = rms_norm(hc_head(h, w, "", sizes), w["norm.weight"], sizes.rms_norm_eps)
    return F.linear(x.float(), w["head.weight"].float())


def _combine(h: Tensor, embedded: Tensor, w: Weights, sizes: ModelConfig) -> Tensor:
    eps = sizes.rms_norm_eps
    e = F.linear(rms_norm(embedded, w["enorm.weight"], eps), w["e_proj.weight"])
    return F.linear(rms_norm(h, w["hnorm.weight"], eps), w["h_proj.weight"]) + e[:, :, None]
