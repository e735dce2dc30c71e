"""IQ2_XXS: groups of 8 weights from a table of 256 shapes, with signs and a 4-bit scale; 2.0625 bits per weight.

reference: ggml block_iq2_xxs (ggml-common.h) and dequantize_row_iq2_xxs (ggml-quants.c).
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ds4_mlx.quant.base import Format, Part

# ggml's iq2xxs_grid, the 256 groups of 8 magnitudes that its author chose; every file in this format depends on them.
# One group per number in ggml's order, value j in bits 2j and 2j + 1: 0, 1, 2 stand for 8, 25, 43.
_GRID = """
    0000 0002 0005 0008 000a 0011 0014 0020 0022 0028 002a 0041 0044 0050 0058 0061
    0064 0080 0082 008a 00a2 0101 0104 0110 0115 0140 0184 0198 0200 0202 0222 0282
    0401 0404 0410 0421 0424 0440 0442 0448 0460 0481 0484 0490 04a4 0500 0502 0508
    0520 0546 0569 0580 0591 0609 0610 0640 0684 06a4 0800 0805 0808 0814 0828 0841
    0844 0850 0852 0888 0904 0940 0a02 0a14 1001 1004 1010 1021 1040 1060 1084 1090
    1095 1100 1108 1120 1150 115a 1180 1224 1245 1400 1408 1420 1425 1449 1480 1518
    1562 1600 1616 1801 1804 1810 1840 1881 1900 1905 19a0 1a51 2000 2002 200a 2044
    2061 2080 2082 2129 2148 2200 2202 2401 2404 2410 2440 2456 2500 2541 2564 2690
    2808 2820 2894 2a44 4001 4004 4010 4018 4021 4024 4040 4048 4056 4060 4081 4084
    4090 4100 4120 4161 4180 4185 4201 4210 4248 4256 4268 4400 4408 4420 4480 4499
    4512 4524 4600 4801 4804 4810 4840 4845 4900 4958 4961 4982 4a45 4a90 5000 5008
    5011 5019 5020 5080 5088 5104 5142 51a4 5291 5490 5492 550a 5601 5654 5800 5811
    5819 5864 5940 5a08 6004 6010 6040 6068 6100 6155 6218 6260 6400 6405 6510 6512
    6584 6842 8000 8002 800a 8041 8082 8104 8118 8140 8211 8401 8404 8410 8415 8440
    8460 8500 8546 8594 8609 8640 8660 8802 8904 8a11 9004 9010 9024 9040 90a1 9116
    9180 9245 9400 9422 9444 9551 9881 9920 a002 a050 a085 a109 a200 a418 a850 a904
"""


def _grid() -> np.ndarray:
    """The table as float32 [256, 8]."""
    groups = np.array([int(group, 16) for group in _GRID.split()], np.uint16)
    return np.array([8, 25, 43], np.float32)[(groups[:, None] >> np.arange(0, 16, 2, dtype=np.uint16)) & 3]


def _signs() -> np.ndarray:
    """The signs of 8 weights by their 7-bit index, float32 [128, 8]: a set bit is a minus.

    The eighth bit is not stored: it is the parity of the seven, so that a group has an even number of minuses.
    """
    bits = (np.arange(128)[:, None] >> np.arange(7)) & 1
    bits = np.concatenate([bits, bits.sum(1, keepdims=True) & 1], axis=1)
    return (1 - 2 * bits).astype(np.float32)


GRID = _grid()
SIGNS = _signs()


class IQ2XXS(Format):
    """value = d * (0.5 + scale) / 4 * magnitude * sign, blocks of 256 weights in 8 runs of 4 groups of 8.

    qs: uint32 [..., out, in / 32, 2], one pair per run: four 8-bit numbers of groups in `GRID`, 8k bits up; then four
        7-bit numbers of rows of `SIGNS`, 7k bits up, under the run's 4-bit scale. GGUF's own 64 bytes, aligned.
    d: float16 [..., out, in / 256].
    """

    name = "iq2_xxs"
    bits = 2
    block = 256
    parts = (Part("qs", "U32", 8, (2,)), Part("d", "F16", 1))
    gguf_block = np.dtype([("d", "<f2"), ("qs", "<u4", (8, 2))])

    def _decode(self, arrays: Sequence[mx.array], dtype: mx.Dtype) -> mx.array:
        qs, d = arrays
        qs = mx.unflatten(qs, -2, (-1, 8))  # [..., in / 256, 8 runs, 2]
        groups = (qs[..., 0, None] >> mx.array([0, 8, 16, 24], dtype=mx.uint32)) & 0xFF
        signs = (qs[..., 1, None] >> mx.array([0, 7, 14, 21], dtype=mx.uint32)) & 0x7F
        steps = 0.5 + (qs[..., 1] >> 28).astype(mx.float32)
        scale = d[..., None].astype(mx.float32) * steps * 0.25
        # All products are exact in float32 (11 + 5 + 6 bits): a kernel may take them in any order.
        values = scale[..., None, None] * mx.array(GRID)[groups] * mx.array(SIGNS)[signs]
        return values.flatten(-4).astype(dtype)

    def _from_blocks(self, blocks: np.ndarray) -> Sequence[np.ndarray]:
        return blocks["qs"], blocks["d"]

    def _to_blocks(self, arrays: Sequence[np.ndarray], blocks: np.ndarray) -> None:
        blocks["qs"], blocks["d"] = arrays
