"""A kernel's text in a file, so that MLX is given one line.

MLX handles the whole text at every call: it puts the program together and hashes it, to find what is compiled. A launch
of a 12 KB text costs 2 to 4 us more than one of 100 bytes, and a token is hundreds of launches. The name of the file is
made of its contents, so the line still says exactly what is compiled.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from functools import cache
from pathlib import Path

import platformdirs

from ds4_mlx.errors import UserError


def folder() -> Path:
    """Where the texts are: a folder of the user's."""
    return Path(platformdirs.user_cache_dir("ds4-mlx", appauthor=False)) / "cuda"


@cache
def included(text: str) -> str:
    """An #include of a file that holds `text`. Raises `UserError` if it cannot be written."""
    content = text.encode()
    path = folder() / f"{hashlib.sha256(content).hexdigest()[:32]}.h"
    try:
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Whole or not at all: another process may be writing or compiling the same.
            handle, name = tempfile.mkstemp(dir=path.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(name, path)
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}. NVIDIA's compiler reads the texts of kernels there."
        ) from error
    return f'#include "{path}"\n'
