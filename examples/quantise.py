"""Routed experts in 2 bits, compared with what they were: size, top-1 agreement, KL divergence on a text."""

import sys
import tempfile
from pathlib import Path

import mlx.core as mx

import ds4_mlx
from ds4_convert import convert
from ds4_mlx.engine.hub import DEFAULT_MODEL

TEXT = "The old mill stood by the river. Nobody had used it for years. Grass grew on its roof, and birds lived there."


def logs(model: ds4_mlx.LanguageModel) -> mx.array:
    """Log probabilities after every token of the text: float32 [n, vocab]."""
    logits = model.session().feed(model.tokenizer.encode(TEXT))
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def main(folder: str | None = None) -> None:
    source = Path(folder) if folder else DEFAULT_MODEL
    with tempfile.TemporaryDirectory() as workplace:
        small = Path(workplace) / "q2"
        convert(source, small, profile="q2")
        before, after = ds4_mlx.load(source), ds4_mlx.load(small)
        p, q = logs(before), logs(after)
        sizes = [model.checkpoint.memory_bytes() / 1e6 for model in (before, after)]
        print(f"\nweights: {sizes[0]:.1f} MB -> {sizes[1]:.1f} MB")
        print(f"same likeliest token: {(p.argmax(-1) == q.argmax(-1)).astype(mx.float32).mean().item():.0%}")
        print(f"KL divergence: {(mx.exp(p) * (p - q)).sum(-1).mean().item():.4f} nats a token")


if __name__ == "__main__":
    main(*sys.argv[1:2])
