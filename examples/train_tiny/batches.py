"""Training rows: prose, code and chats packed into rows of a fixed length, made by worker processes ahead of use.

Batch number n is a function of the seed and n alone, so a run that was cut off goes on with the very same data.
"""

from __future__ import annotations

import multiprocessing
import os
import random
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from multiprocessing.pool import AsyncResult
from pathlib import Path
from typing import NamedTuple

import chats
import numpy as np
from corpus_texts import filler, read_texts
from tokenizers import Tokenizer

from ds4_mlx.text.special import ASSISTANT

_PROSE_SHARE = 0.25  # of all rows; the others hold chats
_READ_WEIGHT = 0.1  # what the model only reads (user turns, tool results) counts this much in the loss
_RECALL_WEIGHT = 3.0  # and this much what it recalls: a few tokens behind a long prompt
_LONG_SHARE = 0.3  # of the chat rows begin with one long recall conversation
_AHEAD = 4  # batches per worker made before they are asked for


class Batch(NamedTuple):
    """ids uint16 [B, S + 2] and, for each as a target, its weight in the loss float16 [B, S + 2]."""

    ids: np.ndarray
    weights: np.ndarray


class Corpus(NamedTuple):
    """Documents as one flat array of ids with their starts, each from BOS to EOS; and paragraphs for filler."""

    ids: np.ndarray
    starts: np.ndarray
    filler: list[str]


def tokenise(path: Path, tokenizer: Tokenizer) -> Corpus:
    """Reads and encodes one split of the corpus."""
    texts = read_texts(path)
    bos, eos = 0, 1
    documents = []
    for start in range(0, len(texts), 2000):
        some = [text["text"] for text in texts[start : start + 2000]]
        for encoding in tokenizer.encode_batch_fast(some, add_special_tokens=False):
            documents.append(np.array([bos, *encoding.ids, eos], dtype=np.uint16))
    starts = np.cumsum([0, *(len(d) for d in documents)])
    return Corpus(np.concatenate(documents), starts, filler(texts))


class RowMaker:
    """Makes rows; one per worker process."""

    def __init__(self, tokenizer: Tokenizer, corpus: Corpus) -> None:
        self._tokenizer, self._corpus = tokenizer, corpus
        self.context = chats.Context(filler=corpus.filler, count=self._count)
        self._assistant = tokenizer.token_to_id(ASSISTANT)
        self._eos = 1
        self._families = list(chats.FAMILIES)
        self._chances = [share / self._tokens_of(family) for family, share in chats.FAMILIES.items()]

    def _count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def chat(self, example: chats.Example) -> tuple[np.ndarray, np.ndarray]:
        """Ids of the rendered chat and the weight of each as a target: full for what the assistant says."""
        ids = np.array(self._tokenizer.encode(chats.render(example), add_special_tokens=False).ids, dtype=np.uint16)
        # The assistant's part runs from behind `<｜Assistant｜>` and its think tag to EOS.
        opened = np.cumsum(ids == self._assistant)
        closed = np.cumsum(ids == self._eos) - (ids == self._eos)
        speaks = opened > closed
        speaks[1:] &= ids[:-1] != self._assistant  # the think tag is given
        speaks &= ids != self._assistant
        said = _RECALL_WEIGHT if example.family == "recall" else 1.0
        return ids, np.where(speaks, said, _READ_WEIGHT).astype(np.float16)

    def prose_row(self, rng: random.Random, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Documents in random order, the first cut at a random place, until the row is full."""
        corpus, pieces, have = self._corpus, [], 0
        while have < length:
            document = rng.randrange(len(corpus.starts) - 1)
            piece = corpus.ids[corpus.starts[document] : corpus.starts[document + 1]]
            if not pieces and rng.random() < 0.7:
                piece = piece[rng.randrange(len(piece)) :]
            pieces.append(piece)
            have += len(piece)
        return np.concatenate(pieces)[:length], np.ones(length, dtype=np.float16)

    def chat_row(self, rng: random.Random, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Chats of all families, shares counted in tokens; the last one is cut where the row ends."""
        examples = []
        if rng.random() < _LONG_SHARE:
            tokens = int(300 * (length / 300) ** rng.random() ** 0.7)
            questions = rng.randint(6, 16)
            crowd = rng.random() < chats.CROWD_SHARE
            examples.append(
                chats.recall(rng, held_out=False, context=self.context, tokens=tokens, questions=questions, crowd=crowd)
            )
        ids, weights, have = [], [], 0
        while have < length:
            piece, weight = self.chat(examples.pop() if examples else self._any(rng))
            if len(piece) > 1.5 * (length - have) and have < 0.95 * length:
                continue  # most of it would be cut off: another one
            ids.append(piece)
            weights.append(weight)
            have += len(piece)
        return np.concatenate(ids)[:length], np.concatenate(weights)[:length]

    def _any(self, rng: random.Random) -> chats.Example:
        family = rng.choices(self._families, self._chances)[0]
        return chats.make(family, rng, held_out=False, context=self.context)

    def _tokens_of(self, family: str) -> float:
        """The mean length of a family's chats: shares are of tokens, so long ones must be drawn less often."""
        rng = random.Random(family)
        made = [chats.make(family, rng, held_out=False, context=self.context) for _ in range(20)]
        return sum(len(self.chat(example)[0]) for example in made) / len(made)

    def batch(self, number: int, *, seed: int, rows: int, length: int) -> Batch:
        """Batch `number` of a run."""
        rng = random.Random(f"{seed}/{number}")
        made = [
            self.prose_row(rng, length + 2) if rng.random() < _PROSE_SHARE else self.chat_row(rng, length + 2)
            for _ in range(rows)
        ]
        return Batch(np.stack([ids for ids, _ in made]), np.stack([weights for _, weights in made]))


_maker: RowMaker | None = None


def _start_worker(tokenizer_path: str, corpus: Corpus) -> None:
    global _maker  # noqa: PLW0603 - what a worker process keeps
    os.nice(19)  # the process that feeds the GPU comes first
    _maker = RowMaker(Tokenizer.from_file(tokenizer_path), corpus)


def _make(number: int, *, seed: int, rows: int, length: int) -> Batch:
    assert _maker is not None
    return _maker.batch(number, seed=seed, rows=rows, length=length)


def batches(
    tokenizer_path: Path,
    corpus: Corpus,
    numbers: Iterable[int],
    *,
    seed: int,
    rows: int,
    length: int,
    workers: int,
) -> Iterator[Batch]:
    """The batches of `numbers` in order, made by `workers` processes, so many ahead that none waits for another.

    No more than that: workers that run on without end slow down the process that feeds the GPU.
    """
    make = partial(_make, seed=seed, rows=rows, length=length)
    context = multiprocessing.get_context("fork")
    with context.Pool(workers, _start_worker, (str(tokenizer_path), corpus)) as pool:
        pending: deque[AsyncResult[Batch]] = deque()
        for number in numbers:
            pending.append(pool.apply_async(make, (number,)))
            if len(pending) == _AHEAD * workers:
                yield pending.popleft().get()
        while pending:
            yield pending.popleft().get()
