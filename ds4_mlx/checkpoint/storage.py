"""How a folder stores each item: a format or a dtype by name, as config.json records it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ds4_mlx.checkpoint.items import Item
from ds4_mlx.errors import UserError

_BLOCK_NUMBER = re.compile(r"^(layers|mtp)\.\d+\.")


def any_layer(name: str) -> str:
    """The name with its block's number left open: layers.3.attn.wq_a -> layers.*.attn.wq_a."""
    return _BLOCK_NUMBER.sub(r"\1.*.", name)


class Storage:
    """The storage of every item.

    Recorded as a table of names: layers.*.attn.wq_a speaks for all layers, layers.3.attn.wq_a for one and goes before.
    """

    def __init__(self, table: Mapping[str, str]) -> None:
        """`table` as config.json holds it."""
        self.table = dict(table)

    @classmethod
    def as_released(cls, items: Iterable[Item]) -> Storage:
        """Every weight as the released checkpoint has it: FP4 as mxfp4, FP8 as mxfp8, the rest in its dtype."""
        return cls.of_each({item.name: item.released for item in items})

    @classmethod
    def of_each(cls, choices: Mapping[str, str]) -> Storage:
        """From the storage of each item by its full name: what most layers have is said once, exceptions one by one."""
        groups: dict[str, list[str]] = {}
        for name in choices:
            groups.setdefault(any_layer(name), []).append(name)
        table = {}
        for group, names in groups.items():
            usual = Counter(choices[name] for name in names).most_common(1)[0][0]
            table[group] = usual
            table |= {name: choices[name] for name in names if choices[name] != usual}
        return cls(table)

    @classmethod
    def from_json(cls, value: Any) -> Storage:
        """From config.json. Raises `UserError` when it is no table of names."""
        if not isinstance(value, dict) or not all(isinstance(entry, str) for entry in value.values()):
            raise UserError("config.json does not say how its tensors are stored (ds4_mlx.formats). Convert again.")
        return cls(value)

    def of(self, name: str) -> str:
        """The storage of an item by its full name, such as layers.3.ffn.experts.w1. Raises `UserError` if unknown."""
        for key in (name, any_layer(name)):
            if key in self.table:
                return self.table[key]
        raise UserError(f"config.json does not say how {name} is stored (ds4_mlx.formats). Convert again.")
