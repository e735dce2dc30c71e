"""`ds4-mlx eval ...`: runs the measures of `ds4_mlx.evaluation` and shows them."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx

from ds4_mlx import __version__
from ds4_mlx.commands import eval_plots
from ds4_mlx.commands.generate import read_prompt
from ds4_mlx.commands.plotting import pyplot
from ds4_mlx.engine.language_model import LanguageModel, open_model
from ds4_mlx.errors import UserError
from ds4_mlx.evaluation.captures import Prompt, capture, check_capture, read_capture
from ds4_mlx.evaluation.comparing import Comparison, Distances, ReferenceRows, joined, summary
from ds4_mlx.evaluation.scoring import measure_losses, together
from ds4_mlx.evaluation.tasks import DEFAULT_TASKS, Graded, grade, read_tasks
from ds4_mlx.evaluation.texts import Text, check_same_tokens, read_texts
from ds4_mlx.evaluation.vectors import Outcome, check, find_prompt, read_cases
from ds4_mlx.terminal import counting_progress, loading_progress, note


def run_perplexity(
    name: str | None, files: Sequence[Path], window: int, limit: int | None, *, as_json: bool, plot: Path | None
) -> None:
    """A row for each text, and one for all."""
    _check_plot(plot)
    model = open_model(name, cache_bytes=0)
    texts = read_texts(model, files, window=window, limit=limit)
    _fill(model)
    start = time.perf_counter()
    with counting_progress("reading", "tokens") as advance:
        parts = measure_losses(model, texts, advance)
    seconds = time.perf_counter() - start
    rows = [*parts, together(parts)] if len(parts) > 1 else parts
    if as_json:
        results = [
            {
                "text": row.name,
                "tokens": len(row.losses),
                "loss": float(row.losses.mean()),
                "perplexity": row.perplexity,
                "perplexity_error": row.error,
            }
            for row in rows
        ]
        _print_json(**_about(model), window=window, seconds=seconds, texts=results)
    else:
        print(f"{model.checkpoint.path.name} ({model.checkpoint.profile}), windows of {window:,} tokens")
        print(f"{'text':12}{'tokens':>9}{'perplexity':>12}{'+-':>8}")
        for row in rows:
            print(f"{row.name:12}{len(row.losses):9,}{row.perplexity:12.3f}{row.error:8.3f}")
        note(f"({sum(len(part.losses) for part in parts) / seconds:,.0f} tokens/s)")
    if plot is not None:
        eval_plots.draw_losses(plot, parts)


def run_compare(
    reference: str,
    names: Sequence[str],
    files: Sequence[Path],
    window: int,
    limit: int | None,
    scratch: Path | None,
    *,
    as_json: bool,
    plot: Path | None,
) -> None:
    """The reference once, then every model against what it predicted."""
    _check_plot(plot)
    opened = [open_model(name, cache_bytes=0) for name in (reference, *names)]  # nothing is read yet
    labels = _labels(opened)
    every = [read_texts(model, files, window=window, limit=limit) for model in opened]
    for model, texts in zip(opened, every, strict=True):
        check_same_tokens(every[0], texts, model.checkpoint.path.name)
    texts, about = every[0], [_about(model) for model in opened]
    first = opened.pop(0)
    rows = ReferenceRows(first.config.vocab_size, sum(text.tokens for text in texts), scratch)
    try:
        _fill(first)
        with counting_progress(f"reading with {labels[0]}", "tokens") as advance:
            rows.fill(first, texts, advance)
        del first, model
        found: dict[str, list[Distances]] = {}
        for label in labels[1:]:
            _let_go()
            found[label] = _distances(opened.pop(0), rows, texts, label)
    finally:
        rows.close()
    tables = {
        label: [summary(part) for part in ([*parts, joined(parts)] if len(parts) > 1 else parts)]
        for label, parts in found.items()
    }
    if as_json:
        results = [
            {**facts, "label": label, "texts": [asdict(row) for row in tables[label]]}
            for facts, label in zip(about[1:], labels[1:], strict=True)
        ]
        _print_json(reference=about[0], window=window, models=results)
    else:
        _print_comparison(labels, about, tables, window)
    if plot is not None:
        eval_plots.draw_distances(plot, labels[0], {label: joined(parts) for label, parts in found.items()})


def _distances(model: LanguageModel, rows: ReferenceRows, texts: Sequence[Text], label: str) -> list[Distances]:
    _fill(model)
    with counting_progress(f"reading with {label}", "tokens") as advance:
        return rows.distances(model, texts, advance)


def _print_comparison(
    labels: Sequence[str], about: Sequence[dict[str, Any]], tables: dict[str, list[Comparison]], window: int
) -> None:
    print(
        f"Reference: {labels[0]} ({about[0]['profile']}, {about[0]['weights_gb']:.3g} GB), windows of {window:,} tokens"
    )
    for label, facts in zip(labels[1:], about[1:], strict=True):
        rows = tables[label]
        print(f"\n{label} ({facts['profile']}, {facts['weights_gb']:.3g} GB)")
        print(
            f"{'text':12}{'tokens':>8}{'KL mean':>9}{'median':>8}{'99 %':>7}{'same top':>10}"
            f"{'perplexity':>20}{'change':>18}"
        )
        for row in rows:
            both = f"{row.reference_perplexity:.2f} -> {row.perplexity:.2f}"
            change = f"{row.change:+.2%} +- {row.change_error:.2%}"
            print(
                f"{row.text:12}{row.tokens:8,}{row.kl:9.4f}{row.kl_median:8.4f}{row.kl_99:7.3f}"
                f"{row.same_top:10.2%}{both:>20}{change:>18}"
            )


def run_vectors(
    files: Sequence[Path],
    name: str | None,
    prompts: Path | None,
    skip: Sequence[str],
    tolerance: float,
    *,
    as_json: bool,
) -> int:
    """Checks every case of the files; 1 if one fails."""
    model = open_model(name, cache_bytes=0)
    work: list[tuple[str, Any]] = []  # a case's name, and what checks it
    for path in files:
        captured = read_capture(path)
        if captured is not None:
            work += [
                (case["id"], lambda c=captured, k=case: check_capture(model, c, k, tolerance))
                for case in captured["cases"]
            ]
        else:
            found = [(case, "" if case.id in skip else find_prompt(case, path, prompts)) for case in read_cases(path)]
            work += [(case.id, lambda c=case, p=prompt: check(model, c, p)) for case, prompt in found]
    unknown = set(skip) - {id_ for id_, _ in work}
    if unknown:
        raise UserError(
            f"There is no case {', '.join(sorted(unknown))}; the files have {', '.join(i for i, _ in work)}."
        )
    _fill(model)
    outcomes: list[Outcome] = []
    if not as_json:
        print(f"{model.checkpoint.path.name} ({model.checkpoint.profile})")
    for id_, run in work:
        if id_ in skip:
            if not as_json:
                print(f"left out  {id_}")
            continue
        outcomes.append(run())
        if not as_json:
            outcome = outcomes[-1]
            print(
                f"{'passed' if outcome.passed else 'FAILED':8}  {id_}: {outcome.prompt_tokens} tokens; {outcome.detail}"
            )
            sys.stdout.flush()
    passed = sum(outcome.passed for outcome in outcomes)
    if as_json:
        _print_json(**_about(model), passed=passed, cases=[asdict(outcome) for outcome in outcomes], skipped=list(skip))
    else:
        print(f"{passed} of {len(outcomes)} passed")
    return 0 if passed == len(outcomes) else 1


def run_capture(files: Sequence[Path], output: Path, name: str | None, steps: int, top: int, thinking: bool) -> None:
    """Writes a capture."""
    prompts = [Prompt(path.stem, read_prompt(None, str(path))) for path in files]
    if len({prompt.id for prompt in prompts}) < len(prompts):
        raise UserError("Two prompts have the same file name; cases are named after it.")
    if output.exists():
        raise UserError(f"{output} exists; a capture is never overwritten. Name a new file.")
    model = open_model(name, cache_bytes=0)
    _fill(model)
    with counting_progress("answering", "prompts") as advance:
        data = capture(model, prompts, steps=steps, top=top, thinking=thinking, on_progress=advance)
    with output.open("x", encoding="utf-8") as file:
        json.dump(data, file, ensure_ascii=False, indent=1)
        file.write("\n")
    tokens = sum(len(case["steps"]) for case in data["cases"])
    print(f"{output}: {len(prompts)} cases, {tokens} tokens. Check it with: ds4-mlx eval vectors {output}")


def run_tasks(
    name: str | None,
    path: Path | None,
    only: Sequence[str],
    examples: int | None,
    wrong: bool,
    *,
    as_json: bool,
    plot: Path | None,
) -> None:
    """A row for each family, and one for all."""
    _check_plot(plot)
    tasks = read_tasks(path or DEFAULT_TASKS, only, examples)
    model = open_model(name, cache_bytes=0)
    _fill(model)
    start = time.perf_counter()
    with counting_progress("answering", "tasks") as advance:
        graded = grade(model, tasks, advance)
    seconds = time.perf_counter() - start
    families: dict[str, list[Graded]] = {}
    for each in graded:
        families.setdefault(each.task.family, []).append(each)
    shares = {family: (sum(each.right for each in of), len(of)) for family, of in families.items()}
    if as_json:
        answers = [
            {"family": each.task.family, "right": each.right, "content": each.content, "tool_calls": each.calls}
            for each in graded
        ]
        rows = [{"family": family, "right": right, "tasks": count} for family, (right, count) in shares.items()]
        _print_json(**_about(model), seconds=seconds, families=rows, answers=answers)
    else:
        print(f"{model.checkpoint.path.name} ({model.checkpoint.profile})")
        for family, (right, count) in shares.items():
            print(f"{family:14}{right:4} of {count:3}  {right / count:7.1%}")
        right = sum(each.right for each in graded)
        print(f"{'together':14}{right:4} of {len(graded):3}  {right / len(graded):7.1%}")
        if wrong:
            for each in graded:
                if not each.right:
                    print(f"\n[{each.task.family}] {_said(each.task.messages[-1])}")
                    print(f"  expected {_said(each.task.expected)}")
                    print(f"  answered {_said({'content': each.content, 'tool_calls': each.calls})}")
        note(f"({seconds:.0f} s)")
    if plot is not None:
        eval_plots.draw_shares(plot, f"{model.checkpoint.path.name} ({model.checkpoint.profile})", shares)


def _said(message: dict[str, Any]) -> str:
    calls = [call.get("function", call) for call in message.get("tool_calls") or []]
    told = [repr(message["content"][-300:])] if message.get("content") else []
    return " ".join([*told, *(f"{call['name']}({call['arguments']})" for call in calls)]) or "nothing"


def _about(model: LanguageModel) -> dict[str, Any]:
    return {
        "model": str(model.checkpoint.path),
        "profile": model.checkpoint.profile,
        "weights_gb": model.checkpoint.memory_bytes() / 1e9,
        "device": mx.device_info().get("device_name", str(mx.default_device())),
        "ds4_mlx": __version__,
    }


def _labels(models: Sequence[LanguageModel]) -> list[str]:
    """Names of folders; with a number where two are called alike."""
    names = [model.checkpoint.path.resolve().name for model in models]
    return [name if names.count(name) == 1 else f"{name} #{at}" for at, name in enumerate(names, 1)]


def _fill(model: LanguageModel) -> None:
    with loading_progress() as advance:
        model.fill(advance)


def _let_go() -> None:
    """Gives the memory of a model back that nothing refers to any more."""
    gc.collect()
    mx.clear_cache()


def _check_plot(plot: Path | None) -> None:
    """A missing package or folder is said before an hour of measuring."""
    if plot is not None:
        pyplot()
        if not plot.absolute().parent.is_dir():
            raise UserError(f"There is no folder {plot.parent} to draw {plot.name} in.")


def _print_json(**fields: Any) -> None:
    print(json.dumps(fields, ensure_ascii=False, indent=2))
