"""Several prompts in one ragged call, then all answers together: one token of each a call, until each has ended."""

import sys

import mlx.core as mx

import ds4_mlx
from ds4_mlx.text import encode_messages

QUESTIONS = ["What is 12 + 30?", "What is 408 + 226?", "Hello!"]


def main(folder: str | None = None) -> None:
    model = ds4_mlx.load(folder)
    sessions = [model.session() for _ in QUESTIONS]
    prompts = [encode_messages([{"role": "user", "content": text}], thinking_mode="chat") for text in QUESTIONS]
    parts = [(session, model.tokenizer.encode(p)) for session, p in zip(sessions, prompts, strict=True)]
    answers: dict[int, list[int]] = {i: [] for i in range(len(sessions))}
    running = list(answers)
    while running:
        rows = model.forward(parts, last_only=True)  # prompts of any lengths, or single tokens
        chosen = [int(mx.argmax(row[-1])) for row in rows]
        for i, token in zip(running, chosen, strict=True):
            answers[i].append(token)
        done = [i for i in running if answers[i][-1] == model.tokenizer.eos_id or len(answers[i]) == 32]
        running = [i for i in running if i not in done]
        parts = [(sessions[i], answers[i][-1:]) for i in running]
    for question, answer in zip(QUESTIONS, answers.values(), strict=True):
        ids = [token for token in answer if token != model.tokenizer.eos_id]
        print(f"{question} {model.tokenizer.decode(ids)}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
