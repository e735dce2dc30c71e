"""Answers sampled at random from what a constraint allows: no model, any tokenizer."""

import random

import numpy as np

from ds4_mlx.engine.constraints import GrammarConstraint
from ds4_mlx.text import Tokenizer

_ENDS = [f"{brackets}</｜DSML｜parameter>\n" for brackets in ("", '"', "]", "}", '"]', '"}', "]}", "}}", "]]")]
_BRACKETS = ('"', '"', '"', "]", "}", "0", "null", ".com")


class EndlessError(AssertionError):
    """A walk that found no way out: a required name, say, has to be spelt where any name may stand."""


def allowed(constraint: GrammarConstraint, tokenizer: Tokenizer) -> list[int]:
    mask = constraint.mask()
    if mask is None:
        return list(range(tokenizer.vocab_size))
    return np.nonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))[0].tolist()


def spell(constraint: GrammarConstraint, tokenizer: Tokenizer, text: str) -> bool:
    """Feeds a text as the tokenizer writes it; whether every token of it was allowed."""
    for token in tokenizer.encode(text):
        if token not in allowed(constraint, tokenizer):
            return False
        constraint.accept(token)
    return True


def walk(constraint: GrammarConstraint, tokenizer: Tokenizer, seed: int, limit: int = 600) -> str:
    """A random answer, up to its end. Values are random text of a few tokens, and then end as soon as they may."""
    rng = random.Random(seed)
    ids: list[int] = []
    free = 0
    while len(ids) < limit:
        tokens = allowed(constraint, tokenizer)
        if constraint.greedy():
            free = rng.randint(0, 4)
            # A model soon has enough of calling tools and of naming parameters.
            ends = [token for token in tokens if tokenizer.token_bytes(token) in (b"</", b'"', b'">')]
            chosen = [rng.choice(ends if ends and rng.random() < 0.8 else tokens)]
        elif free > 0:
            free -= 1
            chosen = [rng.choice(tokens)]
        else:
            chosen = _soonest_end(constraint, tokenizer, tokens, rng)
        for token in chosen:
            constraint.accept(token)
        ids += chosen
        if ids[-1] == tokenizer.eos_id:
            return tokenizer.decode(ids)
    raise EndlessError(f"No end after {limit} tokens: {tokenizer.decode(ids)[-300:]}")


def _soonest_end(
    constraint: GrammarConstraint, tokenizer: Tokenizer, tokens: list[int], rng: random.Random
) -> list[int]:
    if tokenizer.eos_id in tokens:
        return [tokenizer.eos_id]
    for text in _ENDS:
        if spell(constraint.clone(), tokenizer, text):
            return tokenizer.encode(text)
    brackets = [token for text in _BRACKETS if (token := tokenizer.id_of(text)) in tokens]
    return [rng.choice(brackets or tokens)]
