"""Tokenizers from a folder: byte-level BPE, sentencepiece, and folders that have no good one."""

import json
import random
import subprocess
import sys

import pytest

from ds4_mlx.errors import UserError
from ds4_mlx.text import TextStream, byte_level, load_tokenizer
from ds4_mlx.text.special import BOS, EOS, SPECIAL_TOKENS

TEXTS = ["Hello, world!", "  two  spaces\n\n\ttabs ", "Zürich 北京 👩‍👩‍👧 ﷽ कोड", "", "\x00\x7f\u200b"]
PROMPT = f"{BOS}sys<｜User｜>one two 北京<｜Assistant｜></think>ok{EOS}<｜User｜>three"


def test_special_tokens_have_the_ids_of_the_spec(real_tokenizer):
    assert (real_tokenizer.bos_id, real_tokenizer.eos_id, real_tokenizer.vocab_size) == (0, 1, 129280)
    ids = {"<｜User｜>": 128803, "<think>": 128821, "</think>": 128822, "｜DSML｜": 128825, "<｜read_url｜>": 128845}
    assert {text: real_tokenizer.id_of(text) for text in ids} == ids


@pytest.mark.parametrize("text", SPECIAL_TOKENS)
def test_every_special_token_is_one_token(text, real_tokenizer):
    assert real_tokenizer.encode(text) == [real_tokenizer.id_of(text)]


@pytest.mark.parametrize("text", [*TEXTS, PROMPT])
@pytest.mark.parametrize("tokenizer", ["real_tokenizer", "small_tokenizer"])
def test_text_comes_back(tokenizer, text, request):
    tokenizer = request.getfixturevalue(tokenizer)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_token_bytes_are_the_bytes_of_the_text(real_tokenizer):
    assert [real_tokenizer.token_bytes(token_id) for token_id in real_tokenizer.encode(" hello\n")] == [
        b" hello",
        b"\n",
    ]


def test_the_256_bytes_are_256_tokens(small_tokenizer):
    tokens = {small_tokenizer.token_bytes(token_id) for token_id in range(small_tokenizer.vocab_size)}
    assert {bytes([byte]) for byte in range(256)} <= tokens


def test_the_id_of_plain_text_is_found(real_tokenizer):
    assert real_tokenizer.encode(" hello") == [real_tokenizer.id_of(" hello")]


def test_text_that_is_no_token_has_no_id(real_tokenizer):
    assert real_tokenizer.id_of("<｜nobody｜>") is None


@pytest.mark.parametrize("token_id", [398, 399, 10**12, -1])
def test_ids_beyond_the_vocabulary_are_empty(token_id, small_tokenizer):
    assert small_tokenizer.vocab_size == 398
    assert small_tokenizer.token_bytes(token_id) == b""
    assert small_tokenizer.decode([token_id]) == ""


def test_long_texts_are_cut_without_changing_an_id(real_tokenizer, monkeypatch):
    source = random.Random(5)
    bits = [
        *"abcXYZ",
        " a",
        " b",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "1",
        "234",
        "é",
        "ä a",
        "北京",
        "か",
        "-",
        "'s",
        " (",
        "\u0301",
    ]
    texts = ["".join(source.choices([*bits, *SPECIAL_TOKENS[:4]], k=400)) for _ in range(200)]
    whole = [real_tokenizer.encode(text) for text in texts]
    monkeypatch.setattr(byte_level, "_PIECE", 5)
    assert len(real_tokenizer._vocabulary._pieces(texts[0])) > 10
    assert [real_tokenizer.encode(text) for text in texts] == whole


def test_half_a_surrogate_pair_is_refused(small_tokenizer):
    with pytest.raises(UserError, match="character 3"):
        small_tokenizer.encode("abc\ud83d")


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match="neither"):
        load_tokenizer(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        load_tokenizer(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_damaged_file_is_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_a_folder_in_the_place_of_the_file_is_refused(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=name):
        load_tokenizer(tmp_path)


def test_a_tokenizer_of_another_kind_is_refused(small_folder):
    path = small_folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "decoder": {"type": "Fuse"}}))
    with pytest.raises(UserError, match="byte-level"):
        load_tokenizer(small_folder)


def test_a_length_limit_in_the_file_does_not_cut_prompts(small_folder, small_tokenizer):
    path = small_folder / "tokenizer.json"
    limit = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "truncation": limit}))
    assert load_tokenizer(small_folder).encode("hello") == small_tokenizer.encode("hello")


def train_sentencepiece(folder, **options):
    sentencepiece = pytest.importorskip("sentencepiece")
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "hello", "world", "sys"]
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(f"{a} {b} {a}{b}" for a in words for b in words))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        bos_piece=BOS,
        eos_piece=EOS,
        user_defined_symbols=["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"],
        minloglevel=2,
        **options,
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


EXACT = {"add_dummy_prefix": False, "remove_extra_whitespaces": False, "normalization_rule_name": "identity"}


@pytest.mark.parametrize("text", [*TEXTS[:4], PROMPT])
def test_text_comes_back_from_sentencepiece(text, tmp_path):
    train_sentencepiece(tmp_path, **EXACT)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", ["hello world", PROMPT])
def test_a_dummy_space_of_sentencepiece_is_taken_off_again(text, tmp_path):
    train_sentencepiece(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("options", [EXACT, {}], ids=["exact", "default"])
def test_ids_are_those_of_sentencepiece(options, tmp_path):
    model = train_sentencepiece(tmp_path, **options)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("hello two 北京") == model.encode("hello two 北京")


@pytest.mark.parametrize("options", [EXACT, {}], ids=["exact", "default"])
def test_sentencepiece_streams_what_it_decodes(options, tmp_path):
    train_sentencepiece(tmp_path, **options)
    tokenizer = load_tokenizer(tmp_path)
    ids = [*tokenizer.encode(PROMPT), 5000, *tokenizer.encode("hello 👩‍👩‍👧")]
    stream = TextStream(tokenizer)
    assert "".join([stream.feed(token_id) for token_id in ids]) + stream.finish() == tokenizer.decode(ids)


def test_sentencepiece_finds_special_tokens(tmp_path):
    model = train_sentencepiece(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (model.bos_id(), model.eos_id(), 400)
    assert tokenizer.token_bytes(tokenizer.bos_id) == BOS.encode()
    assert tokenizer.token_bytes(tokenizer.id_of("<think>")) == b"<think>"
    assert tokenizer.id_of("<｜nobody｜>") is None


@pytest.mark.parametrize("token_id", [400, 10**12, -1])
def test_ids_beyond_a_sentencepiece_vocabulary_are_empty(token_id, tmp_path):
    train_sentencepiece(tmp_path)
    assert load_tokenizer(tmp_path).token_bytes(token_id) == b""


def test_the_package_imports_nothing_heavy():
    code = "import sys, ds4_mlx.text; print(sorted({'mlx', 'numpy', 'tokenizers', 'sentencepiece'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
