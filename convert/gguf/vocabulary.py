"""The tokenizer of ds4's files and tokenizer.json, in both directions.

A GGUF names the way a text is cut into words (`joyai-llm` is DeepSeek V4's) and lists the tokens with their kinds and
the merges; tokenizer.json spells all of it out. reference: the tokenizer.json of DeepSeek-V4-Flash; ds4.c, vocab_load.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from ds4_convert.gguf.writing import Value, array, boolean, int32, string, uint32
from ds4_mlx.config import ModelConfig, read_json
from ds4_mlx.errors import UserError

_MODEL, _WORDS = "gpt2", "joyai-llm"  # byte-level BPE; DeepSeek V4's cut into words
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # kinds of tokens


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_LETTERS = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
    "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*"
    "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)
_PRE_TOKENIZER = {
    "type": "Sequence",
    "pretokenizers": [
        _split(r"\p{N}{1,3}"),
        _split("[一-龥぀-ゟ゠-ヿ]+"),
        _split(_LETTERS),
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ],
}
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def tokenizer_files(keys: Mapping[str, Any], path: Path) -> dict[str, bytes]:
    """tokenizer.json and tokenizer_config.json from the keys of a file.

    Raises `UserError` when a key is missing, or the tokenizer is none of DeepSeek V4's kind.
    """
    for key, expected in (("tokenizer.ggml.model", _MODEL), ("tokenizer.ggml.pre", _WORDS)):
        if keys.get(key) != expected:
            raise UserError(f"{path} has {key} = {keys.get(key)!r}; DeepSeek V4 Flash's tokenizer has {expected!r}.")
    tokens, merges = (keys.get(f"tokenizer.ggml.{name}") for name in ("tokens", "merges"))
    kinds = keys.get("tokenizer.ggml.token_type")
    if not (isinstance(tokens, list) and isinstance(merges, list) and isinstance(kinds, list)):
        raise UserError(f"{path} lacks the tokens, their kinds or the merges of its tokenizer (tokenizer.ggml.*).")
    if len(tokens) != len(kinds) or len(set(tokens)) != len(tokens):
        raise UserError(f"{path} has a damaged tokenizer: {len(tokens)} tokens, {len(kinds)} kinds, or a token twice.")
    special = {i: kind for i, kind in enumerate(kinds) if kind in (_CONTROL, _USER_DEFINED)}
    value = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(i, tokens[i], control=kind == _CONTROL) for i, kind in special.items()],
        "normalizer": {"type": "Sequence", "normalizers": []},
        "pre_tokenizer": _PRE_TOKENIZER,
        "post_processor": {**_BYTE_LEVEL, "trim_offsets": False},
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            # With the added tokens: the library numbers those that are not in here as it likes.
            "vocab": {token: i for i, token in enumerate(tokens) if kinds[i] != _UNUSED},
            "merges": merges,
        },
    }
    ends = {name: keys.get(f"tokenizer.ggml.{name}_id") for name in ("bos_token", "eos_token")}
    known = {name: tokens[i] for name, i in ends.items() if isinstance(i, int) and 0 <= i < len(tokens)}
    config = {"add_bos_token": False, **known, "tokenizer_class": "PreTrainedTokenizerFast"}
    contents = {"tokenizer.json": value, "tokenizer_config.json": config}
    files = {name: json.dumps(content, indent=1, ensure_ascii=False).encode() for name, content in contents.items()}
    try:
        tokenizers.Tokenizer.from_buffer(files["tokenizer.json"])
    except Exception as error:  # the library raises bare Exceptions
        raise UserError(f"{path} has a damaged tokenizer ({error}). Download the file again.") from None
    return files


def tokenizer_keys(folder: Path, config: ModelConfig) -> dict[str, Value]:
    """The keys for the tokenizer.json of a folder. Raises `UserError` when it is none of DeepSeek V4's kind."""
    path = folder / "tokenizer.json"
    value = read_json(path)
    try:
        if value["pre_tokenizer"] != _PRE_TOKENIZER or value["model"]["type"] != "BPE":
            raise UserError(f"{path} cuts texts otherwise than DeepSeek V4's tokenizer; a GGUF cannot say how.")
        vocabulary = {i: token for token, i in value["model"]["vocab"].items()}
        kinds = dict.fromkeys(vocabulary, _NORMAL)
        for added in value["added_tokens"]:
            vocabulary[added["id"]] = added["content"]
            kinds[added["id"]] = _CONTROL if added["special"] else _USER_DEFINED
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in value["model"]["merges"]]
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is damaged: it is no tokenizer of the kind DeepSeek V4 has.") from None
    if max(vocabulary, default=0) >= config.vocab_size:
        raise UserError(f"{path} has token {max(vocabulary)}, but the model's vocabulary has {config.vocab_size}.")
    ids = range(config.vocab_size)
    return {
        "tokenizer.ggml.model": string(_MODEL),
        "tokenizer.ggml.pre": string(_WORDS),
        "tokenizer.ggml.tokens": array(string, [vocabulary.get(i, f"[PAD{i}]") for i in ids]),
        "tokenizer.ggml.token_type": array(int32, [kinds.get(i, _UNUSED) for i in ids]),
        "tokenizer.ggml.merges": array(string, merges),
        "tokenizer.ggml.bos_token_id": uint32(config.bos_token_id),
        "tokenizer.ggml.eos_token_id": uint32(config.eos_token_id),
        "tokenizer.ggml.add_bos_token": boolean(False),
    }


def _added(token_id: int, content: str, *, control: bool) -> dict[str, Any]:
    """An added token: found in a text before it is cut into words."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    return {"id": token_id, "content": content, **flags, "normalized": not control, "special": control}
