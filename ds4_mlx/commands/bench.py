"""`ds4-mlx bench`: prefill and decode speed against the length of the context."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ds4_mlx.commands.plotting import pyplot, save
from ds4_mlx.errors import UserError

if TYPE_CHECKING:
    from ds4_mlx.engine.language_model import LanguageModel
    from ds4_mlx.engine.session import Session

_COPIED = {True: 1 << 30, False: 1 << 26}  # bytes of an array that is copied to measure memory, on a GPU and elsewhere


@dataclass(frozen=True)
class Row:
    """Speeds at one length of the context, tokens per second.

    prefill_tps: of the tokens since the row before. first_token_ms: from the last token of a prompt to the next.
    decode_tps: of the greedy tokens after it, in a forked session. cache_bytes: of the session. peak_bytes: of the
    device since the row before.
    """

    context: int
    prefill_tps: float
    first_token_ms: float
    decode_tps: float
    cache_bytes: int
    peak_bytes: int


def measure(session: Session, contexts: Sequence[int], gen_tokens: int) -> Iterator[Row]:
    """A row for each of `contexts`, ascending numbers of tokens that an empty session is filled with. Token ids are
    random.

    What compiles at first use is used before anything is timed.
    """
    import mlx.core as mx

    model = session.model
    ids = _random_ids(model, contexts[-1] + 1)
    warm = model.session()
    warm.feed(ids[: min(contexts[0], 512)], last_only=True)
    _decode(warm, 4)
    del warm
    for context in contexts:
        mx.reset_peak_memory()
        start, before = time.perf_counter(), session.position
        mx.eval(session.feed(ids[before:context], last_only=True))
        filled = time.perf_counter() - start
        fork = session.fork()
        first = _decode(fork, 1)
        took = _decode(fork, gen_tokens)
        yield Row(
            context,
            (context - before) / filled,
            1000 * first,
            gen_tokens / took,
            session.nbytes,
            mx.get_peak_memory(),
        )


@dataclass(frozen=True)
class Suffix:
    """What a message of `tokens` tokens takes after a context: the best of four forked sessions."""

    tokens: int
    ms: float
    tps: float


def measure_suffixes(session: Session, lengths: Sequence[int]) -> Iterator[Suffix]:
    """Feeds random tokens after what the session holds, as many as each of `lengths` says."""
    import mlx.core as mx

    for length in lengths:
        ids, best = _random_ids(session.model, length), float("inf")
        for _ in range(4):  # the first may compile
            fork = session.fork()
            mx.synchronize()
            start = time.perf_counter()
            mx.eval(fork.feed(ids, last_only=True))
            best = min(best, time.perf_counter() - start)
        yield Suffix(length, 1000 * best, length / best)


def suffix_lengths(text: str) -> list[int]:
    """Numbers of tokens from 8,32,128."""
    try:
        lengths = [int(part) for part in text.split(",")]
    except ValueError:
        lengths = [0]
    if min(lengths) < 1:
        raise UserError(f"--suffixes {text} are no lengths; expected numbers of tokens such as 8,32,128.")
    return lengths


def _random_ids(model: LanguageModel, count: int) -> list[int]:
    import numpy as np

    vocab = min(model.config.vocab_size, 1 << 16)
    ids: list[int] = np.random.default_rng(0).integers(0, vocab, count).tolist()
    return ids


def _decode(session: Session, tokens: int) -> float:
    """Seconds for as many greedy tokens."""
    import mlx.core as mx

    from ds4_mlx.engine.drawing import Drawing
    from ds4_mlx.engine.sampling import Sampler, SamplingOptions

    assert session.logits is not None
    mx.eval(session.logits)
    drawing = Drawing(session, Sampler(SamplingOptions(temperature=0)), session.logits)
    start = time.perf_counter()
    for _ in range(tokens):
        drawing.next()
    took = time.perf_counter() - start
    drawing.close()
    return took


def weight_bytes(model: LanguageModel) -> int:
    """Bytes of weights that one token reads: of routed experts those it chooses, of embeddings a row."""
    config, total = model.config, 0
    for array in model.checkpoint.arrays():
        if not model.checkpoint.is_loaded(array.name) or array.name.startswith("mtp."):
            continue
        if array.name == "embed.weight" or array.name.endswith(".tid2eid"):
            total += array.nbytes // array.shape[0]
        elif ".ffn.experts." in array.name:
            total += array.nbytes * config.num_experts_per_tok // config.n_routed_experts
        else:
            total += array.nbytes
    return total


def copy_rate() -> float:
    """Bytes per second, read and written, of an elementwise operation on this device: the best of five."""
    import mlx.core as mx

    from ds4_mlx.kernels import runs_kernels

    x = mx.zeros(_COPIED[runs_kernels()] // 4)
    mx.eval(x)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        mx.eval(x + 1)
        best = min(best, time.perf_counter() - start)
    return 2 * x.nbytes / best


def frontiers(start: int, stop: int, step: int) -> list[int]:
    """start, start + step, ... up to `stop`."""
    if not 1 <= start <= stop or step < 1:
        raise UserError(f"--ctx-start {start}, --ctx-max {stop} and --step {step} make no contexts.")
    return list(range(start, stop + 1, step))


def run(
    model: LanguageModel,
    contexts: Sequence[int],
    gen_tokens: int,
    csv_file: Path | None = None,
    json_file: Path | None = None,
    plot: Path | None = None,
    others: Sequence[Path] = (),
    suffixes: Sequence[int] = (),
) -> None:
    """Measures and prints a table as it goes; writes what is asked for. `others` are CSV files to draw beside it,
    `suffixes` lengths of messages to feed after the last context.
    """
    import mlx.core as mx

    if plot is not None:
        pyplot()  # a missing package is said before an hour of measuring
    earlier = {path.stem: read_csv(path) for path in others}
    loading = time.perf_counter()
    model.fill()
    facts: dict[str, Any] = {
        "model": model.checkpoint.path.name,
        "device": mx.device_info().get("device_name", str(mx.default_device())),
        "mlx": version("mlx"),
        "ds4_mlx": version("ds4-mlx"),
        "loading_s": time.perf_counter() - loading,
        "weight_bytes_per_token": weight_bytes(model),
        "copy_bytes_per_s": copy_rate(),
    }
    most = facts["copy_bytes_per_s"] / facts["weight_bytes_per_token"]
    print(
        f"{facts['model']} on {facts['device']}, MLX {facts['mlx']}: {facts['weight_bytes_per_token'] / 1e9:.2f} GB of "
        f"weights a token, copying {facts['copy_bytes_per_s'] / 1e9:.0f} GB/s: at most {most:.0f} tokens/s"
    )
    print("context  prefill t/s  first token ms  decode t/s  of copying    cache MB     peak GB")
    rows, session = [], model.session()
    for row in measure(session, contexts, gen_tokens):
        rows.append(row)
        print(
            f"{row.context:7d}  {row.prefill_tps:11.1f}  {row.first_token_ms:14.1f}  {row.decode_tps:10.2f}  "
            f"{row.decode_tps / most:10.1%}  {row.cache_bytes / 1e6:10.1f}  {row.peak_bytes / 1e9:10.2f}"
        )
        sys.stdout.flush()
    messages = []
    if suffixes:
        print(f"after {session.position} tokens\n suffix  prefill t/s          ms")
    for suffix in measure_suffixes(session, suffixes):
        messages.append(asdict(suffix))
        print(f"{suffix.tokens:7d}  {suffix.tps:11.1f}  {suffix.ms:10.1f}", flush=True)
    if csv_file is not None:
        write_csv(csv_file, rows)
    if json_file is not None:
        written = {**facts, "rows": [asdict(row) for row in rows], "suffixes": messages}
        json_file.write_text(json.dumps(written, indent=2) + "\n")
    if plot is not None:
        draw(plot, {str(facts["model"]): rows, **earlier})


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """One line per row under the names of its fields."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows(astuple(row) for row in rows)


def read_csv(path: Path) -> list[Row]:
    """What `write_csv` wrote. Raises `UserError` if it is something else."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                Row(*(kind(line[name]) for name, kind in _COLUMNS.items()))  # type: ignore[arg-type]
                for line in csv.DictReader(file)
            ]
    except (KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no table that ds4-mlx bench --csv wrote.") from error


_COLUMNS = {field.name: int if field.type == "int" else float for field in fields(Row)}


def draw(path: Path, tables: dict[str, Sequence[Row]]) -> None:
    """Decode and prefill speed against context, a line per table."""
    figure, axes = pyplot().subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axis, column, title in zip(axes, ("decode_tps", "prefill_tps"), ("decode", "prefill"), strict=True):
        for name, rows in tables.items():
            axis.plot([row.context for row in rows], [getattr(row, column) for row in rows], marker="o", label=name)
        axis.set(title=title, xlabel="context, tokens", ylabel="tokens/s", ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend()
    save(figure, path)
