"""The small files that travel with the weights: tokenizer, prompt encoder, licence, and the entry for mlx-lm."""

from __future__ import annotations

from pathlib import Path

from ds4_mlx.errors import UserError

_COPIED = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "special_id_remap.json",
    "chat_template.jinja",
)
MODEL_FILE = "ds4_mlx_model.py"
MODEL_FILE_TEXT = b'''\
"""mlx-lm runs this folder through this file ("model_file" in config.json). It only points to the installed ds4-mlx."""

from ds4_mlx.engine.mlx_lm import Model, ModelArgs  # noqa: F401
'''


def read_all_auxiliary(source: Path) -> dict[str, bytes]:
    """The content of the files to copy from a source folder, by their name in the destination, in a fixed order.

    Raises `UserError` when one cannot be read or there is no tokenizer: better before hours of conversion than after.
    """
    contents = {name: _read(path) for name, path in _auxiliary_files(source).items()}
    if not contents.keys() & {"tokenizer.json", "tokenizer.model"}:
        raise UserError(f"{source} has neither tokenizer.json nor tokenizer.model. Complete the download.")
    return contents


def _auxiliary_files(source: Path) -> dict[str, Path]:
    """The files of a source folder to copy: name in the destination -> file, in a fixed order."""
    files = {name: source / name for name in _COPIED}
    files |= {path.name: path for path in sorted(source.glob("LICENSE*"))}
    files |= {path.relative_to(source).as_posix(): path for path in sorted((source / "encoding").rglob("*"))}
    files["SOURCE_README.md"] = source / "README.md"
    return {name: path for name, path in files.items() if path.is_file()}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
