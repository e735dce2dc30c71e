"""A question and its answer as one text."""

import sys

import ds4_mlx


def main(folder: str | None = None) -> None:
    model = ds4_mlx.load(folder)
    events = list(model.stream("What is 12 + 30?", temperature=0, thinking=False, max_tokens=64))
    print("".join(event.text for event in events))

    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is 408 + 226?"},
    ]
    for event in model.stream(messages, temperature=0.7, top_p=0.95, seed=1, thinking=False, max_tokens=64):
        print(event.text, end="", flush=True)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:2])
