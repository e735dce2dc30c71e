"""ds4-tiny's weights while it trains: where they start, and the form in which the network sees them.

The masters are float32 under the checkpoint's names (experts stacked). What the network multiplies with is their
bfloat16 form or, late in training, exactly what the released checkpoint will hold: FP4 experts, FP8 dense matrices.
"""

from __future__ import annotations

import math

import torch
from rounding import round_fp4, round_fp8_weight
from torch import Tensor

from ds4_mlx.config import ModelConfig

# Dense matrices that the checkpoint stores in FP8, by the end of their names (spec 12).
_FP8 = ("wq_a.weight", "wq_b.weight", "wkv.weight", "wo_a.weight", "wo_b.weight", "e_proj.weight", "h_proj.weight")

# Entries are keys and values in one, so only the size of their norm's weight can make attention to them sharp: at 1 a
# perfect match among a thousand entries gets half of the attention. On a toy, copying began at step 170 instead of 220.
_ENTRY_GAIN = 2.5
_QUIET = 0.1  # sublayers begin by saying little, so that the tokens are heard through all layers


def is_fp4(name: str) -> bool:
    """Routed experts."""
    return ".ffn.experts." in name


def is_fp8(name: str) -> bool:
    """Attention, shared experts, the indexer's queries, MTP's two projections; not the compressors."""
    return ".shared_experts." in name or (name.endswith(_FP8) and "compressor" not in name)


def is_float32(name: str) -> bool:
    """Stored and used in float32: hyper-connections, sinks, position biases of compressors, router biases."""
    return "hc_" in name or name.endswith((".attn_sink", ".ape", ".gate.bias"))


def initial(sizes: ModelConfig, seed: int, token_counts: Tensor) -> dict[str, Tensor]:
    """The masters at step 0, on the CPU.

    `token_counts` [vocab]: how often each token is a target. They share hash-routed tokens out evenly, and they make
    the untrained network predict just those frequencies: otherwise all layers first learn them together, as one
    constant that drowns the tokens in the streams.
    """
    start = _Start(sizes, torch.Generator().manual_seed(seed))
    start.ends(token_counts)
    for layer in range(sizes.num_hidden_layers):
        name = f"layers.{layer}"
        start.block(name, layer, sizes.compress_ratios[layer])
        if layer < sizes.num_hash_layers:
            start.weights[f"{name}.ffn.gate.tid2eid"] = hash_routes(sizes, token_counts, start.random)
        else:
            start.weights[f"{name}.ffn.gate.bias"] = torch.zeros(sizes.n_routed_experts)
    start.mtp("mtp.0")
    return start.weights


class _Start:
    """Draws weights one after another from one generator."""

    def __init__(self, sizes: ModelConfig, random: torch.Generator) -> None:
        self.sizes, self.random = sizes, random
        self.weights: dict[str, Tensor] = {}

    def ends(self, token_counts: Tensor) -> None:
        """Embedding, output matrix and final collapse."""
        sizes, w = self.sizes, self.weights
        w["embed.weight"] = self.normal(sizes.vocab_size, sizes.hidden_size, std=1.0)
        w["head.weight"] = self.normal(sizes.vocab_size, sizes.hidden_size, std=0.005)
        # Channel 0 of the embedding is the same for all tokens; through the final norm it meets the log frequencies.
        constant = 4.0
        frequencies = (token_counts + 1).log()
        w["embed.weight"][:, 0] = constant
        w["head.weight"][:, 0] = (frequencies - frequencies.mean()) / constant
        w["norm.weight"] = torch.ones(sizes.hidden_size)
        self.head_site("")

    def normal(self, *shape: int, std: float) -> Tensor:
        """Normal numbers."""
        return torch.randn(*shape, generator=self.random) * std

    def matrix(self, name: str, out: int, width: int, gain: float = 1.0) -> None:
        """A linear layer that keeps the size of its input, times `gain`."""
        self.weights[f"{name}.weight"] = self.normal(out, width, std=gain * width**-0.5)

    def ones(self, prefix: str, **sizes: int) -> None:
        """Norms."""
        for name, size in sizes.items():
            self.weights[f"{prefix}.{name}.weight"] = torch.ones(size)

    def head_site(self, prefix: str) -> None:
        """The final collapse starts as the mean of the streams."""
        N, w = self.sizes.hc_mult, self.weights
        w[f"{prefix}hc_head_fn"] = self.normal(N, N * self.sizes.hidden_size, std=0.01)
        w[f"{prefix}hc_head_base"] = torch.full((N,), math.log(1 / (N - 1)))
        w[f"{prefix}hc_head_scale"] = torch.ones(1)

    def site(self, name: str, favourite: int) -> None:
        """Starts as: read mostly one stream, write to all, let the streams pass almost unmixed."""
        N, w = self.sizes.hc_mult, self.weights
        w[f"{name}_fn"] = self.normal((2 + N) * N, N * self.sizes.hidden_size, std=0.01)
        pre = torch.full((N,), -2.0)
        pre[favourite] = 0.5
        post = torch.full((N,), -0.5)
        post[favourite] = 1.0
        w[f"{name}_base"] = torch.cat([pre, post, (torch.eye(N) * 5).flatten()])
        w[f"{name}_scale"] = torch.ones(3)

    def compressor(self, name: str, ratio: int, dim: int) -> None:
        """Starts as a mean over the pooled tokens, with some preference by content."""
        channels = dim * (2 if ratio == 4 else 1)
        self.matrix(f"{name}.wkv", channels, self.sizes.hidden_size)
        self.matrix(f"{name}.wgate", channels, self.sizes.hidden_size)
        self.weights[f"{name}.ape"] = self.normal(ratio, channels, std=0.02)
        self.ones(name, norm=dim)

    def attention(self, name: str, ratio: int) -> None:
        """One attention sublayer."""
        sizes, D, d = self.sizes, self.sizes.hidden_size, self.sizes.head_dim
        heads, rank = sizes.num_attention_heads, sizes.o_groups * sizes.o_lora_rank
        self.ones(name, q_norm=sizes.q_lora_rank, kv_norm=d)
        self.weights[f"{name}.attn_sink"] = torch.zeros(heads)
        self.matrix(f"{name}.wq_a", sizes.q_lora_rank, D)
        self.matrix(f"{name}.wq_b", heads * d, sizes.q_lora_rank)
        self.matrix(f"{name}.wkv", d, D)
        self.matrix(f"{name}.wo_a", rank, heads * d // sizes.o_groups)
        self.matrix(f"{name}.wo_b", D, rank, _QUIET)
        if ratio:
            self.compressor(f"{name}.compressor", ratio, d)
            self.weights[f"{name}.compressor.norm.weight"] *= _ENTRY_GAIN
        if ratio == 4:
            self.matrix(f"{name}.indexer.wq_b", sizes.index_n_heads * sizes.index_head_dim, sizes.q_lora_rank)
            self.matrix(f"{name}.indexer.weights_proj", sizes.index_n_heads, D)
            self.compressor(f"{name}.indexer.compressor", 4, sizes.index_head_dim)

    def block(self, name: str, layer: int, ratio: int) -> None:
        """One layer, but for how its experts are chosen."""
        sizes, D, inner = self.sizes, self.sizes.hidden_size, self.sizes.moe_intermediate_size
        self.site(f"{name}.hc_attn", (2 * layer) % sizes.hc_mult)
        self.site(f"{name}.hc_ffn", (2 * layer + 1) % sizes.hc_mult)
        self.ones(name, attn_norm=D, ffn_norm=D)
        self.attention(f"{name}.attn", ratio)
        self.matrix(f"{name}.ffn.gate", sizes.n_routed_experts, D)
        for matrix, out, width, gain in (("w1", inner, D, 1.0), ("w3", inner, D, 1.0), ("w2", D, inner, _QUIET)):
            experts = self.normal(sizes.n_routed_experts, out, width, std=gain * width**-0.5)
            self.weights[f"{name}.ffn.experts.{matrix}"] = experts
            self.matrix(f"{name}.ffn.shared_experts.{matrix}", out, width, gain)

    def mtp(self, name: str) -> None:
        """The MTP block."""
        sizes, D = self.sizes, self.sizes.hidden_size
        self.block(name, sizes.num_hidden_layers, 0)
        self.weights[f"{name}.ffn.gate.bias"] = torch.zeros(sizes.n_routed_experts)
        self.matrix(f"{name}.e_proj", D, D)
        self.matrix(f"{name}.h_proj", D, D)
        self.ones(name, enorm=D, hnorm=D, norm=D)
        self.head_site(f"{name}.")


def hash_routes(sizes: ModelConfig, token_counts: Tensor, random: torch.Generator) -> Tensor:
    """int64 [vocab, k]: each token's experts, so that all experts see about as many tokens.

    Tokens are dealt out from the most frequent down, each to the k experts with the least so far.
    """
    routes = torch.zeros(sizes.vocab_size, sizes.num_experts_per_tok, dtype=torch.int64)
    load = torch.rand(sizes.n_routed_experts, generator=random)
    for token in token_counts.argsort(descending=True).tolist():
        experts = load.topk(sizes.num_experts_per_tok, largest=False).indices
        routes[token] = experts
        load[experts] += float(token_counts[token]) + torch.rand(1, generator=random).item()
    return routes


class _StraightThrough(torch.autograd.Function):
    """The given bfloat16 values in place of a master; the gradient goes to the master as it is."""

    @staticmethod
    def forward(ctx, master: Tensor, values: Tensor) -> Tensor:
        return values

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad.float(), None


def released_values(masters: dict[str, Tensor]) -> dict[str, Tensor]:
    """name -> bfloat16 values of every FP4 and FP8 matrix as the checkpoint holds them; bfloat16 has room for both.

    Matrices of one shape are rounded together: a hundred small ones would cost as many small launches.
    """
    groups: dict[tuple[bool, tuple[int, ...]], list[str]] = {}
    for name, w in masters.items():
        if is_fp4(name) or is_fp8(name):
            groups.setdefault((is_fp4(name), tuple(w.shape)), []).append(name)
    values = {}
    with torch.no_grad():
        for (fp4, _), names in groups.items():
            stacked = torch.stack([masters[name] for name in names])
            rounded = (round_fp4(stacked) if fp4 else round_fp8_weight(stacked)).bfloat16()
            values.update(zip(names, rounded.unbind(), strict=True))
    return values


def form(masters: dict[str, Tensor], *, released: bool) -> dict[str, Tensor]:
    """Masters -> what the network computes with; gradients pass through the rounding unchanged.

    `released`: rounded as in the released checkpoint; otherwise plain bfloat16.
    """
    rounded = released_values(masters) if released else {}
    out = {}
    for name, w in masters.items():
        if not w.is_floating_point() or is_float32(name):
            out[name] = w
        else:
            out[name] = _StraightThrough.apply(w, rounded[name] if name in rounded else w.detach().bfloat16())
    return out
