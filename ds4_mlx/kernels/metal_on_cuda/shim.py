"""The part of Metal's library that one kernel uses, as short CUDA text.

MLX hashes the whole text of a kernel at every call, so what is put before a kernel is pruned to the items it needs and
stripped of comments. `headers/README.md` says what an item is.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from ds4_mlx.kernels.metal_on_cuda.tokens import VECTORS, code_tokens, names_in, tokenize

# In the order in which they build on one another.
_FILES = (
    "cuda/platform.h",
    "msl/constants.h",
    "msl/scalars.h",
    "cuda/half.h",
    "msl/bfloat.h",
    "msl/vectors.h",
    "msl/vector_operators.h",
    "msl/math.h",
    "msl/numbers.h",
    "msl/memory.h",
    "msl/collectives.h",
    "cuda/positions.h",
    "cuda/collectives.h",
    "cuda/atomics.h",
    "cuda/matrix_layout.h",
    "msl/matrix.h",
    "cuda/matrix.h",
    "cuda/tensor.h",
)
_FOR = "// for: "
VECTOR_OPERATORS = "vector_operators"  # what the headers call the operators, which have no name of their own
_VECTOR_NAMES = VECTORS | {"vec", "thread_elements"}


class Item(NamedTuple):
    """A run of header lines. Without `names` it is always taken."""

    names: frozenset[str]
    code: str
    uses: frozenset[str]


def shim(used: set[str]) -> str:
    """The items that a text mentioning the names `used` needs, in order, without comments."""
    items = _items()
    used = used | frozenset[str]().union(*(item.uses for item in items if not item.names))
    taken = {i for i, item in enumerate(items) if not item.names}
    while True:
        more = {i for i, item in enumerate(items) if i not in taken and item.names & used}
        if not more:
            break
        taken |= more
        used |= frozenset[str]().union(*(items[i].uses for i in more))
    text = "".join(items[i].code for i in sorted(taken))
    return text.replace("namespace metal {\n}\n", "").replace("}\nnamespace metal {\n", "")


def computes_with_vectors(source: str, positions: set[str]) -> bool:
    """Whether `source` may have values of vector types.

    It may if it names one of the types, or uses one of `positions` (attributes of type uint3) other than by a
    component, as `thread_position_in_grid.x` does.
    """
    code = [token.text for token in code_tokens(source)]
    whole = any(text in positions and after != "." for text, after in zip(code, [*code[1:], ""], strict=True))
    return whole or any(text in _VECTOR_NAMES or text.startswith("packed_") for text in code)


def without_comments(source: str) -> str:
    """The same lines without comments and needless space; empty lines stay, so that line numbers hold."""
    kept = []
    for token in tokenize(source):
        lines = token.text.count("\n")
        is_blank = token.kind == "blank" and not token.text.startswith("\\")
        kept.append(("\n" * lines or " ") if is_blank else token.text)
    return re.sub(r"[ \t]*\n[ \t]*", "\n", "".join(kept)).strip(" \t")


@cache
def _items() -> list[Item]:
    folder = files("ds4_mlx.kernels.metal_on_cuda") / "headers"
    items = []
    for name in _FILES:
        for block in folder.joinpath(name).read_text().split("\n\n"):
            first, _, rest = block.strip("\n").partition("\n")
            names = frozenset(first.removeprefix(_FOR).split()) if first.startswith(_FOR) else frozenset()
            code = without_comments(rest if names else block)
            code = re.sub(r"\n\n+", "\n", code.strip("\n"))
            # Lines that end in a backslash are one line; joined, they need no line end of their own.
            code = code.replace("\\\n", "")
            if code:
                items.append(Item(names, code + "\n", frozenset(names_in(code))))
    return items
