"""What a model's bytes are spent on: tensors by the part of the model they belong to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from rich.table import Table

from ds4_convert.steps import Output
from ds4_convert.units import size
from ds4_mlx.checkpoint.storage import Storage

# The first pattern found in a tensor's name decides; a table lists the classes in this order of importance.
_PATTERNS = (
    ("drafter", r"^mtp\."),
    ("routed experts", r"\.ffn\.experts\."),
    ("shared experts", r"\.ffn\.shared_experts\."),
    ("router", r"\.ffn\.gate(\.|$)"),
    ("indexer", r"\.attn\.indexer\."),
    ("compressors", r"\.attn\.compressor\."),
    ("norms", r"(^|[._])norm(\.weight)?$"),
    ("attention", r"\.attn\."),
    ("hyper-connections", r"(^|\.)hc_"),
    ("embedding and head", r"^(embed|head)(\.|$)"),
)
CLASSES = (
    "routed experts",
    "shared experts",
    "attention",
    "compressors",
    "indexer",
    "router",
    "hyper-connections",
    "embedding and head",
    "norms",
    "drafter",
)


class ClassSize(NamedTuple):
    """What one class of tensors takes."""

    tensors: int
    weights: int
    nbytes: int

    @property
    def bits_per_weight(self) -> float:
        """Storage per weight, scales included."""
        return 8 * self.nbytes / self.weights if self.weights else 0.0


def class_of(name: str) -> str:
    """The class of an item, or of a tensor in our format or the released one, by its name."""
    return next(label for label, pattern in _PATTERNS if re.search(pattern, name))


def sizes_by_class(outputs: Iterable[Output]) -> dict[str, ClassSize]:
    """What each class takes; classes the model does not have are left out."""
    found: dict[str, ClassSize] = {}
    for output in outputs:
        label = class_of(output.name)
        tensors, weights, nbytes = found.get(label, ClassSize(0, 0, 0))
        found[label] = ClassSize(tensors + 1, weights + output.weights, nbytes + output.nbytes)
    return {label: found[label] for label in CLASSES if label in found}


def total(classes: dict[str, ClassSize]) -> ClassSize:
    """All classes together."""
    return ClassSize(*(sum(column) for column in zip(*classes.values(), strict=True)))


def formats_by_class(items: Iterable[str], formats: Storage) -> dict[str, str]:
    """The formats and dtypes that the items of each class are stored in, such as 'iq2_xxs, q2_k'."""
    found: dict[str, dict[str, None]] = {}
    for item in items:
        found.setdefault(class_of(item), {})[formats.of(item)] = None
    return {label: ", ".join(found[label]) for label in CLASSES if label in found}


def size_table(classes: dict[str, ClassSize], formats: dict[str, str]) -> Table:
    """The classes as a table with a line of totals."""
    heads = ("weights", "bytes", "bits/weight", "stored as")  # fits a terminal of 80 columns
    table = Table("", *(f"[bold]{head}" for head in heads), show_footer=False)
    for column in table.columns[1:-1]:
        column.justify = "right"
    for label, entry in classes.items():
        table.add_row(label, *_cells(entry), formats[label])
    table.add_section()
    table.add_row("total", *_cells(total(classes)), style="bold")
    return table


def _cells(entry: ClassSize) -> tuple[str, ...]:
    weights = f"{entry.weights / 1e6:,.1f} M" if entry.weights >= 1e6 else f"{entry.weights:,}"
    return weights, size(entry.nbytes), f"{entry.bits_per_weight:.3f}"
