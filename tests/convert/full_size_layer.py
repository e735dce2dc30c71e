"""Measures the converter on one layer of the real size: round trip, peak memory, rate. Not part of the test run.

    .venv/bin/python tests/convert/full_size_layer.py [--dir DIR]

Writes a released checkpoint of one layer (4096 wide, 256 experts, ratio 4 with indexer, routed by token id; vocabulary
cut to 1,024) with random bytes, converts it in a process of its own, compares every tensor, and removes it all. Takes
about 8 GB of disk. Both files are dropped from the page cache before they are read, where the system allows that.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ds4_convert import convert
from ds4_convert.restore import differing_tensors
from ds4_convert.units import duration, size
from ds4_mlx.checkpoint import open_checkpoint
from ds4_mlx.checkpoint.layout import BF16, F32, FP8, I64, SCALE, Expected, official_tensors
from ds4_mlx.checkpoint.safetensors_file import header_bytes
from ds4_mlx.config import ModelConfig

RELEASED_BYTES = 159_609_485_896  # DeepSeek-V4-Flash, spec 12
CONFIG = {
    "model_type": "deepseek_v4",
    "vocab_size": 1024,
    "hidden_size": 4096,
    "num_hidden_layers": 1,
    "num_attention_heads": 64,
    "num_key_value_heads": 1,
    "head_dim": 512,
    "qk_rope_head_dim": 64,
    "q_lora_rank": 1024,
    "o_lora_rank": 1024,
    "o_groups": 8,
    "sliding_window": 128,
    "index_n_heads": 64,
    "index_head_dim": 128,
    "index_topk": 512,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 6,
    "moe_intermediate_size": 2048,
    "num_hash_layers": 1,
    "num_nextn_predict_layers": 0,
    "routed_scaling_factor": 1.5,
    "swiglu_limit": 10.0,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "hc_eps": 1e-6,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "compress_rope_theta": 160000,
    "max_position_embeddings": 1048576,
    "compress_ratios": [4],
    "bos_token_id": 0,
    "eos_token_id": 1,
    "rope_scaling": {
        "type": "yarn",
        "factor": 16,
        "original_max_position_embeddings": 65536,
        "beta_fast": 32,
        "beta_slow": 1,
    },
    "quantization_config": {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "scale_fmt": "ue8m0",
        "weight_block_size": [128, 128],
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dir", type=Path, help="where to put the 8 GB (default: the system's temporary folder)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure(*options.child)
        return
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        run(Path(folder))


def run(folder: Path) -> None:
    """Writes, converts, compares and prints."""
    source, destination = folder / "released", folder / "converted"
    raw_rate = write_checkpoint(source)
    forget(source)
    command = [sys.executable, __file__, "--child", str(source), str(destination)]
    measured = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    forget(destination)
    official, converted = open_checkpoint(source), open_checkpoint(destination)
    differing = differing_tensors(official, converted)
    rate = official.nbytes / measured["seconds"]
    table = Table("one full-size layer", "", show_header=False)
    table.add_row("released", f"{len(official.tensors):,} tensors, {size(official.nbytes)}")
    table.add_row("converted", f"{len(converted.tensors):,} tensors, {size(converted.nbytes)}")
    table.add_row("tensors that come back bit for bit", f"{len(official.tensors) - len(differing):,}")
    table.add_row("tensors that do not", f"{len(differing)}")
    table.add_row("seconds", f"{measured['seconds']:.1f}")
    table.add_row("rate", f"{size(rate)}/s")
    table.add_row("this disk, random bytes written and synced", f"{size(raw_rate)}/s")
    table.add_row("processor seconds", f"{measured['cpu_seconds']:.1f}")
    table.add_row("memory with everything imported", f"{size(measured['peak_before'])}")
    table.add_row("peak memory (RSS)", f"{size(measured['peak'])}")
    table.add_row(f"projected for {size(RELEASED_BYTES)}", duration(RELEASED_BYTES / rate))
    Console().print(table)
    if differing:
        raise SystemExit(f"not bit-exact: {', '.join(differing[:5])}")


def measure(source: str, destination: str) -> None:
    """The conversion, in a process of its own; prints JSON."""
    before, start, cpu = peak_memory(), time.monotonic(), time.process_time()
    convert(source, destination)
    result = {
        "seconds": time.monotonic() - start,
        "cpu_seconds": time.process_time() - cpu,
        "peak_before": before,
        "peak": peak_memory(),
    }
    print(json.dumps(result))


def peak_memory() -> int:
    """Highest RSS of this process so far, bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage there also counts the parent before exec
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def write_checkpoint(folder: Path) -> float:
    """A released checkpoint of one layer. Returns bytes per second of writing the bytes and syncing them."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")  # the converter only copies it
    expected = list(official_tensors(ModelConfig.from_dict(CONFIG)))
    random = np.random.default_rng(0)
    busy, written = 0.0, 0
    weight_map = {}
    groups = ([e for e in expected if not e.name.startswith("layers.")], [e for e in expected if "layers." in e.name])
    for number, group in enumerate(groups, start=1):
        name = f"model-{number:05d}-of-00002.safetensors"
        weight_map |= dict.fromkeys((e.name for e in group), name)
        with (folder / name).open("wb") as file:
            file.write(header_bytes([(e.name, e.dtype, e.shape) for e in group], {}))
            for entry in group:
                data = sound_values(entry, random).data
                start = time.monotonic()
                file.write(data)
                busy, written = busy + time.monotonic() - start, written + data.nbytes
            start = time.monotonic()
            file.flush()
            os.fsync(file.fileno())
            busy += time.monotonic() - start
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return written / busy


def sound_values(entry: Expected, random: np.random.Generator) -> np.ndarray:
    """Random values of a released tensor, none of them NaN or infinite."""
    if entry.dtype == SCALE:
        return random.integers(100, 140, entry.shape, np.uint8)
    if entry.dtype == I64:
        return random.integers(0, CONFIG["n_routed_experts"], entry.shape, np.int64)
    if entry.dtype == F32:
        return random.standard_normal(entry.shape, np.float32)
    if entry.dtype == BF16:
        return (random.standard_normal(entry.shape, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    codes = random.integers(0, 256, entry.shape, np.uint8)
    return np.where(codes & 0x7F == 0x7F, 0, codes).astype(np.uint8) if entry.dtype == FP8 else codes


def forget(folder: Path) -> None:
    """Drops the folder's files from the page cache, so that they are read from the disk."""
    if hasattr(os, "posix_fadvise"):
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
