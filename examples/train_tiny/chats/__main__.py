"""Show samples of the families, or write the text that the tokenizer is trained on.

python -m chats --family recall -n 3
python -m chats --sample build/chats_sample.txt --characters 6000000
"""

from __future__ import annotations

import argparse
import pydoc_data.topics
import random
import re
import time
from pathlib import Path

from . import FAMILIES, Context, make, render

_SPECIAL = re.compile(r"<｜[^｜<>]*｜>|｜DSML｜|</?think>")


def _documentation() -> list[str]:
    """English prose that every Python has: its own reference, in paragraphs."""
    text = "\n\n".join(pydoc_data.topics.topics.values())
    paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
    return [
        part for part in paragraphs if part.isascii() and part.endswith(".") and len(part) > 120 and "*" not in part
    ]


def _context() -> Context:
    # About four characters make a token; good enough for samples.
    return Context(_documentation(), lambda text: len(text) // 4)


def _examples(seed: int, characters: int) -> list[str]:
    """Rendered chats without special tokens, of all families by their shares of the characters."""
    context, rng = _context(), random.Random(seed)
    texts: list[str] = []
    for family, share in FAMILIES.items():
        left = share * characters
        while left > 0:
            text = render(make(family, rng, held_out=False, context=context))
            texts.append(_SPECIAL.sub("\n", text))
            left -= len(texts[-1])
    rng.shuffle(texts)
    return texts


def _write_sample(path: Path, characters: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(_examples(seed, characters)))
    print(f"wrote {path}: {path.stat().st_size} bytes")


def _measure(family: str, seed: int) -> None:
    context, rng = _context(), random.Random(seed)
    made, started = [], time.perf_counter()
    while time.perf_counter() - started < 1:
        made.append(make(family, rng, held_out=False, context=context))
    making = time.perf_counter() - started
    started = time.perf_counter()
    texts = sum(len(render(example)) for example in made)
    rendering = time.perf_counter() - started
    thinking = sum(example.thinking for example in made) / len(made)
    print(f"{family:16} {texts / (making + rendering):10.0f} characters/s, {texts / len(made):6.0f} per example, "
          f"render {1e6 * rendering / len(made):5.0f} of {1e6 * (making + rendering) / len(made):6.0f} us, "
          f"thinking {thinking:.2f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=[*FAMILIES, "all"], default="all")
    parser.add_argument("-n", type=int, default=2, help="samples of each family")
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", action="store_true", help="measure instead of printing samples")
    parser.add_argument("--sample", type=Path, help="write a text for tokenizer training here")
    parser.add_argument("--characters", type=int, default=6_000_000)
    args = parser.parse_args()
    if args.sample:
        _write_sample(args.sample, args.characters, args.seed)
        return
    context, rng = _context(), random.Random(args.seed)
    for family in FAMILIES if args.family == "all" else [args.family]:
        if args.speed:
            _measure(family, args.seed)
            continue
        for _ in range(args.n):
            print(f"--- {family}\n{render(make(family, rng, held_out=args.held_out, context=context))}")


if __name__ == "__main__":
    main()
