"""A session is fed, forked, rewound, saved, and gone on with: nothing is computed twice."""

import sys
import tempfile

import mlx.core as mx

import ds4_mlx


def greedy(session: ds4_mlx.Session, count: int) -> str:
    """The likeliest `count` tokens as text."""
    begin = session.position
    for _ in range(count):
        session.feed([int(mx.argmax(session.logits))])
    return session.model.tokenizer.decode(session.token_ids[begin:])


def main(folder: str | None = None) -> None:
    with tempfile.TemporaryDirectory() as kv_dir:
        model = ds4_mlx.load(folder, kv_dir=kv_dir)
        story = model.session()
        story.feed(model.tokenizer.encode("Once upon a time there was a"))
        start = story.position

        other = story.fork()  # shares all of the past
        other.feed(model.tokenizer.encode(" dog"))
        print("first  :", greedy(story, 8))
        print("other  :", greedy(other, 8))

        story.rewind(start)  # to any place
        story.feed(model.tokenizer.encode(" king"))
        print("rewound:", greedy(story, 8))

        head = other.save("dog")
        again = ds4_mlx.load(folder, kv_dir=kv_dir).restore("dog")  # in any later process
        print(f"saved as {head.id}: {head.tokens} tokens; goes on alike:", greedy(again, 8) == greedy(other, 8))


if __name__ == "__main__":
    main(*sys.argv[1:2])
