"""`ds4-mlx calibrate`: its flags."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_LENGTH = 2048


def calibrate(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A released or exact model; the built-in ds4-tiny by default.")
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="CAL", help="The folder to write. Must not exist yet.")
    ] = ...,  # type: ignore[assignment]
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A text, a .jsonl of chats, or a folder of them; may be repeated. A set of ours by default.",
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Use about this many tokens, chosen by chance; all by default."),
    ] = None,
    length: Annotated[int, typer.Option(min=16, help="Texts are cut into pieces of so many tokens.")] = _LENGTH,
    sequential: Annotated[
        bool,
        typer.Option("--sequential", help="Quantise each layer before the next one is measured: slower, for q2 alone."),
    ] = False,
) -> None:
    """`ds4-mlx calibrate`."""
    from ds4_mlx.commands.calibrate import Request, run

    try:
        run(Request(model, output, text or [], tokens, length, sequential))
    except KeyboardInterrupt:
        typer.echo("\nInterrupted. What is finished is kept: the same command goes on from here.", err=True)
        raise typer.Exit(130) from None
