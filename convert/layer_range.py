"""`--layers A-B`: some of the layers only."""

from __future__ import annotations

import re

from ds4_mlx.config import ModelConfig
from ds4_mlx.errors import UserError


def parse_layers(text: str | None, config: ModelConfig) -> tuple[int, int] | None:
    """'3-5' -> (3, 5), '3' -> (3, 3), None -> None. Raises `UserError` for anything else, or for layers that are not
    there.
    """
    if text is None:
        return None
    last_layer = config.num_hidden_layers - 1
    match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", text.strip())
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
    if not first <= last <= last_layer:
        raise UserError(f"--layers is {text!r}; expected a range such as 0-{last_layer}, within this model's layers.")
    return first, last
