"""Opens a model folder, DeepSeek's own or a converted one, and checks it before anything is loaded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx

from ds4_mlx.checkpoint.items import Item, in_layers, model_items
from ds4_mlx.checkpoint.layout import Expected, official_tensors
from ds4_mlx.checkpoint.repack import check_values, repack_plan
from ds4_mlx.checkpoint.safetensors_file import Tensor, read_header
from ds4_mlx.checkpoint.storage import Storage
from ds4_mlx.config import ModelConfig, read_json
from ds4_mlx.errors import UserError

FORMAT_VERSION = 2
CONFIG_KEY = "ds4_mlx"  # our own part of config.json
INDEX_NAME = "model.safetensors.index.json"
JOURNAL_NAME = "conversion.json"  # only an unfinished conversion holds it

Kind = Literal["official", "converted"]


@dataclass(frozen=True)
class Checkpoint:
    """A folder that was found complete: every tensor its config asks for is there with the right shape and dtype."""

    path: Path
    kind: Kind
    config: ModelConfig
    config_json: dict[str, Any]
    tensors: dict[str, Tensor]
    items: list[Item]  # what the folder holds of the model
    formats: Storage  # how each item is stored, or will be once it is loaded from a released checkpoint
    dspark_stages: int
    layers: tuple[int, int] | None = None  # first and last layer of a folder that holds only these

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors on disk."""
        return sum(t.nbytes for t in self.tensors.values())

    @property
    def own(self) -> dict[str, Any]:
        """What the converter recorded; empty for a released checkpoint."""
        return self.config_json.get(CONFIG_KEY, {})

    @property
    def profile(self) -> str:
        """How the weights are stored: 'exact' keeps every weight bit-identical."""
        return self.own.get("profile", "exact")

    @property
    def prompt_profile(self) -> Literal["april", "0731"]:
        """Which prompt encoding the model was trained with: what the drafter's keys in config.json tell, or, where a
        model came as a GGUF and without its drafter, what its conversion recorded.
        """
        return self.own.get("prompt_profile", self.config.prompt_profile)

    def is_loaded(self, name: str) -> bool:
        """Whether the model itself loads the tensor. A DSpark drafter's are kept aside."""
        return not (self.dspark_stages and name.startswith("mtp."))

    def arrays(self) -> list[Expected]:
        """Every array of the folder in our format, the drafter's included."""
        return [array for item in self.items for array in item.arrays(self.formats.of(item.name))]

    def memory_bytes(self) -> int:
        """Bytes the loaded weights take."""
        return sum(array.nbytes for array in self.arrays() if self.is_loaded(array.name))

    def identity(self) -> str:
        """A hash (hex) that tells checkpoints apart and is the same for every profile converted from one of them.

        It covers all names and shapes, and the values of all vectors (norms, sinks, biases): retraining changes those,
        repacking does not.
        """
        if "checkpoint_id" in self.own:
            return str(self.own["checkpoint_id"])
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
            if len(tensor.shape) == 1:
                digest.update(tensor.read().tobytes())
        return digest.hexdigest()

    def load(self) -> Iterator[tuple[str, mx.array]]:
        """The model's arrays by name, one at a time. A released checkpoint is repacked on the way, bit for bit."""
        if self.kind == "converted":
            files: dict[Path, dict[str, mx.array]] = {}
            for array in self.arrays():
                if self.is_loaded(array.name):
                    path = self.tensors[array.name].path
                    if path not in files:
                        files[path] = mx.load(str(path))  # type: ignore[assignment]
                    yield array.name, files[path].pop(array.name)
        else:
            check = partial(check_values, experts=self.config.n_routed_experts)
            for target in repack_plan(self.items):
                if self.is_loaded(target.name):
                    yield target.name, target.load(self.tensors, check)


def open_checkpoint(path: str | Path, *, allow_part: bool = False) -> Checkpoint:
    """Opens a model folder.

    `allow_part` also opens one that holds some of the layers only (`ds4-mlx convert --layers`): enough to measure, not
    to run. Raises `UserError` when it is no folder, of another model type, unfinished, or when a file is missing or
    truncated or a tensor is missing, unknown, or has the wrong shape or dtype.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"There is no model folder at {path}.")
    if not path.is_dir():
        raise UserError(f"{path} is a file; give the folder that holds config.json and the .safetensors files.")
    if (path / JOURNAL_NAME).exists():
        raise UserError(f"{path} holds an unfinished conversion. Run the same `ds4-mlx convert` again to finish it.")
    config_json = read_json(path / "config.json")
    config = ModelConfig.from_dict(config_json)
    own = config_json.get(CONFIG_KEY)
    if own is not None and (not isinstance(own, dict) or own.get("format") != FORMAT_VERSION):
        found = own.get("format") if isinstance(own, dict) else own
        raise UserError(
            f"{path} was written in format {found!r}; this version reads {FORMAT_VERSION}. Convert it again."
        )
    layers = _layers(own, config, path) if own else None
    if layers and not allow_part:
        first, last = layers
        raise UserError(
            f"{path} holds layers {first} to {last} only, converted with --layers {first}-{last} to be measured: it "
            "cannot run. Convert without --layers."
        )
    tensors = _read_tensors(path)
    if not any(name.startswith("mtp.") for name in tensors):
        config = replace(config, num_nextn_predict_layers=0)  # no drafter of any kind: it just decodes
    stages = _dspark_stages(tensors, config)
    items = model_items(config, stages)
    if layers:
        items = in_layers(items, layers)
    formats = Storage.from_json(own.get("formats")) if own else Storage.as_released(items)
    kind: Kind = "converted" if own else "official"
    checkpoint = Checkpoint(path, kind, config, config_json, tensors, items, formats, stages, layers)
    _compare(checkpoint.arrays() if own else list(official_tensors(config, stages)), tensors, path)
    return checkpoint


def _layers(own: dict[str, Any], config: ModelConfig, path: Path) -> tuple[int, int] | None:
    """Which layers alone the folder holds; None for all of the model."""
    if "layers" not in own:
        return None
    layers = own["layers"]
    count = config.num_hidden_layers
    if isinstance(layers, list) and len(layers) == 2 and all(type(n) is int for n in layers):
        first, last = layers
        if 0 <= first <= last < count:
            return first, last
    raise UserError(f"{path / 'config.json'} says layers {layers!r}; expected two of 0..{count - 1}. Convert again.")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors the index names, each looked up in the file that should hold it."""
    index = read_json(path / INDEX_NAME)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{path / INDEX_NAME} has no weight_map. Download (or convert) it again.")
    tensors: dict[str, Tensor] = {}
    headers: dict[str, dict[str, Tensor]] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise UserError(
                f"{path / INDEX_NAME} places tensor {name} in {file!r}, which is no .safetensors file of this folder."
            )
        if file not in headers:
            if not (path / file).exists():
                raise UserError(f"{path / INDEX_NAME} names {file}, which is not there. Complete the download.")
            headers[file] = read_header(path / file)[0]
        if name not in headers[file]:
            raise UserError(
                f"{path / file} does not hold tensor {name}, though the index says so. Download (or convert) it again."
            )
        tensors[name] = headers[file][name]
    return tensors


def _dspark_stages(tensors: Collection[str], config: ModelConfig) -> int:
    """How many drafter stages the names show; the released 0731 config.json does not say (dspark.md 1)."""
    stages = {int(m[1]) for m in (re.match(r"mtp\.(\d+)\.", name) for name in tensors) if m}
    if config.dspark is not None:
        return 1 + max(stages, default=-1)
    if "mtp.0.main_proj.weight" in tensors:
        raise UserError("The folder holds a DSpark drafter (mtp.0.main_proj), but config.json lacks its dspark_ keys.")
    return 0


def _compare(expected: list[Expected], tensors: dict[str, Tensor], path: Path) -> None:
    for e in expected:
        tensor = tensors.get(e.name)
        if tensor is None:
            missing = sum(x.name not in tensors for x in expected)
            raise UserError(f"{path} lacks tensor {e.name} ({missing} missing in all). Complete the download.")
        if (tensor.shape, tensor.dtype) != (e.shape, e.dtype):
            raise UserError(
                f"{tensor.path}: tensor {e.name} is {tensor.dtype} {list(tensor.shape)}, "
                f"but config.json asks for {e.dtype} {list(e.shape)}."
            )
    unknown = sorted(tensors.keys() - {e.name for e in expected})
    if unknown:
        raise UserError(
            f"{path} holds {len(unknown)} tensors that a DeepSeek V4 Flash checkpoint does not have, such as "
            f"{unknown[0]}."
        )
