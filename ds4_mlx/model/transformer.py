"""The whole network: embedding, blocks over four streams, head (spec 2, 10), with the MTP block beside it (spec 11)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
from mlx import nn

from ds4_mlx.config import ModelConfig
from ds4_mlx.kernels import runs_kernels
from ds4_mlx.kernels.expert_rows import MOST_TOKENS
from ds4_mlx.kernels.stream_many import MANY_RETURN
from ds4_mlx.kernels.stream_rows import dense_return_kernel, fits
from ds4_mlx.model.attention import Attention
from ds4_mlx.model.batch import Batch
from ds4_mlx.model.hyper_connections import (
    HyperConnectionWeights,
    Streams,
    add_head_site,
    add_site,
    enter,
    hc_head,
    hc_post,
    hc_pre,
    head_site,
    leave,
    site,
    streams_for,
)
from ds4_mlx.model.linear import LinearFloat32, Numerics, QuantizedLinear, RMSNorm, Weight, few_by_kernels
from ds4_mlx.model.moe import MoE
from ds4_mlx.model.rope import Rope
from ds4_mlx.model.step import LayerArrays, Step, StepArrays, is_step

AfterLayer = Callable[[int, mx.array], mx.array]  # (layer, streams [T, N, D] after it) -> the streams that go on


class Block(nn.Module):
    """One layer. The residual is the whole stack of streams [T, N, D]; there is no plain residual addition."""

    def __init__(self, config: ModelConfig, numerics: Numerics, ratio: int, rope: Rope, *, hashed: bool) -> None:
        super().__init__()
        self._config = config
        self.attn_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attn = Attention(config, numerics, ratio, rope)
        self.ffn_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.ffn = MoE(config, numerics, hashed=hashed)
        add_site(self, "attn", config)
        add_site(self, "ffn", config)

    def __call__(self, h: mx.array, batch: Batch, layer: int) -> mx.array:
        """h [T, N, D] -> [T, N, D]; `layer` is the index of this block's state in each sequence."""
        x, mix = hc_pre(h, site(self, "attn"), self._config)
        h = hc_post(self.attn(self.attn_norm(x), batch, layer), h, mix)
        x, mix = hc_pre(h, site(self, "ffn"), self._config)
        return hc_post(self.ffn(self.ffn_norm(x), batch.ids), h, mix)

    def many(self, h: mx.array, shared: StepArrays, held: LayerArrays) -> tuple[mx.array, LayerArrays]:
        """The layer for many tokens on a GPU: h [T, N, D] -> [T, N, D], streams read and written by kernels."""
        if not runs_kernels() or not fits(self._config.hc_mult) or not self.ffn.experts.has_kernels:
            return self.attention_step(h, shared, held)
        before = site(self, "attn")
        x, mix = enter(streams_for(h, before), before, self.attn_norm, self._config)
        inner, held = self.attn.step(x, shared, held)
        (h,) = MANY_RETURN(self.attn.wo_b(inner), h, mix)
        between = site(self, "ffn")
        x, mix = enter(streams_for(h, between), between, self.ffn_norm, self._config)
        return self.ffn.many(x, shared.ids, h, mix), held

    def has_step(self) -> bool:
        """Whether kernels know all matrices and sizes, so that `step` can be called."""
        return fits(self._config.hc_mult) and self.attn.wo_b.job is not None and self.ffn.has_step

    def step(
        self, streams: Streams, shared: StepArrays, held: LayerArrays, following: HyperConnectionWeights
    ) -> tuple[Streams, LayerArrays]:
        """The layer for few tokens on a GPU: each site's streams come with its sums and go on with those of the next.

        `following` is the site after this layer.
        """
        x, mix = enter(streams, site(self, "attn"), self.attn_norm, self._config)
        (inner, held), wo_b, between = self.attn.step(x, shared, held), self.attn.wo_b, site(self, "ffn")
        streams = Streams(*dense_return_kernel(wo_b.storage)(inner, streams.h, mix, between.fn, *wo_b.arrays))
        x, mix = enter(streams, between, self.ffn_norm, self._config)
        return self.ffn.step(x, shared.ids, streams.h, mix, following), held

    def attention_step(self, h: mx.array, shared: StepArrays, held: LayerArrays) -> tuple[mx.array, LayerArrays]:
        """The layer where kernels know attention only: h [T, N, D] -> [T, N, D]."""
        x, mix = hc_pre(h, site(self, "attn"), self._config)
        inner, held = self.attn.step(self.attn_norm(x), shared, held)
        h = hc_post(self.attn.wo_b(inner), h, mix)
        x, mix = hc_pre(h, site(self, "ffn"), self._config)
        return hc_post(self.ffn(self.ffn_norm(x), shared.ids), h, mix), held


class BlockStack:
    """Blocks one after the other: by plain operations or, on a GPU, by kernels. For few tokens in a compiled function.

    MLX compiles it again where shapes are new: when the numbers of sequences or tokens are, when the pool has grown,
    and for calls that complete entries. What modules hold is taken as it is then, so weights come before calls. Calls
    of many tokens are of all shapes, and building their graph is a small part of them.
    """

    def __init__(self, blocks: Sequence[Block], config: ModelConfig, plain: Rope, yarn: Rope) -> None:
        self._blocks, self._config, self._plain, self._yarn = blocks, config, plain, yarn

        # Not a method: nothing that is compiled refers to this object, so both go when their owner does.
        def steps(
            h: mx.array, shared: StepArrays, layers: Sequence[LayerArrays], last: HyperConnectionWeights
        ) -> tuple[mx.array, list[LayerArrays]]:
            return _steps(blocks, h, shared, layers, last)

        self._steps = mx.compile(steps)

    def __call__(
        self, h: mx.array, batch: Batch, last: HyperConnectionWeights, after: AfterLayer | None = None
    ) -> mx.array:
        """h [T, N, D] through all blocks; `last` is the site after them. The sequences of the batch remember it.

        What `after` may change is between two layers: there the kernels, which join a layer's end with the next one's
        beginning, cannot be used.
        """
        if after is not None or not is_step(batch, self._config):
            for layer, block in enumerate(self._blocks):
                h = block(h, batch, layer)
                h = h if after is None else after(layer, h)
            return h
        step = Step.of(batch, self._config, self._plain, self._yarn)
        if len(batch.positions) <= MOST_TOKENS:
            h, layers = self._steps(h, step.arrays, step.layers, last)
        else:
            h, layers = _steps(self._blocks, h, step.arrays, step.layers, last)
        step.keep(batch, layers)
        return h


def _steps(
    blocks: Sequence[Block],
    h: mx.array,
    shared: StepArrays,
    layers: Sequence[LayerArrays],
    last: HyperConnectionWeights,
) -> tuple[mx.array, list[LayerArrays]]:
    """A function of arrays alone: streams h [T, N, D], and what the layers hold, before and after."""
    after = []
    few = h.shape[0] <= MOST_TOKENS
    if not few or not all(block.has_step() for block in blocks):
        for block, before in zip(blocks, layers, strict=True):
            h, held = (block.attention_step if few else block.many)(h, shared, before)
            after.append(held)
        return h, after
    sites = [site(block, "attn") for block in blocks]
    streams = streams_for(h, sites[0])
    for block, before, following in zip(blocks, layers, [*sites[1:], last], strict=True):
        streams, held = block.step(streams, shared, before, following)
        after.append(held)
    return streams.h, after


def output_rows(h: mx.array, weights: HyperConnectionWeights, norm: RMSNorm, config: ModelConfig) -> mx.array:
    """Last streams [T, N, D] -> what the output matrix takes [T, D]."""
    if few_by_kernels(h[:, 0]) and fits(config.hc_mult):
        return leave(streams_for(h, weights), weights, norm, config)
    return norm(hc_head(h, weights, config))


class MTPBlock(Block):
    """Predicts token p + 2 from the last streams at p and the id of token p + 1; a ratio-0 block, never hash routed.

    Shares embedding and output matrix with the main model; has its own final collapse and norm.
    """

    def __init__(self, config: ModelConfig, numerics: Numerics, rope: Rope) -> None:
        super().__init__(config, numerics, 0, rope, hashed=False)
        width, eps = config.hidden_size, config.rms_norm_eps
        self.e_proj = QuantizedLinear(width, width, numerics)
        self.h_proj = QuantizedLinear(width, width, numerics)
        self.enorm = RMSNorm(width, eps)
        self.hnorm = RMSNorm(width, eps)
        self.norm = RMSNorm(width, eps)
        add_head_site(self, config)

    def combine(self, h: mx.array, embedded: mx.array) -> mx.array:
        """Streams h [T, N, D] before hc_head and embedded [T, D] of token p + 1 -> the block's input [T, N, D]."""
        return self.h_proj(self.hnorm(h)) + self.e_proj(self.enorm(embedded))[:, None]


class Transformer(nn.Module):
    """DeepSeek V4 from token ids to logits."""

    def __init__(self, config: ModelConfig, numerics: Numerics | None = None) -> None:
        super().__init__()
        numerics = numerics or Numerics()
        self._config, self._numerics = config, numerics
        plain, yarn = Rope.for_layer(config, 0), Rope.for_layer(config, 4)
        self.embed = Weight(config.vocab_size, config.hidden_size)
        self.head = LinearFloat32(config.hidden_size, config.vocab_size)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        add_head_site(self, config)
        self.layers = [
            Block(config, numerics, ratio, yarn if ratio else plain, hashed=config.is_hash_layer(layer))
            for layer, ratio in enumerate(config.compress_ratios[: config.num_hidden_layers])
        ]
        if config.dspark is None and config.num_nextn_predict_layers:
            self.mtp = [MTPBlock(config, numerics, plain) for _ in range(config.num_nextn_predict_layers)]
            self._mtp_stacks = [BlockStack([block], config, plain, yarn) for block in self.mtp]
        self._stack = BlockStack(self.layers, config, plain, yarn)

    def embedding(self, ids: mx.array) -> mx.array:
        """ids [T] -> [T, D] in the activations' dtype."""
        return self.embed.weight[ids].astype(self._numerics.dtype)

    def __call__(self, batch: Batch, after: AfterLayer | None = None) -> mx.array:
        """Runs the flat tokens through all layers -> the last streams [T, N, D]. Advances every span's sequence.

        after: sees, and may change, the streams behind every layer.
        """
        x = self.embedding(batch.ids)
        h = mx.repeat(x[:, None], self._config.hc_mult, axis=1)
        h = self._stack(h, batch, head_site(self), after)
        batch.advance()
        return h

    def logits(self, h: mx.array) -> mx.array:
        """Last streams [T, N, D] -> float32 logits of the next token [T, vocab]."""
        return self.head(output_rows(h, head_site(self), self.norm, self._config))

    def mtp_forward(self, h: mx.array, batch: Batch, block: int = 0) -> mx.array:
        """MTP block `block` over last streams h [T, N, D]; `batch` holds the ids of the next tokens -> streams."""
        mtp = self.mtp[block]
        streams = self._mtp_stacks[block](mtp.combine(h, self.embedding(batch.ids)), batch, head_site(mtp))
        batch.advance()
        return streams

    def mtp_head(self, streams: mx.array, block: int = 0) -> mx.array:
        """What `mtp_forward` returned -> float32 logits of the token after next [T, vocab]."""
        mtp = self.mtp[block]
        return self.head(output_rows(streams, head_site(mtp), mtp.norm, self._config))
