"""Held-out figures while training runs: exact answers by family, perplexity, MTP acceptance.

Many held-out chats are packed into rows of the training shape. An answer counts as right if every one of its tokens is
the most likely one given those before, which is the case exactly if greedy decoding writes it.
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import NamedTuple

import chats
import numpy as np
import torch
from attention import CHOSEN, RECENT, Mode, documents
from batches import Corpus, RowMaker
from network import Network
from torch import Tensor


class Span(NamedTuple):
    """Tokens [start, stop) of a row are an answer of this family."""

    row: int
    start: int
    stop: int
    family: str


class Paper(NamedTuple):
    """Questions: ids int64 [B, S + 2], and where the answers are."""

    name: str
    ids: Tensor
    spans: list[Span]


def chat_papers(maker: RowMaker, rows: int, length: int, each: int) -> list[Paper]:
    """`each` held-out examples of every family, packed."""
    rng = random.Random("held out")
    context = maker.context
    examples = [
        chats.make(f, rng, held_out=True, context=context) for f in chats.FAMILIES if f != "recall" for _ in range(each)
    ]
    rng.shuffle(examples)
    return _pack("chats", [(e, f"{e.family}{'_think' if e.thinking else ''}") for e in examples], maker, rows, length)


def recall_papers(maker: RowMaker, rows: int, length: int) -> list[Paper]:
    """Long prompts; each question about them is graded. `recall_n`: a few planted facts; `crowd_n`: very many."""
    papers = []
    for tokens, crowd in ((300, False), (1000, False), (2000, False), (4000, False), (1000, True), (4000, True)):
        name = f"{'crowd' if crowd else 'recall'}_{tokens}"
        rng = random.Random(name)
        made = [
            chats.recall(rng, held_out=True, context=maker.context, tokens=tokens, questions=8, crowd=crowd)
            for _ in range(rows * (length // tokens))
        ]
        papers += _pack("recall", [(e, name) for e in made], maker, rows, length)[:1]
    return papers


def _pack(name: str, examples: list, maker: RowMaker, rows: int, length: int) -> list[Paper]:
    papers: list[Paper] = []
    ids = np.zeros((rows, length + 2), dtype=np.int64)
    spans: list[Span] = []
    row, at = 0, 0
    for example, family in examples:
        piece, weights = maker.chat(example)
        if len(piece) > length:
            continue
        if at + len(piece) > length:
            row, at = row + 1, 0
            if row == rows:
                papers.append(Paper(name, torch.from_numpy(ids), spans))
                ids, spans, row = np.zeros((rows, length + 2), dtype=np.int64), [], 0
        ids[row, at : at + len(piece)] = piece
        said = np.flatnonzero(np.diff(np.concatenate([[0], weights >= 1, [0]]).astype(int)))
        runs = list(zip(said[::2], said[1::2], strict=True))
        for start, stop in runs if name == "recall" else runs[-1:]:
            spans.append(Span(row, at + int(start), at + int(stop), family))
        at += len(piece)
    papers.append(Paper(name, torch.from_numpy(ids), spans))
    return papers


def prose_paper(corpus: Corpus, rows: int, length: int) -> Paper:
    """Held-out documents one after another."""
    ids = corpus.ids[: rows * (length + 2)].astype(np.int64)
    ids = np.resize(ids, rows * (length + 2)) if len(ids) < rows * (length + 2) else ids
    return Paper("prose", torch.from_numpy(ids.reshape(rows, length + 2)), [])


def examine(network: Network, weights: dict[str, Tensor], papers: list[Paper], device: str) -> dict[str, float]:
    """family -> share of exact answers; `recent:family` with the most recent entries instead of the indexer's choice;
    `perplexity` of held-out prose and code; `mtp` acceptance on what assistants say.
    """
    right: dict[str, list[bool]] = defaultdict(list)
    result: dict[str, float] = {}
    for paper in papers:
        ids = paper.ids.to(device)
        for choice, label in ((CHOSEN, ""), (RECENT, "recent:")):
            if choice == RECENT and paper.name != "recall":
                continue
            # With gradients on, only so that training's compiled graphs serve; they are dropped at once.
            out = network(weights, ids[:, :-2], Mode(torch.tensor(choice, device=device)), ids[:, 1:-1], documents(ids))
            logits = out.logits.detach()
            if paper.name == "prose":
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:-1].flatten())
                result["perplexity"] = float(loss.exp())
                break
            best, drafts = logits.argmax(-1), out.mtp.detach().argmax(-1)
            hits = (best == ids[:, 1:-1]).cpu().numpy()
            accepted = (drafts[:, :-1] == best[:, 1:]).cpu().numpy()  # MTP at p and the model at p + 1 name token p + 2
            for span in paper.spans:
                right[label + span.family].append(bool(hits[span.row, span.start - 1 : span.stop - 1].all()))
                if not label:
                    right["mtp"].extend(accepted[span.row, max(span.start - 2, 0) : span.stop - 2].tolist())
            del out, logits  # and the graph behind them, before the next one is built
    return result | {name: sum(marks) / len(marks) for name, marks in sorted(right.items())}
