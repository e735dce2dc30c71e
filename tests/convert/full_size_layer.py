"""Measures the converter on one layer of the real size. Not part of the test run.

    .venv/bin/python tests/convert/full_size_layer.py exact|q2|gguf [--dir DIR] [--imatrix] [--experts N]

exact: a released checkpoint of one layer (4096 wide, 256 experts, ratio 4 with indexer, routed by token id; vocabulary
cut to 1,024) with random bytes is converted, and every tensor compared. q2: its experts are quantised. gguf: a GGUF of
such a layer is converted, exported again and compared. The conversion runs in a process of its own; everything is
removed afterwards. Takes up to 8 GB of disk. Files are dropped from the page cache before they are read, where the
system allows that.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ds4_convert import convert
from ds4_convert.gguf.export import export_gguf
from ds4_convert.memory import peak_memory
from ds4_convert.restore import differing_tensors
from ds4_convert.units import duration, size
from ds4_mlx.checkpoint import open_checkpoint

sys.path.insert(0, str(Path(__file__).parents[1]))

from checkpoint import imatrix_file, random_gguf, random_released

RELEASED_BYTES = 159_609_485_896  # DeepSeek-V4-Flash, spec 12
GGUF_BYTES = 86_720_105_760  # ds4's q2 file
LAYERS, EXPERTS = 43, 256
CONFIG = random_released.small_config(
    **{
        **random_released.FLASH,
        "vocab_size": 1024,
        "num_hidden_layers": 1,
        "num_hash_layers": 1,
        "compress_ratios": [4],
    },
    num_nextn_predict_layers=0,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("exact", "q2", "gguf"))
    parser.add_argument("--dir", type=Path, help="where to put the files (default: the system's temporary folder)")
    parser.add_argument("--imatrix", action="store_true", help="quantise with one")
    parser.add_argument("--experts", type=int, default=EXPERTS, help="fewer for q2 on a slow machine; projected to all")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(json.loads(options.child))))
        return
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        run(options, Path(folder))


def run(options: argparse.Namespace, folder: Path) -> None:
    """Writes the source, converts it, compares and prints."""
    source, destination = folder / ("layer.gguf" if options.what == "gguf" else "layer"), folder / "converted"
    arguments: dict[str, Any] = {"source": str(source), "destination": str(destination)}
    if options.what == "gguf":
        random_gguf.write(source, sizes=random_gguf.FULL_LAYER)
    else:
        random_released.write(source, {**CONFIG, "n_routed_experts": options.experts})
        (source / "tokenizer.json").write_text("{}")  # the converter only copies it
        arguments["profile"] = options.what
    if options.imatrix:
        arguments["imatrix"] = str(
            imatrix_file.write(folder / "layer.dat", imatrix_file.for_experts(1, options.experts, 4096, 2048))
        )
    raw_rate = write_rate(folder / "bytes", 1 << 30)
    forget(source)
    command = [sys.executable, __file__, options.what, "--child", json.dumps(arguments)]
    measured = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    report(options.what, measured, raw_rate, options.experts)
    forget(destination)
    compare(options.what, source, destination)


def measure(arguments: dict[str, Any]) -> dict[str, float]:
    """The conversion, in a process of its own."""
    before, start, cpu = peak_memory(), time.monotonic(), time.process_time()
    outcome = convert(**arguments)
    outputs = outcome.plan.recipe.outputs
    return {
        "seconds": time.monotonic() - start,
        "cpu_seconds": time.process_time() - cpu,
        "peak_before": before,
        "peak": peak_memory(),
        "bytes_read": outcome.plan.recipe.source_bytes,
        "bytes_written": sum(output.nbytes for output in outputs),
        "expert_weights": sum(output.weights for output in outputs if ".ffn.experts." in output.name),
    }


def report(what: str, measured: dict[str, float], raw_rate: float, experts: int) -> None:
    seconds, rate = measured["seconds"], measured["bytes_read"] / measured["seconds"]
    if what == "q2":
        projected = f"{LAYERS} layers of {EXPERTS} experts", LAYERS * seconds * EXPERTS / experts
    else:
        whole = GGUF_BYTES if what == "gguf" else RELEASED_BYTES
        projected = size(whole), whole / rate
    table = Table("one full-size layer", what)
    for label, value in {
        "read": size(measured["bytes_read"]),
        "written": size(measured["bytes_written"]),
        "seconds": f"{seconds:.1f}",
        "rate of reading": f"{size(rate)}/s",
        "expert weights a second": f"{measured['expert_weights'] / seconds / 1e6:.2f} M",
        "processor seconds": f"{measured['cpu_seconds']:.1f}",
        "memory with everything imported": size(measured["peak_before"]),
        "peak memory (RSS)": size(measured["peak"]),
        "this disk, random bytes written and synced": f"{size(raw_rate)}/s",
        f"projected for {projected[0]}": duration(projected[1]),
    }.items():
        table.add_row(label, value)
    Console().print(table)


def compare(what: str, source: Path, destination: Path) -> None:
    """Whether the source comes back bit for bit; for q2, what the experts lost."""
    if what == "exact":
        differing = differing_tensors(open_checkpoint(source), open_checkpoint(destination))
        print(f"{len(differing)} tensors do not come back bit for bit")
    elif what == "gguf":
        back = source.with_name("back.gguf")
        outcome = export_gguf(destination, back)
        same = filecmp.cmp(source, back, shallow=False)
        rate = size(outcome.nbytes / outcome.seconds)
        print(f"exported in {outcome.seconds:.1f} s ({rate}/s), {'byte for byte the same' if same else 'NOT THE SAME'}")
    else:
        print(json.dumps(open_checkpoint(destination).own["losses"], indent=1))


def write_rate(path: Path, nbytes: int) -> float:
    """Bytes per second of writing random bytes and syncing them."""
    piece = os.urandom(16 << 20)
    start = time.monotonic()
    with path.open("wb") as file:
        for _ in range(nbytes // len(piece)):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    rate = nbytes / (time.monotonic() - start)
    path.unlink()
    return rate


def forget(path: Path) -> None:
    """Drops files from the page cache, so that they are read from the disk."""
    if hasattr(os, "posix_fadvise"):
        for file in [path] if path.is_file() else path.iterdir():
            with file.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
