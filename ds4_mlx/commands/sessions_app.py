"""The flags and help of `ds4-mlx sessions`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ds4_mlx.commands.options import KvDir

app = typer.Typer(
    help="Saved sessions: list, show, remove, verify, carry to another machine.\n\nWithout a command, the list.",
    invoke_without_command=True,
)

Session = Annotated[str, typer.Argument(metavar="SESSION", help="A name, an id, or the beginning of an id.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def sessions(context: typer.Context, kv_dir: KvDir = None, json_: Json = False) -> None:
    """`ds4-mlx sessions`."""
    context.obj = kv_dir
    if context.invoked_subcommand is None:
        from ds4_mlx.commands.sessions import show_list

        show_list(kv_dir, json_)


@app.command("list", help="List the sessions, the last used first.")
def list_(context: typer.Context, kv_dir: KvDir = None, json_: Json = False) -> None:
    """`ds4-mlx sessions list`."""
    from ds4_mlx.commands.sessions import show_list

    show_list(kv_dir or context.obj, json_)


@app.command(help="Print a session's conversation.")
def show(context: typer.Context, session: Session, kv_dir: KvDir = None, json_: Json = False) -> None:
    """`ds4-mlx sessions show`."""
    from ds4_mlx.commands.sessions import show as run

    run(kv_dir or context.obj, session, json_)


@app.command(help="Remove sessions. What others share with them stays.")
def rm(
    context: typer.Context,
    sessions: Annotated[list[str], typer.Argument(metavar="SESSION...", help="Names, ids, or beginnings of ids.")],
    kv_dir: KvDir = None,
) -> None:
    """`ds4-mlx sessions rm`."""
    from ds4_mlx.commands.sessions import remove

    remove(kv_dir or context.obj, sessions)


@app.command(help="Remove the least valuable sessions until a budget is kept, and files that belong to no session.")
def prune(
    context: typer.Context,
    budget: Annotated[str | None, typer.Option(metavar="SIZE", help="Such as 500M or 20G; 32G by default.")] = None,
    kv_dir: KvDir = None,
) -> None:
    """`ds4-mlx sessions prune`."""
    from ds4_mlx.commands.sessions import prune as run

    run(kv_dir or context.obj, budget)


@app.command(help="Read all files again and compare them with their checksums. Exit code 1 if a session is not whole.")
def verify(context: typer.Context, kv_dir: KvDir = None, json_: Json = False) -> None:
    """`ds4-mlx sessions verify`."""
    from ds4_mlx.commands.sessions import verify as run

    raise typer.Exit(run(kv_dir or context.obj, json_))


@app.command(help="Write a session to one file.")
def export(
    context: typer.Context,
    session: Session,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write. Must not exist yet.")],
    kv_dir: KvDir = None,
) -> None:
    """`ds4-mlx sessions export`."""
    from ds4_mlx.commands.sessions import export as run

    run(kv_dir or context.obj, session, path)


@app.command("import", help="Take in a session that was exported.")
def import_(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A file written by export.")],
    kv_dir: KvDir = None,
) -> None:
    """`ds4-mlx sessions import`."""
    from ds4_mlx.commands.sessions import load

    load(kv_dir or context.obj, path)
