"""Twenty samples for the model card: `python samples.py [FOLDER]` prints them as Markdown. Seeds are fixed."""

from __future__ import annotations

import sys

import ds4_mlx

OPENINGS = (
    "The king looked out of the window and",
    "It was late in the evening when Anne",
    "The function returns",
    "A list is",
    "Congress should",
    "The old man said that",
    "To install the package,",
    "She was very happy, because",
    "The most important thing about freedom is",
    "The ship",
    "If the file does not exist,",
    "In the morning, the soldiers",
    "The following example shows how to",
    "My dear friend,",
    "The people of the United States",
)
REQUESTS = (
    "Tell me a story about a brave cat.",
    "Hello! How are you today?",
    "Can you tell me a joke?",
    "Write a short story about a lighthouse.",
    "Who are you and what can you do?",
)


def main(folder: str | None = None) -> None:
    model = ds4_mlx.load(folder)
    for number, text in enumerate((*OPENINGS, *REQUESTS), 1):
        options = {"raw": True, "max_tokens": 60} if text in OPENINGS else {"thinking": False, "max_tokens": 120}
        events = model.stream(text, temperature=0.7, seed=number, **options)
        answer = " ".join("".join(event.text for event in events if event.kind != "done").split())
        print(f"{number}. **{text}** {answer}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
