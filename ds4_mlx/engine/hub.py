"""Finding a model by name: a folder here, or a repository on the hub, looked at before it is downloaded."""

from __future__ import annotations

from pathlib import Path

from ds4_mlx.checkpoint.folder import INDEX_NAME
from ds4_mlx.config import ModelConfig, read_json
from ds4_mlx.engine.memory import check_fits
from ds4_mlx.errors import UserError

# The model that runs when none is named: it ships with the package.
DEFAULT_MODEL = Path(__file__).parent.parent / "models" / "ds4-tiny"

_FIRST = ["config.json", INDEX_NAME]
_WHOLE = ["*.json", "*.safetensors", "tokenizer.model", "encoding/*"]


def find_model(path_or_repo: str | Path | None) -> Path:
    """The folder of a model: the given one, the hub's (downloaded into the hub's cache), or the default's.

    Raises `UserError` if the hub does not deliver, or holds another kind of model or one larger than memory.
    """
    if path_or_repo is None:
        return DEFAULT_MODEL
    path, name = Path(path_or_repo).expanduser(), str(path_or_repo)
    if not name:
        raise UserError("The model's name is empty; give a folder or a hub repository (owner/name).")
    looks_like_repo = name.count("/") == 1 and not name.startswith((".", "/", "~")) and not path.parent.exists()
    if path.exists() or not looks_like_repo:
        return path
    folder = _download(name, _FIRST)
    ModelConfig.from_file(folder / "config.json")
    index = read_json(folder / INDEX_NAME)
    metadata = index.get("metadata") if isinstance(index, dict) else None
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(size, int):  # left to the check after the download otherwise
        check_fits(size, name)
    return _download(name, _WHOLE)


def _download(name: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{name} is no folder here, and the hub did not deliver it: {reason}") from None
