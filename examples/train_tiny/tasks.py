"""Writes the graded tasks that `ds4-mlx eval tasks` ships: held-out chats of every family, the same ones every time.

    python tasks.py > ../../ds4_mlx/evaluation/data/tasks.jsonl

Long prompts take their prose from the evaluation text of the package, which is not in the training corpus.
"""

from __future__ import annotations

import json
import random

import chats

from ds4_mlx.engine.hub import DEFAULT_MODEL
from ds4_mlx.evaluation.texts import DEFAULT_TEXTS
from ds4_mlx.text import encode_messages, load_tokenizer

SINGLE = ("addition", "subtraction", "word_problem", "strings", "copying", "code_output", "tool_call", "tool_answer")
EACH = 12


def main() -> None:
    tokenizer = load_tokenizer(DEFAULT_MODEL)
    paragraphs = [part for part in DEFAULT_TEXTS[0].read_text(encoding="utf-8").split("\n\n") if len(part) < 1200]
    context = chats.Context(filler=paragraphs, count=lambda text: len(tokenizer.encode(text)))
    for family in (*SINGLE, "recall_1000"):
        rng = random.Random(f"tasks {family}")
        for _ in range(EACH):
            if family == "recall_1000":
                example = chats.recall(rng, held_out=True, context=context, tokens=1000, questions=1)
            else:
                example = chats.make(family, rng, held_out=True, context=context)
            *messages, expected = example.messages
            mode = "thinking" if example.thinking else "chat"
            assert encode_messages(messages, thinking_mode=mode) == chats.prompt(example)[0]
            line = {"family": family, "messages": messages, "thinking": example.thinking, "expected": expected}
            print(json.dumps(line, ensure_ascii=False))


if __name__ == "__main__":
    main()
