"""Files of known answers as ds4's tests have them, and whether a model gives them.

`official.vec`: greedy continuations of DeepSeek's own API. `local-golden.vec`: the top logits after a prompt, captured
from one model on one machine; thresholds are loose, to notice work that was left out or done wrong, not rounding. The
limits are those of ds4's own checker.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ds4_mlx.engine.generation import render_prompt
from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.engine.sampling import log_softmax
from ds4_mlx.engine.session import Session
from ds4_mlx.errors import UserError

_OFFICIAL_TOP, _OFFICIAL_DELTA = 20, 4.0
_GOLDEN_OVERLAPS = ((5, 4), (20, 15), (64, 40))  # of the first n at least so many
_GOLDEN_TOP, _GOLDEN_DELTA = 20, 8.0
_MODES = ("text", "rendered", "chat")


class Step(NamedTuple):
    """One token of an official answer: its bytes, and logprobs of tokens by their bytes."""

    selected: bytes
    top: list[tuple[bytes, float]]


@dataclass(frozen=True)
class Continuation:
    """A case of official.vec: the prompt as one user message, no thinking, greedy."""

    id: str
    context: int
    prompt_file: str
    steps: list[Step]


@dataclass(frozen=True)
class TopLogits:
    """A case of local-golden.vec: the largest logits after the first `frontier` tokens of a prompt, best first.

    mode: what the prompt file is: "text" and "rendered" are the prompt itself, "chat" is one user message.
    """

    id: str
    mode: str
    context: int
    frontier: int
    prompt_file: str
    top: list[tuple[int, float]]


@dataclass(frozen=True)
class Outcome:
    """What came of a case. detail: figures when it passed, the first thing that was wrong when not."""

    id: str
    passed: bool
    prompt_tokens: int
    detail: str


Case = Continuation | TopLogits


def read_cases(path: Path) -> list[Case]:
    """The cases of a file of either kind. Raises `UserError` with the line that cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    numbered = ((number, line.split()) for number, line in enumerate(lines, 1))
    content = ((number, words) for number, words in numbered if words and not words[0].startswith("#"))
    cases: list[Case] = []
    for number, words in content:
        try:
            if words[0] == "case" and len(words) == 5:
                cases.append(_continuation(words, content))
            elif words[0] == "case" and len(words) == 7:
                cases.append(_top_logits(words, content))
            else:
                raise ValueError("expected `case <id> <ctx> <steps> <prompt>` or the one of local-golden.vec")
        except (ValueError, IndexError, StopIteration, RuntimeError) as error:
            told = str(error) if isinstance(error, ValueError) else "the file ends within a case"
            raise UserError(f"{path}, case in line {number}: {told}.") from None
    if not cases:
        raise UserError(f"{path} has no cases.")
    return cases


_Lines = Iterator[tuple[int, list[str]]]


def _line(lines: _Lines, keyword: str, words: int) -> list[str]:
    number, line = next(lines)
    if line[0] != keyword or len(line) != words:
        raise ValueError(f"line {number} is {' '.join(line)!r}; expected {keyword!r} with {words - 1} values")
    return line[1:]


def _continuation(words: list[str], lines: _Lines) -> Continuation:
    _, name, context, count, prompt = words
    steps = []
    for index in range(int(count)):
        number, selected, top = _line(lines, "step", 4)
        if int(number) != index:
            raise ValueError(f"step {number} where {index} was expected")
        tops = [_line(lines, "top", 3) for _ in range(int(top))]
        steps.append(Step(bytes.fromhex(selected), [(bytes.fromhex(token), float(value)) for token, value in tops]))
    _line(lines, "end", 1)
    return Continuation(name, int(context), prompt, steps)


def _top_logits(words: list[str], lines: _Lines) -> TopLogits:
    _, name, mode, context, frontier, prompt, count = words
    if mode not in _MODES:
        raise ValueError(f"mode {mode!r}; expected one of {', '.join(_MODES)}")
    if not 0 < int(frontier) < int(context) or int(count) < 1:
        raise ValueError("expected 0 < frontier < ctx and at least one logit")
    top = []
    for rank in range(int(count)):
        number, token, value = _line(lines, "top", 4)
        if int(number) != rank:
            raise ValueError(f"rank {number} where {rank} was expected")
        top.append((int(token), float(value)))
    _line(lines, "end", 1)
    return TopLogits(name, mode, int(context), int(frontier), prompt, top)


def find_prompt(case: Case, path: Path, prompts: Path | None = None) -> str:
    """The prompt of a case of `path`: by its file's name in `prompts` if given; else, as the case names it, from the
    folder of `path` or one above, or from `prompts/` beside it. Raises `UserError` if there is none.
    """
    named = Path(case.prompt_file)
    folder = path.resolve().parent
    if prompts is not None:
        places = [prompts / named.name]
    else:
        places = [base / named for base in (folder, *folder.parents)] + [folder / "prompts" / named.name]
    for place in places:
        if place.is_file():
            return place.read_text(encoding="utf-8")
    raise UserError(f"The prompt {case.prompt_file} of {case.id} was not found; name its folder with --prompts.")


def check(model: LanguageModel, case: Case, prompt: str) -> Outcome:
    """Runs one case."""
    if isinstance(case, Continuation):
        return _check_continuation(model, case, prompt)
    return _check_logits(model, case, prompt)


def _check_continuation(model: LanguageModel, case: Continuation, prompt: str) -> Outcome:
    ids = model.tokenizer.encode(render_prompt(model, prompt, thinking=False))
    if len(ids) + len(case.steps) > case.context:
        return Outcome(case.id, False, len(ids), f"the prompt has {len(ids)} tokens; its context is {case.context}")
    said, furthest = b"", 0.0

    def failed(step: int, why: str) -> Outcome:
        return Outcome(case.id, False, len(ids), f"step {step}: {why}")

    for step, (expected, logprobs) in enumerate(zip(case.steps, _greedy(model, model.session(), ids), strict=False)):
        best = np.argsort(-logprobs)[:_OFFICIAL_TOP]
        top = {model.tokenizer.token_bytes(int(token)): float(logprobs[token]) for token in best}
        got = model.tokenizer.token_bytes(int(best[0]))
        if got != expected.selected:
            return failed(step, f"wrote {_shown(got)}, expected {_shown(expected.selected)}")
        for token, logprob in expected.top:
            if token not in top:
                return failed(step, f"{_shown(token)} is not among the {_OFFICIAL_TOP} likeliest")
            furthest = max(furthest, abs(top[token] - logprob))
            if furthest > _OFFICIAL_DELTA:
                return failed(step, f"logprob of {_shown(token)} is {top[token]:.2f}, expected {logprob:.2f}")
        said += got
    return Outcome(case.id, True, len(ids), f"{_shown(said)}, logprobs within {furthest:.2f}")


def _greedy(model: LanguageModel, session: Session, ids: list[int]) -> Iterator[np.ndarray]:
    """Log-probabilities float32 [vocab] after the prompt, then after each token that was likeliest."""
    while True:
        row = np.array(log_softmax(session.feed(ids, last_only=True)[-1]))
        yield row
        ids = [int(row.argmax())]


def _check_logits(model: LanguageModel, case: TopLogits, prompt: str) -> Outcome:
    text = render_prompt(model, prompt, thinking=False) if case.mode == "chat" else prompt
    ids = model.tokenizer.encode(text)
    if len(ids) < case.frontier:
        return Outcome(
            case.id, False, len(ids), f"the prompt has {len(ids)} tokens; the capture is after {case.frontier}"
        )
    wrong = [token for token, _ in case.top if not 0 <= token < model.config.vocab_size]
    if wrong:
        return Outcome(case.id, False, len(ids), f"token {wrong[0]} is outside the vocabulary: another model's file")
    logits = np.array(model.session().feed(ids[: case.frontier], last_only=True)[-1])
    expected = [token for token, _ in case.top]
    best = np.argsort(-logits)[: len(expected)].tolist()
    furthest = max(abs(float(logits[token]) - value) for token, value in case.top[:_GOLDEN_TOP])
    words = []
    passed = best[0] == expected[0] and furthest <= _GOLDEN_DELTA
    for first, least in _GOLDEN_OVERLAPS:
        if len(expected) >= first:
            overlap = len(set(best[:first]) & set(expected[:first]))
            words.append(f"{overlap} of the first {first}")
            passed = passed and overlap >= least
    if best[0] != expected[0]:
        words.insert(0, f"token {best[0]} comes first, expected {expected[0]}")
    return Outcome(case.id, passed, case.frontier, ", ".join([*words, f"logits within {furthest:.2f}"]))


def _shown(data: bytes) -> str:
    return repr(data.decode("utf-8", "replace"))
