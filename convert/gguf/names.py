"""What ds4's files call the model's matrices and vectors, in the order and the types of its q2 file.

reference: ds4.c (weights_bind, weights_validate_layout) and gguf-tools/deepseek4-quantize.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Row(NamedTuple):
    """A tensor of ds4's files and the item it holds, both without the layer's prefix; how the q2 file stores it."""

    gguf: str
    item: str
    storage: str


_OUTSIDE = tuple(
    Row(*row)
    for row in (
        ("token_embd.weight", "embed", "F16"),
        ("output_hc_base.weight", "hc_head_base", "F32"),
        ("output_hc_fn.weight", "hc_head_fn", "F16"),
        ("output_hc_scale.weight", "hc_head_scale", "F32"),
        ("output_norm.weight", "norm", "F32"),
        ("output.weight", "head", "q8_0"),
    )
)
_IN_LAYER = tuple(
    Row(*row)
    for row in (
        ("hc_attn_fn.weight", "hc_attn_fn", "F16"),
        ("hc_attn_scale.weight", "hc_attn_scale", "F32"),
        ("hc_attn_base.weight", "hc_attn_base", "F32"),
        ("attn_norm.weight", "attn_norm", "F32"),
        ("attn_q_a.weight", "attn.wq_a", "q8_0"),
        ("attn_q_a_norm.weight", "attn.q_norm", "F32"),
        ("attn_q_b.weight", "attn.wq_b", "q8_0"),
        ("attn_kv.weight", "attn.wkv", "q8_0"),
        ("attn_kv_a_norm.weight", "attn.kv_norm", "F32"),
        ("attn_sinks.weight", "attn.attn_sink", "F32"),
        ("attn_output_a.weight", "attn.wo_a", "q8_0"),
        ("attn_output_b.weight", "attn.wo_b", "q8_0"),
        ("attn_compressor_ape.weight", "attn.compressor.ape", "F16"),
        ("attn_compressor_kv.weight", "attn.compressor.wkv", "F16"),
        ("attn_compressor_gate.weight", "attn.compressor.wgate", "F16"),
        ("attn_compressor_norm.weight", "attn.compressor.norm", "F32"),
        ("indexer.attn_q_b.weight", "attn.indexer.wq_b", "F16"),
        ("indexer.proj.weight", "attn.indexer.weights_proj", "F16"),
        ("indexer_compressor_ape.weight", "attn.indexer.compressor.ape", "F16"),
        ("indexer_compressor_kv.weight", "attn.indexer.compressor.wkv", "F16"),
        ("indexer_compressor_gate.weight", "attn.indexer.compressor.wgate", "F16"),
        ("indexer_compressor_norm.weight", "attn.indexer.compressor.norm", "F32"),
        ("hc_ffn_fn.weight", "hc_ffn_fn", "F16"),
        ("hc_ffn_scale.weight", "hc_ffn_scale", "F32"),
        ("hc_ffn_base.weight", "hc_ffn_base", "F32"),
        ("ffn_norm.weight", "ffn_norm", "F32"),
        ("ffn_gate_inp.weight", "ffn.gate", "F16"),
        ("exp_probs_b.bias", "ffn.gate.bias", "F32"),
        ("ffn_gate_exps.weight", "ffn.experts.w1", "iq2_xxs"),
        ("ffn_up_exps.weight", "ffn.experts.w3", "iq2_xxs"),
        ("ffn_down_exps.weight", "ffn.experts.w2", "q2_k"),
        ("ffn_gate_shexp.weight", "ffn.shared_experts.w1", "q8_0"),
        ("ffn_up_shexp.weight", "ffn.shared_experts.w3", "q8_0"),
        ("ffn_down_shexp.weight", "ffn.shared_experts.w2", "q8_0"),
        ("ffn_gate_tid2eid.weight", "ffn.gate.tid2eid", "I32"),
    )
)
_OUTSIDE_LAYERS = {row.gguf: row.item for row in _OUTSIDE}
_IN_A_LAYER = {row.gguf: row.item for row in _IN_LAYER}
_LAYER = re.compile(r"blk\.(0|[1-9]\d*)\.(.+)")


def item_name(tensor: str) -> str:
    """The item a tensor holds: blk.3.attn_q_a.weight -> layers.3.attn.wq_a. An unknown tensor gets a name that no item
    has.
    """
    if (match := _LAYER.fullmatch(tensor)) and match[2] in _IN_A_LAYER:
        return f"layers.{match[1]}.{_IN_A_LAYER[match[2]]}"
    return _OUTSIDE_LAYERS.get(tensor, f"unknown {tensor}")


def in_file_order(items: Iterable[str], layers: int) -> Iterator[Row]:
    """Full names and storages of ds4's q2 file for those of the `items` that it has: all but a drafter's."""
    found = set(items)
    rows = [*_OUTSIDE]
    for layer in range(layers):
        rows += [Row(f"blk.{layer}.{r.gguf}", f"layers.{layer}.{r.item}", r.storage) for r in _IN_LAYER]
    return (row for row in rows if row.item in found)
