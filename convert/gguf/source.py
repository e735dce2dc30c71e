"""The recipe for a ds4 GGUF file: every tensor in a format of ours, bit for bit."""

from __future__ import annotations

import hashlib
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ds4_convert.gguf.header import GgufTensor, Header, header_bytes, read_header
from ds4_convert.gguf.keys import config_from_keys
from ds4_convert.gguf.names import in_file_order, item_name
from ds4_convert.gguf.types import STORAGE, type_name
from ds4_convert.gguf.vocabulary import tokenizer_files
from ds4_convert.layer_range import parse_layers
from ds4_convert.options import Options
from ds4_convert.recipe import Recipe
from ds4_convert.steps import PIECE_BYTES, Measure, Output, Pieces, Step, named_pieces, outputs_of
from ds4_mlx.checkpoint.items import Item, in_layers, model_items
from ds4_mlx.checkpoint.safetensors_file import NUMPY_DTYPES
from ds4_mlx.checkpoint.storage import Storage
from ds4_mlx.config import ModelConfig
from ds4_mlx.errors import UserError
from ds4_mlx.quant import FORMATS, get_format

HEADER_NAME = "gguf_header.bin"  # the header as it was, kept in the converted folder for the way back
_PROFILES = {("iq2_xxs", "q2_k"): "q2", ("q4_k", "q4_k"): "q4", ("mxfp4", "mxfp4"): "mxfp4"}
_SPLIT_NAME = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


def gguf_recipe(source: Path, options: Options) -> Recipe:
    """The recipe for the file `source`. Raises `UserError` when anything about it or the options is wrong."""
    for flag in ("imatrix", "calibration", "method"):
        if getattr(options, flag) is not None:
            raise UserError(f"--{flag} serves quantising, but {source} is quantised already. Leave it out.")
    profile = options.profile
    _refuse_split_name(source)
    header = read_header(source)
    _refuse_split_keys(header)
    config_json = config_from_keys(header.keys, source)
    config = ModelConfig.from_dict(config_json)
    items = model_items(config)
    tensors = {item_name(tensor.name): tensor for tensor in header.tensors.values()}
    formats = _formats(items, tensors, header)
    found = _profile(items, formats)
    if profile not in (None, found):
        raise UserError(
            f"--profile is {profile}, but the experts of {source} are stored as profile {found} has them, and a GGUF "
            "is converted as it is. Leave --profile out, or convert DeepSeek's own folder."
        )
    check_gaps(header)
    part = parse_layers(options.layers, config)
    chosen = in_layers(items, part) if part else items
    own: dict[str, Any] = {
        "prompt_profile": _prompt_profile(header),
        "gguf": {"header": HEADER_NAME, "bytes": header.size},
    }
    if part:
        own["layers"] = list(part)
    return Recipe(
        source=source,
        profile=found,
        config=config,
        config_json=config_json,
        checkpoint_id=_identity(header),
        formats=Storage.of_each({item.name: formats.of(item.name) for item in chosen}),
        steps=[_step(header, item, tensors[item.name], formats.of(item.name), config) for item in chosen],
        small_files={HEADER_NAME: header_bytes(header), **tokenizer_files(header.keys, source)},
        source_tensors=len(header.tensors),
        source_bytes=sum(tensor.nbytes for tensor in header.tensors.values()),
        is_loaded=lambda name: True,
        own=own,
        notes=(f"prompts as of {own['prompt_profile']}: a 0731 file says so in its name",),
    )


def _refuse_split_name(path: Path) -> None:
    match = _SPLIT_NAME.search(path.name)
    if match and int(match[2]) > 1:
        _refuse_split(path, match[1], match[2])


def _refuse_split_keys(header: Header) -> None:
    count = header.keys.get("split.count", 1)
    if count != 1:
        _refuse_split(header.path, "one", count)


def _refuse_split(path: Path, number: object, count: object) -> None:
    raise UserError(
        f"{path} is part {number} of {count} of a split GGUF. Join the parts first, with llama.cpp's "
        "llama-gguf-split --merge FIRST_PART WHOLE.gguf, and convert the whole."
    )


def _formats(items: list[Item], tensors: dict[str, GgufTensor], header: Header) -> Storage:
    """How each item will be stored. Raises `UserError` unless the file holds exactly the model's tensors."""
    path = header.path
    missing = [item for item in items if item.name not in tensors]
    if missing:
        row = next(in_file_order([missing[0].name], header.keys["deepseek4.block_count"]))
        raise UserError(
            f"{path} lacks tensor {row.gguf} ({len(missing)} missing in all). It is not a whole model, or not a file "
            "that ds4 runs."
        )
    unknown = sorted(tensors.keys() - {item.name for item in items})
    if unknown:
        raise UserError(
            f"{path} holds {len(unknown)} tensors that a ds4 file of DeepSeek V4 Flash does not have, such as "
            f"{tensors[unknown[0]].name}."
        )
    choices = {}
    for item in items:
        tensor = tensors[item.name]
        if tensor.shape != item.shape:
            raise UserError(
                f"{path}: tensor {tensor.name} has the shape {list(tensor.shape)}, but by the file's keys it is "
                f"{list(item.shape)}."
            )
        storage = STORAGE.get(tensor.type)
        try:
            item.arrays(storage or type_name(tensor.type))
        except UserError:
            known = ", ".join(type_name(number) for number in STORAGE)
            raise UserError(
                f"{path}: tensor {tensor.name} is stored as {type_name(tensor.type)}, which is not supported for it; "
                f"ds4's files have {known}."
            ) from None
        assert storage is not None
        choices[item.name] = storage
    for name, storage in choices.items():
        if name.endswith(".experts.w1") and choices[name[:-1] + "3"] != storage:
            raise UserError(f"{path}: gate and up experts of {name} are stored in two ways; ds4's files have one.")
    return Storage.of_each(choices)


def _profile(items: list[Item], formats: Storage) -> str:
    """A name for what the experts are stored as: q2, q4, mxfp4, or several for files that mix them by layer."""
    stacks = [item.name for item in items if item.name.endswith(".ffn.experts.w1")]
    kinds = {(formats.of(name), formats.of(name[:-1] + "2")) for name in stacks}
    return "-".join(sorted({_PROFILES.get(kind, "mixed") for kind in kinds}))


def _prompt_profile(header: Header) -> str:
    """Which release's prompts the model knows: no key says it, only names."""
    names = (str(header.keys.get("general.name", "")), header.path.resolve().name)
    return "0731" if any("0731" in name for name in names) else "april"


def _identity(header: Header) -> str:
    """A hash (hex) that tells models apart: names, shapes and types of all tensors, the values of the vectors."""
    digest = hashlib.sha256()
    for tensor in header.tensors.values():
        digest.update(f"{tensor.name} {tensor.type} {tensor.shape}\n".encode())
        if len(tensor.shape) == 1:
            digest.update(_read(header.path, tensor, 0, tensor.nbytes).data)
    return digest.hexdigest()


def check_gaps(header: Header) -> None:
    """Raises `UserError` if there is anything but zeros between the tensors or behind the last: it would be lost."""
    end = header.data_start
    whole = GgufTensor("", (), 0, header.size, 0)
    for tensor in [*sorted(header.tensors.values(), key=lambda t: t.offset), whole]:
        if tensor.offset > end:
            gap = np.fromfile(header.path, np.uint8, min(tensor.offset - end, PIECE_BYTES), offset=end)
            if gap.any() or tensor.offset - end > PIECE_BYTES:
                raise UserError(
                    f"{header.path} holds something at byte {end:,} that is no tensor. The file is damaged."
                )
        end = max(end, tensor.offset + tensor.nbytes)


def _step(header: Header, item: Item, tensor: GgufTensor, storage: str, config: ModelConfig) -> Step:
    outputs = outputs_of(item, storage)
    if storage in FORMATS:
        return Step(item.name, outputs, partial(_split, header.path, tensor, storage, outputs))
    return Step(item.name, outputs, partial(_copy, header.path, tensor, outputs[0], config.n_routed_experts))


def _split(path: Path, tensor: GgufTensor, storage: str, outputs: tuple[Output, ...], measure: Measure) -> Pieces:
    """A quantised tensor, its blocks taken apart, some rows at a time."""
    row = tensor.nbytes // math.prod(tensor.shape[:-1])
    step = max(1, PIECE_BYTES // row) * row
    for start in range(0, tensor.nbytes, step):
        raw = _read(path, tensor, start, min(step, tensor.nbytes - start))
        arrays = get_format(storage).from_gguf(raw.reshape(-1, row))
        _check_scales(path, tensor, arrays)
        yield from named_pieces(outputs, arrays)


def _copy(path: Path, tensor: GgufTensor, output: Output, experts: int, measure: Measure) -> Pieces:
    """A tensor of plain numbers."""
    for start in range(0, tensor.nbytes, PIECE_BYTES):
        raw = _read(path, tensor, start, min(PIECE_BYTES, tensor.nbytes - start))
        values = raw.view(NUMPY_DTYPES[output.dtype])
        if output.dtype == "I32":
            bad, what = (values < 0) | (values >= experts), f"an expert number outside 0..{experts - 1}"
        elif output.dtype == "BF16":
            bad, what = (values & 0x7F80) == 0x7F80, "a NaN or infinite value"
        else:
            bad, what = ~np.isfinite(values), "a NaN or infinite value"
        if bad.any():
            raise UserError(f"{path}: tensor {tensor.name} holds {what}. The file is damaged; download it again.")
        yield output.name, raw


def _check_scales(path: Path, tensor: GgufTensor, arrays: dict[str, np.ndarray]) -> None:
    """Raises `UserError` if a block's scale is no number: NaN or infinity in float16, 255 as an exponent byte."""
    for part, array in arrays.items():
        if array.dtype == np.float16:
            bad = (array.view(np.uint16) & 0x7C00) == 0x7C00
        elif part == "scales" and array.dtype == np.uint8:
            bad = array == 0xFF
        else:
            continue
        if bad.any():
            raise UserError(
                f"{path}: tensor {tensor.name} holds a scale that is NaN or infinite. The file is damaged; download it "
                "again."
            )


def _read(path: Path, tensor: GgufTensor, start: int, count: int) -> np.ndarray:
    """`count` bytes of a tensor from byte `start` on."""
    try:
        raw = np.fromfile(path, np.uint8, count, offset=tensor.offset + start)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    if raw.size != count:
        raise UserError(f"{path} ends inside tensor {tensor.name}: the file was cut off while being read.")
    return raw
