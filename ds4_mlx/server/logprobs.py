"""Log probabilities in OpenAI's shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ds4_mlx.engine.stats import Token
from ds4_mlx.text import Tokenizer
from ds4_mlx.text.special import EOS, THINK_END

# Tokens that end a part are sampled with it, and are not part of it.
_MARKS = {EOS.encode(), THINK_END.encode()}


def chat_logprobs(tokens: Sequence[Token], tokenizer: Tokenizer, name: str) -> dict[str, Any]:
    """{name: one entry per token}; name is "content" or, as DeepSeek has it, "reasoning_content"."""
    entries = []
    for token in written(tokens):
        top = [_entry(tokenizer.token_bytes(token_id), logprob) for token_id, logprob in token.top]
        entries.append({**_entry(token.data, token.logprob), "top_logprobs": top})
    return {name: entries}


def completion_logprobs(tokens: Sequence[Token], tokenizer: Tokenizer, offset: int) -> dict[str, Any]:
    """The lists of the older API. offset: characters before the first token."""
    offsets, strings = [], []
    for token in written(tokens):
        offsets.append(offset)
        strings.append(token.data.decode("utf-8", "replace"))
        offset += len(strings[-1])
    return {
        "tokens": strings,
        "token_logprobs": [_finite(token.logprob) for token in written(tokens)],
        "top_logprobs": [
            {
                tokenizer.token_bytes(token_id).decode("utf-8", "replace"): _finite(logprob)
                for token_id, logprob in token.top
            }
            for token in written(tokens)
        ],
        "text_offset": offsets,
    }


def written(tokens: Sequence[Token]) -> list[Token]:
    """The tokens without those that are marks."""
    return [token for token in tokens if token.data not in _MARKS]


def _entry(data: bytes, logprob: float | None) -> dict[str, Any]:
    return {"token": data.decode("utf-8", "replace"), "bytes": list(data), "logprob": _finite(logprob)}


def _finite(logprob: float | None) -> float | None:
    """JSON has no infinity; OpenAI writes this for a token that cannot be."""
    return logprob if logprob is None else max(logprob, -9999.0)
