"""The whole network: embedding, blocks over four streams, head (spec 2, 10), with the MTP block beside it (spec 11)."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from ds4_mlx.config import ModelConfig
from ds4_mlx.model.attention import Attention
from ds4_mlx.model.batch import Batch
from ds4_mlx.model.hyper_connections import add_head_site, add_site, hc_head, hc_post, hc_pre, head_site, site
from ds4_mlx.model.linear import LinearFloat32, Numerics, QuantizedLinear, RMSNorm, Weight
from ds4_mlx.model.moe import MoE
from ds4_mlx.model.rope import Rope


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

    def embedding(self, ids: mx.array) -> mx.array:
        """ids [T] -> [T, D] in the activations' dtype."""
        return self.embed.weight[ids].astype(self._numerics.dtype)

    def __call__(self, batch: Batch) -> mx.array:
        """Runs the flat tokens through all layers -> the last streams [T, N, D]. Advances every span's sequence."""
        x = self.embedding(batch.ids)
        h = mx.repeat(x[:, None], self._config.hc_mult, axis=1)
        for layer, block in enumerate(self.layers):
            h = block(h, batch, layer)
        batch.advance()
        return h

    def logits(self, h: mx.array) -> mx.array:
        """Last streams [T, N, D] -> float32 logits of the next token [T, vocab]."""
        return self.head(self.norm(hc_head(h, head_site(self), self._config)))

    def mtp_forward(self, h: mx.array, batch: Batch, block: int = 0) -> mx.array:
        """MTP block `block` over last streams h [T, N, D]; `batch` holds the ids of the next tokens -> streams."""
        mtp = self.mtp[block]
        streams = mtp(mtp.combine(h, self.embedding(batch.ids)), batch, 0)
        batch.advance()
        return streams

    def mtp_head(self, streams: mx.array, block: int = 0) -> mx.array:
        """What `mtp_forward` returned -> float32 logits of the token after next [T, vocab]."""
        mtp = self.mtp[block]
        return self.head(mtp.norm(hc_head(streams, head_site(mtp), self._config)))
