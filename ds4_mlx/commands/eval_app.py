"""The flags and help of `ds4-mlx eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ds4_mlx.commands.options import Model

app = typer.Typer(
    help="Measure how good a model is: on a text, beside another, on known answers.\n\nHow to read the figures, and "
    "lm-evaluation-harness for a served model: docs/evaluation.md.",
    no_args_is_help=True,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Plot = Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it, as PNG or SVG.")]
Texts = Annotated[
    list[Path] | None,
    typer.Argument(metavar="FILE...", help="Text files; by default prose and code that come with the package."),
]
Window = Annotated[
    int, typer.Option("--ctx", min=1, help="Cut texts into pieces of so many tokens; each begins without a memory.")
]
Tokens = Annotated[
    int | None, typer.Option("--tokens", min=1, metavar="N", help="Only the first N tokens of each text.")
]


@app.command(help="How well a model predicts a text: exp of the mean loss per token.")
def perplexity(
    files: Texts = None,
    model: Model = None,
    ctx: Window = 2048,
    tokens: Tokens = None,
    json_: Json = False,
    plot: Plot = None,
) -> None:
    """`ds4-mlx eval perplexity`."""
    from ds4_mlx.commands.eval import run_perplexity

    run_perplexity(model, files or [], ctx, tokens, as_json=json_, plot=plot)


@app.command(
    help="How far models are from a reference model on the same text: divergence, same first choice, perplexity.\n\n"
    "The quality table of a quantisation: the exact model first, then its profiles. One model at a time is in memory; "
    "the reference's predictions wait on disk, half a megabyte a token for the full model."
)
def compare(
    reference: Annotated[str, typer.Argument(metavar="REFERENCE", help="Folder or hub repository.")],
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="What is compared with it.")],
    text: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A text file instead of the package's prose and code; may be repeated."),
    ] = None,
    ctx: Window = 2048,
    tokens: Tokens = None,
    scratch: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the predictions wait; the system's temporary folder.")
    ] = None,
    json_: Json = False,
    plot: Plot = None,
) -> None:
    """`ds4-mlx eval compare`."""
    from ds4_mlx.commands.eval import run_compare

    run_compare(reference, models, text or [], ctx, tokens, scratch, as_json=json_, plot=plot)


@app.command(
    help="Check known answers: ds4's official.vec and local-golden.vec, or captures of our own.\n\n"
    "A line per case; exit code 1 if one fails."
)
def vectors(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files of any of the three kinds.")],
    model: Model = None,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the prompts of .vec files are; by default where the files say."),
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(metavar="CASE", help="Leave a case out; may be repeated.")] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="For our captures: how far a logprob may be off, in nats.")
    ] = 0.25,
    json_: Json = False,
) -> None:
    """`ds4-mlx eval vectors`."""
    from ds4_mlx.commands.eval import run_vectors

    raise typer.Exit(run_vectors(files, model, prompts, skip or [], tolerance, as_json=json_))


@app.command(
    help="Capture what a model answers to prompts, with logprobs, for `eval vectors` to check elsewhere.\n\n"
    "Greedy; each file is one user message."
)
def capture(
    files: Annotated[list[Path], typer.Argument(metavar="PROMPT...", help="Text files.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The capture to write. Must be new.")],
    model: Model = None,
    steps: Annotated[int, typer.Option(min=1, help="Tokens of each answer, at most.")] = 16,
    top: Annotated[int, typer.Option(min=1, help="Logprobs at each token.")] = 20,
    think: Annotated[bool, typer.Option("--think/--no-think", help="Reason before answering.")] = False,
) -> None:
    """`ds4-mlx eval capture`."""
    from ds4_mlx.commands.eval import run_capture

    run_capture(files, output, model, steps, top, think)


@app.command(
    help="Small graded tasks, greedy: sums, strings, copying, tool calls, recall from long prompts.\n\n"
    "They are what ds4-tiny was trained for and say little about other models; docs/evaluation.md has what does."
)
def tasks(
    model: Model = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Tasks of your own, one JSON object a line.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="FAMILY", help="One family; may be repeated.")] = None,
    examples: Annotated[int | None, typer.Option(min=1, metavar="N", help="The first N of each family.")] = None,
    wrong: Annotated[bool, typer.Option("--wrong", help="Show the answers that were wrong.")] = False,
    json_: Json = False,
    plot: Plot = None,
) -> None:
    """`ds4-mlx eval tasks`."""
    from ds4_mlx.commands.eval import run_tasks

    run_tasks(model, file, only or [], examples, wrong, as_json=json_, plot=plot)
