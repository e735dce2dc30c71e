"""The tokenizer of `ds4-tiny`: DeepSeek's own kind of byte-level BPE with a small vocabulary.

    python examples/train_tiny/tokenizer.py [--build DIR] [--size N]

Trains on `DIR/corpus/train.jsonl` (from corpus.py) and, where it exists, `DIR/chats_sample.txt`, and writes
`DIR/tokenizer/tokenizer.json` and `tokenizer_config.json`.

Pre-tokenizer, decoder, post-processor and added tokens are those of the real DeepSeek V4 tokenizer.json, so that
prompts, tool calls and thinking blocks look alike to the code that serves the model. One thing is left out on purpose:
digits never merge, because a small model calculates better on single digits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TRAINING_BYTES = 25_000_000

# The splits of DeepSeek's tokenizer.json, in order: numbers, Chinese and Japanese, everything else.
NUMBERS = r"\p{N}{1,3}"
CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
WORDS = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
    "|[^\r\n" + r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[" + "\r\n]*"
    r"|\s*[" + "\r\n]+" + r"|\s+(?!\S)|\s+"
)  # the line ends stand in the real file as themselves, not as escapes

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
NOISE = "<｜place▁holder▁no▁799｜>"  # what the drafter is fed for a token it has yet to guess

# The added tokens of the real file behind its vocabulary, in its order, in three runs that share their options. Left
# out are its place holders, among them "<|place_holder_mm_span_...|>", "...for▁copy" and "...for▁pointer▁replace".
TEXT_TOKENS = (
    "<｜fim▁hole｜>",
    "<｜fim▁begin｜>",
    "<｜fim▁end｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<|EOT|>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
    "<｜tool▁sep｜>",
    "<｜begin▁of▁repo▁name｜>",
    "<｜end▁of▁repo▁name｜>",
    "<｜begin▁of▁file▁name｜>",
    "<｜end▁of▁file▁name｜>",
    "<｜begin▁of▁file｜>",
    "<｜end▁of▁file｜>",
    "<think>",
    "</think>",
    "｜DSML｜",
    "<｜begin▁sys｜>",
    "<｜end▁sys｜>",
    "<｜latest_reminder｜>",
    "<｜action｜>",
    "<｜query｜>",
    "<｜authority｜>",
    "<｜domain｜>",
    "<｜task｜>",
    "<｜political｜>",
    "<｜entity｜>",
    "<｜title｜>",
    "<｜safety｜>",
    "<｜answer｜>",
    "<｜search｜>",
    "<dsml:",
    "</dsml:",
    "<｜search▁begin｜>",
    "<｜search▁end｜>",
    "<｜extracted_url｜>",
    "<｜read_url｜>",
)
TABLE_TOKENS = ("<｜image2｜>", "<｜/table>｜", "<｜table｜>", "<｜/td｜>", "<｜td｜>", "<｜/tr｜>", "<｜tr｜>")
POINT_TOKENS = (
    "<｜/polygon｜>",
    "<｜polygon｜>",
    "<｜/point｜>",
    "<｜point｜>",
    "<｜/box｜>",
    "<｜box｜>",
    "<｜/ref｜>",
    "<｜ref｜>",
    "<｜image｜>",
)
IMAGE_TOKENS = ("<｜end_of_query｜>", "<｜rl_image_pad｜>", "<｜rl_image_start｜>")


def added_tokens() -> list[AddedToken]:
    """The added tokens in the order of their ids: BOS, EOS and pad first, all others behind the vocabulary."""

    def special(content: str) -> AddedToken:
        return AddedToken(content, normalized=False, special=True)

    return [
        *map(special, (BOS, EOS, PAD, NOISE)),
        *(AddedToken(content, normalized=True, special=False) for content in TEXT_TOKENS),
        *map(special, IMAGE_TOKENS),
        *(AddedToken(content, normalized=False, special=False) for content in TABLE_TOKENS),
        *map(special, POINT_TOKENS),
    ]


def build_tokenizer(texts: Iterable[str], size: int = 4096) -> Tokenizer:
    """Train a tokenizer.

    texts: what to learn the merges from
    size:  ids in all, added tokens included; ids 0 to size - 1 are all used

    The same texts give the same tokenizer. Raises ValueError when the texts are too few for so many merges.
    """
    added = added_tokens()
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),  # before the rest: so that no merge has two digits
            pre_tokenizers.Split(Regex(CJK), "isolated"),
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(added),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        max_token_length=32,  # no rulers of dashes, no indentation of forty blanks
    )
    learner.train_from_iterator(texts, trainer)
    learned = json.loads(learner.to_str())["model"]
    if len(learned["vocab"]) != size - len(added):
        raise ValueError(f"The texts gave {len(learned['vocab'])} tokens, not {size - len(added)}: train on more text.")

    first, rest = added[:3], added[3:]
    by_id = sorted(learned["vocab"], key=learned["vocab"].__getitem__)
    order = [*(token.content for token in first), *by_id]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: token_id for token_id, token in enumerate(order)},
            merges=[tuple(merge) for merge in learned["merges"]],
        )
    )
    _install_deepseek_parts(tokenizer)
    # Tokens that the library takes for special ones go by another call; each call keeps the order of the ids.
    for token in [*first, *rest]:
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    check(tokenizer, size)
    return tokenizer


def _install_deepseek_parts(tokenizer: Tokenizer) -> None:
    """Normalizer, pre-tokenizer, post-processor and decoder as in DeepSeek's tokenizer.json."""
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in (NUMBERS, CJK, WORDS)),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=True, trim_offsets=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)


def check(tokenizer: Tokenizer, size: int) -> None:
    """Assert what the rest of the project relies on."""

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    assert sorted(tokenizer.get_vocab().values()) == list(range(size)), "an id is unused, or used twice"
    assert [tokenizer.token_to_id(token) for token in (BOS, EOS, PAD)] == [0, 1, 2]
    for token in added_tokens():
        assert ids(token.content) == [tokenizer.token_to_id(token.content)], token.content
        assert ids("a" + token.content + "b")[1] == tokenizer.token_to_id(token.content), token.content
    behind = [tokenizer.token_to_id(token.content) for token in added_tokens()[3:]]
    assert behind == list(range(size - len(behind), size)), "the added tokens are not at the end"
    digits = {tokenizer.token_to_id(digit) for digit in "0123456789"}
    assert len(ids("12345")) == 5, "digits have merged"
    assert set(ids("12345")) <= digits, "a digit is not a token of its own"
    for text in (
        "  x = 12\n\n\tprint('hé')\r\n",
        "".join(map(chr, range(0x250))),
        "日本語 123456 🙂\u200b e\u0301 \x00",
    ):
        assert tokenizer.decode(ids(text), skip_special_tokens=False) == text, "a text does not survive the round trip"


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, the latter as DeepSeek's but for its chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(_configuration(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def _configuration() -> dict[str, Any]:
    """The real file's entries; its pad token, too, is EOS and not the token named pad."""

    def entry(content: str) -> dict[str, Any]:
        options = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
        return {"__type": "AddedToken", "content": content, **options}

    return {
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": entry(BOS),
        "clean_up_tokenization_spaces": False,
        "eos_token": entry(EOS),
        "legacy": True,
        "model_max_length": 1048576,
        "pad_token": entry(EOS),
        "sp_model_kwargs": {},
        "unk_token": None,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def sample(build: Path, limit: int = TRAINING_BYTES) -> Iterator[str]:
    """About `limit` bytes of the corpus, and then the sample of chats: documents are drawn by their hash."""
    corpus = build / "corpus" / "train.jsonl"
    share = min(1.0, limit / corpus.stat().st_size)
    with corpus.open(encoding="utf-8") as lines:
        for line in lines:
            text = json.loads(line)["text"]
            if int.from_bytes(hashlib.sha256(text.encode()).digest()[-4:], "big") < share * 2**32:
                yield text
    chats = build / "chats_sample.txt"
    if chats.is_file():
        yield from chats.read_text(encoding="utf-8").splitlines(keepends=True)


def main() -> None:
    """Train on the corpus and write the tokenizer."""
    parser = argparse.ArgumentParser(description="Train the tokenizer of ds4-tiny.")
    parser.add_argument("--build", type=Path, default=Path(__file__).parent / "build", help="where corpus.py wrote")
    parser.add_argument("--size", type=int, default=4096, help="ids in all")
    options = parser.parse_args()
    if not (options.build / "corpus" / "train.jsonl").is_file():
        sys.exit(f"There is no {options.build / 'corpus' / 'train.jsonl'}; run corpus.py first.")
    tokenizer = build_tokenizer(sample(options.build), options.size)
    save(tokenizer, options.build / "tokenizer")
    print(f"{options.size} tokens in {options.build / 'tokenizer'}")
    report_compression(tokenizer, options.build / "corpus" / "held_out.jsonl")


def report_compression(tokenizer: Tokenizer, held_out: Path) -> None:
    """Print the bytes per token of the held-out text."""
    lines = [json.loads(line) for line in held_out.read_text(encoding="utf-8").splitlines()]
    for kind in ("prose", "code"):
        texts = [line["text"] for line in lines if line["kind"] == kind]
        tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(texts, add_special_tokens=False))
        print(f"{kind}: {sum(len(text.encode()) for text in texts) / max(tokens, 1):.2f} bytes per token")


if __name__ == "__main__":
    main()
