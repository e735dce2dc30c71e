"""Writes the trained masters as a checkpoint in DeepSeek's released format: shards, index, config, tokenizer (spec 12).

python export.py --run build/run --out build/ds4-tiny
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from model_config import CONFIG
from rounding import fp4_codes, fp8_weight_codes
from safetensors.torch import save_file
from torch import Tensor
from weights import is_float32, is_fp4, is_fp8

HERE = Path(__file__).parent
_GRID = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
SHARDS = 3


def e8m0(scale: Tensor) -> Tensor:
    """Powers of two, float32 -> their exponent bytes as the format's own dtype."""
    return (scale.view(torch.int32) >> 23).to(torch.uint8).view(torch.float8_e8m0fnu)


def fp4_tensors(name: str, w: Tensor) -> dict[str, Tensor]:
    """An expert's matrix [out, in] -> two codes a byte, the earlier one in the low half, and a scale per 32."""
    values, scale = fp4_codes(w)
    magnitude = torch.searchsorted(_GRID, values.abs().flatten(-2))
    codes = (magnitude + 8 * (values.flatten(-2) < 0)).to(torch.uint8)
    packed = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return {f"{name}.weight": packed.view(torch.int8), f"{name}.scale": e8m0(scale.squeeze(-1))}


def fp8_tensors(name: str, w: Tensor) -> dict[str, Tensor]:
    """A dense matrix -> e4m3 codes and a scale per 128 x 128."""
    values, scale = fp8_weight_codes(w)
    return {f"{name}.weight": values, f"{name}.scale": e8m0(scale)}


def released(masters: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the checkpoint under their released names."""
    out: dict[str, Tensor] = {}
    for name, w in masters.items():
        if is_fp4(name):
            layer, matrix = name.rsplit(".", 1)
            for expert, own in enumerate(w):
                out |= fp4_tensors(f"{layer}.{expert}.{matrix}", own)
        elif is_fp8(name):
            out |= fp8_tensors(name.removesuffix(".weight"), w)
        elif not w.is_floating_point() or is_float32(name):
            out[name] = w
        else:
            out[name] = w.bfloat16()
    return {name: tensor.contiguous() for name, tensor in out.items()}


def shards(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Split in order of names into parts of about the same size."""
    size = sum(t.nbytes for t in tensors.values()) / SHARDS
    parts: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name in sorted(tensors):
        if filled >= size * len(parts) and len(parts) < SHARDS:
            parts.append({})
        parts[-1][name] = tensors[name]
        filled += tensors[name].nbytes
    return parts


def write(masters: dict[str, Tensor], tokenizer: Path, folder: Path) -> None:
    """The whole checkpoint folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = released(masters)
    names: dict[str, str] = {}
    parts = shards(tensors)
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        save_file(part, folder / file)
        names |= dict.fromkeys(part, file)
    index = {
        "metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
        "weight_map": dict(sorted(names.items())),
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / file, folder / file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=HERE / "build" / "run", help="the run's folder")
    parser.add_argument("--build", type=Path, default=HERE / "build", help="folder with tokenizer/")
    parser.add_argument("--out", type=Path, default=HERE / "build" / "ds4-tiny")
    options = parser.parse_args()
    state = torch.load(options.run / "state.pt", map_location="cpu")
    write(state["masters"], options.build / "tokenizer", options.out)
    print(f"step {state['step']} written to {options.out}")


if __name__ == "__main__":
    main()
