"""The network that ds4-tiny is trained with against DeepSeek's own numbers: float32, main model and MTP block.

    python tests/oracles/training_network.py

A script and no pytest module, because it needs torch (README.md beside this file). It loads the golden checkpoint into
`examples/train_tiny/network.py`, runs the golden tokens in one row, and ends with status 1 beyond the bound. What the
exporter writes for the dequantised weights must stand for the same values again; that is checked as well.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS.parent / "examples" / "train_tiny"))

import export  # noqa: E402 - the folder is no package
from attention import CHOSEN, Mode  # noqa: E402
from network import Network  # noqa: E402
from released import dequantised, masters, read  # noqa: E402

from ds4_mlx.config import ModelConfig  # noqa: E402

CHECKPOINT = TESTS / "golden" / "checkpoint"
BOUND = 1e-4  # of a logit, as the golden set requires of us; measured 9e-6


def main() -> int:
    sizes = ModelConfig.from_file(CHECKPOINT / "config.json")
    tensors = read(CHECKPOINT)
    weights = masters(tensors, sizes)
    with np.load(TESTS / "golden" / "logits.npz") as file:
        golden = dict(file)
    ids = torch.from_numpy(golden["tokens"].astype(np.int64))[None]
    with torch.no_grad():
        out = Network(sizes, compiled=False)(weights, ids, Mode(torch.tensor(CHOSEN), simulate=False), ids.roll(-1, 1))
    main_error = np.abs(out.logits[0].numpy() - golden["prefill_fp32_plain"]).max()
    mtp_error = np.abs(out.mtp[0].numpy()[golden["mtp_rows"]] - golden["mtp_fp32_plain"]).max()
    print(f"largest difference of a logit: main model {main_error:.1e}, MTP {mtp_error:.1e}")

    again = export.released(weights)
    matrices = [name.removesuffix(".weight") for name in again if name.removesuffix("weight") + "scale" in again]
    differing = [name for name in matrices if not torch.equal(dequantised(again, name), dequantised(tensors, name))]
    print(f"{len(matrices)} matrices exported again, {len(differing)} with other values {differing[:3]}")
    return int(not (main_error <= BOUND and mtp_error <= BOUND and not differing))


if __name__ == "__main__":
    raise SystemExit(main())
