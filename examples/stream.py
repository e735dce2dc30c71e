"""An answer as it is generated: reasoning and content apart, figures at the end."""

import sys

import ds4_mlx


def main(folder: str | None = None) -> None:
    model = ds4_mlx.load(folder)
    kind = ""
    for event in model.stream("What is 12 + 30?", temperature=0, max_tokens=128):
        if event.kind == "done":
            print(f"\n[{event.stats.decode_tps:.0f} tokens/s, ended by {event.stats.finish_reason}]")
        else:
            if event.kind != kind:
                print(f"\n{event.kind}: ", end="")
                kind = event.kind
            print(event.text, end="", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:2])
