"""What a released ds4-tiny can do, measured through ds4-mlx itself on held-out data; needs no GPU and no torch.

    python evaluate.py [--model FOLDER] [--against FOLDER] [--only addition ...] [--examples N] [--json FILE]

Everything is greedy and runs as users run it: bfloat16, rounding on. Prints a table. `--against` names another
profile of the same model, the exact one say, and adds how far the predictions are from its own.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import chats
import mlx.core as mx
import numpy as np
from corpus_texts import filler, read_texts
from mlx import nn

import ds4_mlx
from ds4_mlx.model import Batch, Span
from ds4_mlx.model.compressor import Projections
from ds4_mlx.model.indexer import IndexQueries
from ds4_mlx.text.special import ASSISTANT, EOS, THINK, THINK_END

HERE = Path(__file__).parent
SINGLE = ("addition", "subtraction", "word_problem", "strings", "copying", "code_output", "tool_call", "tool_answer")
RECALL = {"recall_1000": 1000, "recall_2000": 2000, "recall_4000": 4000}
OTHERS = ("perplexity_prose", "perplexity_code", "mtp")
AGAINST = ("kl_prose", "kl_code")
QUESTIONS = 5  # about each long prompt, which is read once


class Score(NamedTuple):
    """One row of the table."""

    name: str
    value: float
    count: int
    unit: str = "exact"


class RecentEntries(nn.Module):
    """Stands in for an indexer: the score of an entry is its number, so that the newest are chosen."""

    def prepare(self, x: mx.array, qr: mx.array, batch: Batch) -> IndexQueries:
        """Queries and weights of one, so that a key is its own score."""
        ones = mx.ones((x.shape[0], 1, 1))
        return IndexQueries(ones, ones[..., 0], Projections(ones, ones))

    def extend(self, prepared: IndexQueries, batch: Batch, layer: int) -> None:
        """Stores nothing."""

    def stored_keys(self, batch: Batch, span: Span, layer: int) -> mx.array:
        """One key [1] per complete block of four tokens."""
        return mx.arange(span.end // 4, dtype=mx.float32)[:, None]


def without_indexer(model: ds4_mlx.LanguageModel) -> None:
    """From now on the model's ratio-4 layers see the most recent entries instead of the indexer's choice."""
    for layer in model.network.layers:
        if "indexer" in layer.attn:
            layer.attn.indexer = RecentEntries()


def complete(model: ds4_mlx.LanguageModel, session: ds4_mlx.Session, text: str, limit: int = 400) -> list[int]:
    """Feeds text and decodes greedily up to EOS -> the new tokens, EOS included."""
    logits = session.feed(model.tokenizer.encode(text), last_only=True)
    ids: list[int] = []
    while True:
        ids.append(int(mx.argmax(logits[-1])))
        if ids[-1] == model.config.eos_token_id or len(ids) == limit:
            return ids
        logits = session.feed(ids[-1:], last_only=True)


def graded(model: ds4_mlx.LanguageModel, family: str, context: chats.Context, examples: int) -> Score:
    """Held-out chats of a family, thinking or not as they come; the last answer counts."""
    rng = random.Random(f"evaluate {family}")
    right = 0
    for _ in range(examples):
        example = chats.make(family, rng, held_out=True, context=context)
        text, _ = chats.prompt(example)
        right += chats.correct(example, model.tokenizer.decode(complete(model, model.session(), text)))
    return Score(family, right / examples, examples)


def recalled(model: ds4_mlx.LanguageModel, name: str, context: chats.Context, prompts: int) -> Score:
    """Long prompts, several questions each; the right answer goes into the history before the next question."""
    rng = random.Random(f"evaluate {name}")
    right = count = 0
    for _ in range(prompts):
        example = chats.recall(rng, held_out=True, context=context, tokens=RECALL[name], questions=QUESTIONS)
        session, fed = model.session(), ""
        for text, expected in _turns(example):
            got = model.tokenizer.decode(complete(model, session.fork(), text[len(fed) :], limit=60))
            right += got == expected
            count += 1
            session.feed(model.tokenizer.encode(text[len(fed) :] + expected), last_only=True)
            fed = text + expected
    return Score(name, right / count, count)


def _turns(example: chats.Example) -> Iterator[tuple[str, str]]:
    """For each graded answer the rendered chat up to it, and the answer with EOS."""
    text = chats.render(example)
    openings = (ASSISTANT + THINK_END, ASSISTANT + THINK)
    at = 0
    while True:
        places = [(text.find(opening, at), opening) for opening in openings]
        places = [place for place in places if place[0] >= 0]
        if not places:
            return
        start, opening = min(places)
        start += len(opening)
        at = text.index(EOS, start) + len(EOS)
        if not text[start:at].endswith(f"Noted.{EOS}"):  # the text itself, given over several turns
            yield text[:start], text[start:at]


def beginnings(model: ds4_mlx.LanguageModel, kind: str, texts: list[dict], tokens: int) -> Iterator[list[int]]:
    """Ids of the beginnings of held-out documents of a kind, each from BOS; about `tokens` in all."""
    documents = [text["text"] for text in texts if text["kind"] == kind]
    each = max(64, tokens // len(documents))
    for document in documents:
        yield [model.config.bos_token_id, *model.tokenizer.encode(document)][: each + 1]


def perplexity(model: ds4_mlx.LanguageModel, kind: str, texts: list[dict], tokens: int) -> Score:
    """exp(mean loss) of held-out text."""
    loss = count = 0.0
    for ids in beginnings(model, kind, texts, tokens):
        logits = model.session().feed(ids[:-1])
        chosen = mx.take_along_axis(logits, mx.array(ids[1:])[:, None], axis=-1)[:, 0]
        loss += float((mx.logsumexp(logits, axis=-1) - chosen).sum())
        count += len(ids) - 1
    return Score(f"perplexity_{kind}", math.exp(loss / count), int(count), "tokens")


def divergence(
    model: ds4_mlx.LanguageModel, exact: ds4_mlx.LanguageModel, kind: str, texts: list[dict], tokens: int
) -> Score:
    """Mean Kullback-Leibler divergence, in nats, from the exact model's next-token distribution to this one's."""
    total = count = 0.0
    for ids in beginnings(model, kind, texts, tokens):
        mine, other = (
            logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            for logits in (m.session().feed(ids[:-1]) for m in (model, exact))
        )
        total += float((mx.exp(other) * (other - mine)).sum())
        count += len(ids) - 1
    return Score(f"kl_{kind}", total / count, int(count), "tokens")


def mtp_acceptance(model: ds4_mlx.LanguageModel, context: chats.Context, examples: int) -> Score:
    """How often the MTP block's first choice is the token that the model then writes, over greedy answers to chats."""
    rng = random.Random("evaluate mtp")
    accepted = drafted = 0
    families = [family for family in chats.FAMILIES if family not in ("recall", "tool_call", "tool_answer")]
    for _ in range(examples):
        example = chats.make(rng.choice(families), rng, held_out=True, context=context)
        text, _ = chats.prompt(example)
        ids = model.tokenizer.encode(text)
        start = len(ids)
        ids += complete(model, model.session(), text)
        ((_, h),) = model.forward([(model.session(), ids[:-1])], with_streams=True)
        drafts = np.array(mx.argmax(model.mtp_logits(h, ids[1:], state=model.new_mtp_state()), axis=-1))
        # Row p drafts token p + 2. A draft needs one token of the answer (or the prompt's last) and the one before it.
        for position in range(start, len(ids)):
            accepted += int(drafts[position - 2] == ids[position])
            drafted += 1
    return Score("mtp", accepted / drafted, drafted, "drafts")


def measure(model: ds4_mlx.LanguageModel, name: str, held_out: list[dict], options: argparse.Namespace) -> Score:
    """One row."""
    context = chats.Context(filler=filler(held_out), count=lambda text: len(model.tokenizer.encode(text)))
    measures: dict[str, Callable[[], Score]] = {
        "mtp": lambda: mtp_acceptance(model, context, options.examples),
        "perplexity_prose": lambda: perplexity(model, "prose", held_out, options.tokens),
        "perplexity_code": lambda: perplexity(model, "code", held_out, options.tokens),
    }
    if name in measures:
        return measures[name]()
    if name in AGAINST:
        return divergence(model, ds4_mlx.load(options.against), name.removeprefix("kl_"), held_out, options.tokens)
    if name in RECALL:
        return recalled(model, name, context, max(1, options.examples // QUESTIONS))
    return graded(model, name, context, options.examples)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="folder (default: the built-in model)")
    parser.add_argument("--build", type=Path, default=HERE / "build", help="folder with corpus/")
    parser.add_argument("--against", type=Path, help="folder of another profile of the same model, to compare with")
    names = (*SINGLE, *RECALL, *OTHERS)
    parser.add_argument("--only", nargs="+", choices=names, default=list(names), metavar="NAME", help=", ".join(names))
    parser.add_argument("--examples", type=int, default=100, help="held-out questions per row")
    parser.add_argument("--tokens", type=int, default=20000, help="of held-out text per perplexity")
    parser.add_argument("--recent", action="store_true", help="most recent entries instead of the indexer's choice")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    model = ds4_mlx.load(options.model)
    if options.recent:
        without_indexer(model)
    held_out = read_texts(options.build / "corpus" / "held_out.jsonl")
    rows = []
    print(f"{'':20}{'value':>9}{'of':>8}          seconds")
    for name in [*options.only, *(AGAINST if options.against else ())]:
        start = time.monotonic()
        score = measure(model, name, held_out, options)
        rows.append(score._asdict())
        seconds = time.monotonic() - start
        print(f"{score.name:20}{score.value:9.4f}{score.count:8} {score.unit:8}{seconds:7.0f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"recent": options.recent, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
