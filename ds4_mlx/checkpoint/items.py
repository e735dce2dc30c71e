"""The model's matrices and vectors, however a folder stores them.

An item is what the model computes with: all routed experts of a layer are one, an FP8 matrix and its scales are one.
It may be stored in a quantised format, as one array per part (`layers.0.attn.wq_a.weight`,
`layers.0.attn.wq_a.scales`), or plainly, as one tensor of some dtype under the name it has in the released checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ds4_mlx.checkpoint.layout import BF16, F16, F32, FP8, I32, I64, SCALE, Expected, official_tensors
from ds4_mlx.config import ModelConfig
from ds4_mlx.errors import UserError
from ds4_mlx.quant.formats import FORMATS, get_format

_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(w[123])\.weight$")
_FLOATS = (BF16, F16, F32)


class Item(NamedTuple):
    """One matrix or vector.

    `tensor` is the name it is stored under when it is stored plainly. `released` is how the released checkpoint stores
    it, in our terms: a format's name or a dtype. `sources` are the released tensors that hold it, their `.weight` and
    `.scale` left off if they have both; all experts in order.
    """

    name: str
    tensor: str
    shape: tuple[int, ...]  # [out, in], [experts, out, in] or [n]
    released: str
    sources: tuple[str, ...]

    @property
    def is_matrix(self) -> bool:
        """Whether a quantised format may hold it: a weight that inputs are multiplied with."""
        return len(self.shape) > 1 and self.tensor.endswith(".weight")

    def arrays(self, storage: str) -> list[Expected]:
        """The arrays that hold the item when it is stored as `storage`, a format's name or a dtype.

        Raises `UserError` when it cannot be stored so.
        """
        if storage in FORMATS and self.is_matrix:
            try:
                parts = get_format(storage).array_shapes(self.shape)
            except UserError as error:
                raise UserError(f"{self.name} cannot be stored as {storage}: {error}") from None
            return [Expected(f"{self.name}.{part}", shape, dtype) for part, (shape, dtype) in parts.items()]
        if storage in ((I32,) if self.released == I32 else _FLOATS):
            return [Expected(self.tensor, self.shape, storage)]
        raise UserError(f"{self.name} {list(self.shape)} cannot be stored as {storage!r}.")


def model_items(config: ModelConfig, dspark_stages: int = 0) -> list[Item]:
    """Every item of a model, in the order of the released checkpoint."""
    items = []
    for e in official_tensors(config, dspark_stages):
        if e.dtype == SCALE:
            continue
        expert = _EXPERT.match(e.name)
        if expert is None:
            items.append(_single(e))
        elif expert[2] == "0":
            stack, matrix, count = expert[1], expert[3], config.n_routed_experts
            name, shape = f"{stack}.{matrix}", (count, e.shape[0], e.shape[1] * 2)
            sources = tuple(f"{stack}.{number}.{matrix}" for number in range(count))
            items.append(Item(name, name + ".weight", shape, "mxfp4", sources))
    return items


def _single(e: Expected) -> Item:
    name = e.name.removesuffix(".weight")
    if e.dtype == FP8:
        return Item(name, e.name, e.shape, "mxfp8", (name,))
    return Item(name, e.name, e.shape, I32 if e.dtype == I64 else e.dtype, (e.name,))


def in_layers(items: Iterable[Item], layers: tuple[int, int]) -> list[Item]:
    """The items of the layers from the first to the second number, both included; nothing from outside the layers."""
    numbered = ((item, re.match(r"layers\.(\d+)\.", item.name)) for item in items)
    return [item for item, match in numbered if match and layers[0] <= int(match[1]) <= layers[1]]
