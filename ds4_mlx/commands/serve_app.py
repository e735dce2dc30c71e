"""The flags and help of `ds4-mlx serve`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ds4_mlx.commands.options import KvDir, Model

_NETWORK, _MEMORY, _LOGS = "Network", "Memory", "Logs"


class LogLevel(str, Enum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def serve(
    model: Model = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=MODEL]",
            help="A further name in the list of models, for deepseek-v4-flash or the one given; may be repeated. "
            "Requests may ask for any name anyway.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.", rich_help_panel=_NETWORK)] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.", rich_help_panel=_NETWORK)
    ] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="DS4_MLX_API_KEY",
            show_envvar=True,
            help="The key that requests must bring; without one, everybody is let in.",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Read the key from a file.", rich_help_panel=_NETWORK)
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="Listen on an address others can reach without a key.", rich_help_panel=_NETWORK
        ),
    ] = False,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Let pages of this origin ask, * for all; may be repeated.",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    ctx: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Context: prompt and answer together, in tokens. By default the model's, or what --kv-memory holds.",
            rich_help_panel=_MEMORY,
        ),
    ] = None,
    kv_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory for sessions, such as 8G; by default an eighth of all.",
            rich_help_panel=_MEMORY,
        ),
    ] = None,
    kv_dir: KvDir = None,
    kv_disk: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Disk for sessions; 32G by default.", rich_help_panel=_MEMORY),
    ] = None,
    max_batch: Annotated[
        int, typer.Option(min=1, help="Requests answered at the same time.", rich_help_panel=_MEMORY)
    ] = 8,
    max_queue: Annotated[
        int, typer.Option(min=0, help="Requests that may wait; more are sent away.", rich_help_panel=_MEMORY)
    ] = 64,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Append every request and its answer, one JSON object a line.", rich_help_panel=_LOGS
        ),
    ] = None,
    log_level: Annotated[LogLevel, typer.Option(help="How much to log.", rich_help_panel=_LOGS)] = LogLevel.INFO,
) -> None:
    """`ds4-mlx serve`."""
    from ds4_mlx.commands.serve import Flags, run

    run(
        Flags(
            model=model,
            aliases=alias or [],
            host=host,
            port=port,
            api_key=api_key,
            api_key_file=api_key_file,
            insecure=insecure,
            cors=cors or [],
            context=ctx,
            kv_memory=kv_memory,
            kv_dir=kv_dir,
            kv_disk=kv_disk,
            max_batch=max_batch,
            max_queue=max_queue,
            trace=trace,
            log_level=log_level.value,
        )
    )
