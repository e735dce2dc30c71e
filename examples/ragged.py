"""One call for several sessions: while two of them decode, a third one's prompt is read along with them."""

import sys

import mlx.core as mx

import ds4_mlx


def main(folder: str | None = None) -> None:
    model = ds4_mlx.load(folder)
    talkers = [model.session(), model.session()]
    for session, text in zip(talkers, ("Once upon a time", "def add(a, b):"), strict=True):
        session.feed(model.tokenizer.encode(text))

    reader, prompt = model.session(), model.tokenizer.encode("A longer prompt. " * 60)
    chosen = [[0], [0]]
    while reader.position < len(prompt):
        chunk = prompt[reader.position : reader.position + 64]
        parts = [*zip(talkers, chosen, strict=True), (reader, chunk)]
        *rows, _ = model.forward(parts, last_only=True)
        chosen = [[int(mx.argmax(row[-1]))] for row in rows]
        print("positions", [s.position for s in (*talkers, reader)], "next tokens", chosen)


if __name__ == "__main__":
    main(*sys.argv[1:2])
