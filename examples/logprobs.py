"""Logits of a text, and the logprobs of an answer with its alternatives."""

import sys

import mlx.core as mx

import ds4_mlx


def main(folder: str | None = None) -> None:
    model = ds4_mlx.load(folder)
    ids = model.tokenizer.encode("The cat sat on the mat.")
    logits = model.session().feed(ids)  # float32 [n, vocab]: of the token after each
    logs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    of_next = mx.take_along_axis(logs[:-1], mx.array(ids[1:])[:, None], axis=-1)
    print(f"perplexity of the text: {mx.exp(-of_next.mean()).item():.2f}")

    question = "What is 12 + 30?"
    for event in model.stream(question, temperature=0, thinking=False, max_tokens=32, top_logprobs=3):
        for token in event.tokens:
            others = [(model.tokenizer.token_bytes(i).decode(errors="replace"), round(p, 2)) for i, p in token.top]
            print(f"{token.data.decode(errors='replace')!r:10} {token.logprob:7.3f}  of {others}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
