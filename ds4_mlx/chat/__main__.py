"""`python -m ds4_mlx.chat`: the same as `ds4-mlx chat`."""

import typer

from ds4_mlx.cli import run_app
from ds4_mlx.commands.chat_app import HELP, chat


def main() -> None:
    """Entry point."""
    names = {"help_option_names": ["-h", "--help"]}
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False, context_settings=names)
    app.command(help=HELP)(chat)
    run_app(app)


if __name__ == "__main__":
    main()
