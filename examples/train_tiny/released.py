"""Reads a checkpoint in DeepSeek's released format back into masters: to go on from it, or to check the exporter."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ds4_mlx.config import ModelConfig

_FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def read(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's shards."""
    tensors: dict[str, Tensor] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(shard)
    return tensors


def dequantised(tensors: dict[str, Tensor], name: str) -> Tensor:
    """One FP4 or FP8 matrix in float32."""
    codes, scale = tensors[f"{name}.weight"], tensors[f"{name}.scale"].float()
    if codes.dtype == torch.int8:
        byte = codes.view(torch.uint8)
        return _FP4[torch.stack([byte & 15, byte >> 4], -1).flatten(-2).long()] * scale.repeat_interleave(32, -1)
    spread = scale.repeat_interleave(128, 0)[: codes.shape[0]].repeat_interleave(128, 1)[:, : codes.shape[1]]
    return codes.float() * spread


def masters(tensors: dict[str, Tensor], sizes: ModelConfig) -> dict[str, Tensor]:
    """The checkpoint as the trainer holds it: float32 (routes int64), experts stacked."""
    out = {}
    for name, tensor in tensors.items():
        if ".ffn.experts." in name:
            layer, _, rest = name.partition(".ffn.experts.")
            expert, matrix, _ = rest.split(".")
            if expert == "0" and name.endswith(".weight"):
                names = [f"{layer}.ffn.experts.{e}.{matrix}" for e in range(sizes.n_routed_experts)]
                out[f"{layer}.ffn.experts.{matrix}"] = torch.stack([dequantised(tensors, n) for n in names])
        elif name.endswith(".weight") and name.removesuffix("weight") + "scale" in tensors:
            out[name] = dequantised(tensors, name.removesuffix(".weight"))
        elif not (name.endswith(".scale") and name.removesuffix("scale") + "weight" in tensors):
            out[name] = tensor.float() if tensor.is_floating_point() else tensor
    return out
