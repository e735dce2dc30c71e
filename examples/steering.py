"""Steering: a direction in the streams, from two sets of prompts, pushes answers from one kind towards the other."""

import sys

import mlx.core as mx

import ds4_mlx
from ds4_mlx.text import encode_messages

TOWARDS = ["What is 12 + 30?", "What is 7 + 81?", "What is 408 + 226?"]
AWAY = ["Hello!", "Good morning.", "How are you?"]


def mean_streams(model: ds4_mlx.LanguageModel, texts: list[str]) -> mx.array:
    """[layers, N, D] at the last token of the prompts, where the answer begins."""
    prompts = [encode_messages([{"role": "user", "content": text}], thinking_mode="chat") for text in texts]
    last = [model.streams(model.tokenizer.encode(prompt))[:, -1] for prompt in prompts]
    return mx.stack(last).astype(mx.float32).mean(axis=0)


def main(folder: str | None = None) -> None:
    model = ds4_mlx.load(folder)
    direction = mean_streams(model, TOWARDS) - mean_streams(model, AWAY)  # [layers, N, D]
    layer = len(direction) // 2
    for scale in (0.0, 0.5, 1.0, 2.0):
        steered = model.steered({layer: scale * direction[layer]})  # the weights are shared, the cache is not
        events = steered.stream("Hi there!", temperature=0, thinking=False, max_tokens=24)
        print(f"scale {scale}: {''.join(event.text for event in events)!r}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
