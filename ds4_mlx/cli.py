"""The `ds4-mlx` command: its flags and help. What a command does lives in `ds4_mlx.commands` and `ds4_convert`.

Heavy imports (mlx, tokenizers) happen inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import io
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ds4_mlx.commands.calibrate_app import calibrate
from ds4_mlx.commands.chat_app import HELP as CHAT_HELP
from ds4_mlx.commands.chat_app import chat
from ds4_mlx.commands.eval_app import app as eval_app
from ds4_mlx.commands.options import Effort, KvDir, Model
from ds4_mlx.commands.serve_app import serve
from ds4_mlx.commands.sessions_app import app as sessions_app
from ds4_mlx.errors import UserError

app = typer.Typer(
    help="DeepSeek V4 Flash on your own machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(sessions_app, name="sessions")
app.add_typer(eval_app, name="eval")
app.command(
    help="Measure what a model's experts are given, for `ds4-mlx convert --calibration`.\n\n"
    "A text goes through the model layer by layer; one layer is in memory at a time. An interrupted run resumes: "
    "repeat the command."
)(calibrate)
app.command(
    help="Serve the model over HTTP: OpenAI's chat completions, completions and responses, Anthropic's messages.\n\n"
    "Listens on this machine only, unless told otherwise. Ctrl-C or SIGTERM lets answers end and saves sessions."
)(serve)
app.command(help=CHAT_HELP)(chat)

ModelPath = Annotated[Path, typer.Argument(metavar="PATH", help="A model folder.")]
_PROMPT, _SAMPLING, _OUTPUT, _SESSION = "Prompt", "Sampling", "Output", "Session"


def _version(wanted: bool) -> None:
    if wanted:
        from ds4_mlx.commands.version import lines

        typer.echo("\n".join(lines()))
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show versions and backend, and exit.")
    ] = False,
) -> None:
    pass


@app.command(
    help="Generate an answer to one prompt.\n\n"
    "The prompt comes from -p, --prompt-file or standard input. The answer goes to standard output as it is generated; "
    "reasoning is shown dimmed on a terminal and goes to standard error otherwise. Ctrl-C stops."
)
def generate(
    prompt: Annotated[
        str | None, typer.Option("-p", "--prompt", help="The prompt: one user message.", rich_help_panel=_PROMPT)
    ] = None,
    prompt_file: Annotated[
        str | None,
        typer.Option(help="Read the prompt from a file (- for standard input).", rich_help_panel=_PROMPT),
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message.", rich_help_panel=_PROMPT)] = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Continue the text as it is, without the chat format.", rich_help_panel=_PROMPT),
    ] = False,
    think: Annotated[
        bool, typer.Option("--think/--no-think", help="Reason before answering.", rich_help_panel=_PROMPT)
    ] = True,
    effort: Annotated[
        Effort | None,
        typer.Option(help="How hard to reason; low is for 0731 models only.", rich_help_panel=_PROMPT),
    ] = None,
    model: Model = None,
    session: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Continue the saved conversation of this name or id, or begin it.",
            rich_help_panel=_SESSION,
        ),
    ] = None,
    kv_dir: KvDir = None,
    allow_other_weights: Annotated[
        bool,
        typer.Option(
            "--allow-other-weights",
            help="Continue it with other weights of the same checkpoint too.",
            rich_help_panel=_SESSION,
        ),
    ] = False,
    max_tokens: Annotated[
        int, typer.Option("-n", "--max-tokens", min=1, help="Generate at most this many tokens.")
    ] = 4096,
    ctx: Annotated[int, typer.Option(min=2, help="Context: prompt and answer together, in tokens.")] = 32768,
    temp: Annotated[
        float, typer.Option(min=0, max=100, help="Temperature; 0 is greedy.", rich_help_panel=_SAMPLING)
    ] = 1.0,
    top_p: Annotated[
        float, typer.Option(min=0, max=1, help="Keep the likeliest tokens up to this mass.", rich_help_panel=_SAMPLING)
    ] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Keep this many tokens; 0 is off.", rich_help_panel=_SAMPLING)] = 0,
    min_p: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Drop tokens less likely than this share of the best.", rich_help_panel=_SAMPLING
        ),
    ] = 0.0,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Same seed, same text; random by default.", rich_help_panel=_SAMPLING)
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="End the answer before this text; may be repeated.", rich_help_panel=_SAMPLING),
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print one JSON object at the end.", rich_help_panel=_OUTPUT)
    ] = False,
    stats: Annotated[
        bool, typer.Option("--stats", help="Show speeds and memory on stderr.", rich_help_panel=_OUTPUT)
    ] = False,
    dump_tokens: Annotated[
        bool,
        typer.Option("--dump-tokens", help="Print the prompt's tokens and exit.", rich_help_panel=_OUTPUT),
    ] = False,
    dump_logprobs: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write each token's logprobs, one JSON a line.", rich_help_panel=_OUTPUT),
    ] = None,
    top_logprobs: Annotated[
        int | None,
        typer.Option(min=0, metavar="K", help="With K alternatives per token; 5 by default.", rich_help_panel=_OUTPUT),
    ] = None,
) -> None:
    """`ds4-mlx generate`."""
    from ds4_mlx.commands.generate import Request, run

    request = Request(
        prompt=prompt,
        prompt_file=prompt_file,
        system=system,
        raw=raw,
        model=model,
        session=session,
        kv_dir=kv_dir,
        allow_other_weights=allow_other_weights,
        thinking=think,
        effort=effort.value if effort else None,
        max_tokens=max_tokens,
        context=ctx,
        stop=stop or [],
        sampling={"temperature": temp, "top_p": top_p, "top_k": top_k, "min_p": min_p, "seed": seed},
        as_json=json_,
        dump_tokens=dump_tokens,
        dump_logprobs=dump_logprobs,
        top_logprobs=top_logprobs,
        stats=stats,
    )
    raise typer.Exit(run(request))


class Profile(str, Enum):
    """How a conversion may store weights."""

    EXACT = "exact"
    Q2 = "q2"


class Method(str, Enum):
    """How experts may be quantised."""

    FEEDBACK = "feedback"
    IMATRIX = "imatrix"
    PLAIN = "plain"


@app.command(
    help="Convert a released checkpoint, or a GGUF file as ds4 runs them, to our format.\n\n"
    "Prints the plan first. An interrupted run resumes: repeat the command. A GGUF keeps every bit and can be had back "
    "with `ds4-mlx export`."
)
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="The folder of DeepSeek's checkpoint, or a ds4 GGUF file.")
    ],
    destination: Annotated[
        Path, typer.Option("-o", "--output", metavar="DST", help="The folder to write. Must not exist yet.")
    ],
    profile: Annotated[
        Profile | None,
        typer.Option(
            help="exact (default): every weight bit for bit. q2: routed experts 2-bit, the rest as released. A GGUF "
            "brings its own."
        ),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(metavar="CAL", help="For q2: the folder that `ds4-mlx calibrate` made.")
    ] = None,
    imatrix: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="For q2: how much each input column matters; a .dat file as ds4 writes."),
    ] = None,
    method: Annotated[
        Method | None,
        typer.Option(
            help="For q2. feedback: rounding errors are made up for in later columns; the default with --calibration. "
            "imatrix: columns weighted by their inputs. plain: by their weights."
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(metavar="A-B", help="Only these layers, counted from 0: a folder to measure, not to run."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Layers in work at once; each needs memory of its own.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan.")] = False,
) -> None:
    """`ds4-mlx convert`."""
    from ds4_convert import convert as run
    from ds4_convert.units import size

    try:
        outcome = run(
            source,
            destination,
            profile=profile.value if profile else None,
            method=method.value if method else None,
            imatrix=imatrix,
            calibration=calibration,
            layers=layers,
            jobs=jobs,
            dry_run=dry_run,
        )
    except KeyboardInterrupt:
        typer.echo("\nInterrupted. What is finished is kept: the same command goes on from here.", err=True)
        raise typer.Exit(130) from None
    if dry_run:
        return
    typer.echo(f"{destination}: done in {outcome.seconds:.1f} s, with at most {size(outcome.peak_memory)} of memory.")
    if layers is None:
        typer.echo(f"Next: ds4-mlx generate -m {destination} -p ...")


@app.command(
    help="Write a converted folder as a GGUF file that ds4 runs.\n\n"
    "A folder converted from a GGUF becomes that very file again, byte for byte."
)
def export(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A converted folder.")],
    gguf: Annotated[Path, typer.Option("--gguf", metavar="FILE", help="The file to write. Must not exist yet.")],
) -> None:
    """`ds4-mlx export`."""
    from ds4_convert.gguf.export import export_gguf
    from ds4_convert.units import size

    outcome = export_gguf(source, gguf)
    typer.echo(f"{gguf}: {outcome.tensors:,} tensors, {size(outcome.nbytes)}, written in {outcome.seconds:.1f} s.")
    if outcome.rounded:
        typer.echo(f"{outcome.rounded:,} of them were rounded: ds4's types have no FP8 and no bfloat16.")
    if outcome.left_out:
        typer.echo("The drafter was left out: ds4 reads one from a file of its own.")


@app.command(help="Tell what a model folder holds.")
def inspect(
    path: ModelPath,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """`ds4-mlx inspect`."""
    from ds4_convert import inspect as inspection

    report = inspection.inspect(path)
    _print_report(inspection, report, json_)


@app.command(help="Read a model folder again and compare it with its checksums. Exit code 1 if anything is damaged.")
def verify(
    path: ModelPath,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """`ds4-mlx verify`."""
    from ds4_convert import verify as verification

    report = verification.verify(path)
    _print_report(verification, report, json_)
    raise typer.Exit(0 if report.sound else 1)


class SyntheticSize(str, Enum):
    """Sizes of models made of random weights."""

    TINY = "tiny"
    FULL = "full"


class SyntheticProfile(str, Enum):
    """How such a model stores its routed experts."""

    EXACT = "exact"
    Q2 = "q2"


@app.command(
    help="Measure speed against the length of the context.\n\n"
    "A prompt of random tokens is fed up to one length after the other; at each, a copy of the session decodes."
)
def bench(
    model: Annotated[str | None, typer.Option("-m", "--model", help="A model folder or hub repository.")] = None,
    synthetic: Annotated[
        SyntheticSize | None, typer.Option(help="Random weights instead of a model: no file is read.")
    ] = None,
    profile: Annotated[
        SyntheticProfile, typer.Option(help="With --synthetic: routed experts as released, or 2-bit.")
    ] = SyntheticProfile.Q2,
    ctx_start: Annotated[int, typer.Option(help="The first length of the context, in tokens.")] = 512,
    ctx_max: Annotated[int, typer.Option(help="The last one, at most.")] = 2048,
    step: Annotated[int, typer.Option(help="From one to the next.")] = 512,
    gen_tokens: Annotated[int, typer.Option(min=1, help="Tokens to decode at each.")] = 64,
    suffixes: Annotated[
        str, typer.Option(metavar="N,N,...", help="Time messages of N tokens after the last context.")
    ] = "",
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the table.")] = None,
    json_: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write it with device and versions.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it, as PNG or SVG.")] = None,
    compare: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="An earlier --csv to draw beside it; may be repeated.")
    ] = None,
) -> None:
    """`ds4-mlx bench`."""
    from ds4_mlx.commands import bench as benchmark

    contexts = benchmark.frontiers(ctx_start, ctx_max, step)
    lengths = benchmark.suffix_lengths(suffixes) if suffixes else []
    if synthetic is not None and model is not None:
        raise UserError("--model and --synthetic name two models; give one of them.")
    if compare and plot is None:
        raise UserError("--compare needs --plot FILE to draw in.")
    if synthetic is not None:
        from ds4_mlx.engine.synthetic import synthetic_model

        chosen = synthetic_model(synthetic.value, profile.value)
    else:
        from ds4_mlx.engine.language_model import open_model

        chosen = open_model(model, cache_bytes=0)
    benchmark.run(chosen, contexts, gen_tokens, csv, json_, plot, compare or [], lengths)


def _print_report(module: Any, report: Any, as_json: bool) -> None:
    """A report through its module's `render` or `to_json`."""
    if as_json:
        import json

        typer.echo(json.dumps(module.to_json(report), indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    module.render(report, Console())


def run_app(command: typer.Typer) -> None:
    """Runs a typer app; whatever a person can mend becomes one sentence on stderr and exit code 2."""
    if sys.stdout is None:
        _fail("standard output is closed; there is nowhere to write to.")
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115  # read as empty until the program ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows ? instead of ending the program
    try:
        try:
            command()
        finally:
            sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever read our output has left
        _drop_output()
        sys.exit(1)
    except OSError as error:
        _drop_output()
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}.")
    except ImportError as error:
        # On Linux the package `mlx` comes without a backend; the extras bring one.
        if "libmlx" not in str(error):
            raise
        _fail(
            f"MLX has no backend here ({error}). Install one: pip install 'ds4-mlx[cuda13]' with an NVIDIA GPU, "
            "pip install 'ds4-mlx[cpu]' without."
        )


def _fail(message: str) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    sys.exit(2)


def _drop_output() -> None:
    """Sends what is still buffered nowhere; Python would complain about it again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Entry point of `ds4-mlx`."""
    run_app(app)


if __name__ == "__main__":
    main()
