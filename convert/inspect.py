"""What a model folder holds, from its config and the headers of its shards. Reads no weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ds4_convert.classes import ClassSize, formats_by_class, size_table, sizes_by_class, total
from ds4_convert.steps import outputs_of
from ds4_convert.units import size
from ds4_mlx.checkpoint import Checkpoint, open_checkpoint
from ds4_mlx.config import ModelConfig

_TOKENIZERS = ("tokenizer.json", "tokenizer.model")
_RATIO_NAMES = {0: "window only", 4: "compressed sparse (4)", 128: "heavily compressed (128)"}


@dataclass(frozen=True)
class Report:
    """What `inspect` found. `classes`, `bits_per_weight` and `memory_needed` are of our format, also for a released
    checkpoint: it becomes that when it is loaded.
    """

    path: str
    kind: str  # "official" or "converted"
    model: str
    layers: int
    ratios: dict[int, int]  # compress ratio -> number of layers
    hash_layers: int
    hidden_size: int
    experts: int
    experts_per_token: int
    vocabulary: int
    context: int
    drafter: str | None
    prompt_profile: str
    tokenizer: str | None  # file name
    shards: int
    tensors: int
    bytes_on_disk: int  # of the tensors, as they lie there
    memory_needed: int  # the loaded weights
    classes: dict[str, ClassSize]
    bits_per_weight: float
    profile: str
    formats: dict[str, str]  # by class, too
    only_layers: tuple[int, int] | None  # of a folder that holds these alone
    identity: str  # the same for every profile converted from one checkpoint
    fingerprint: str | None  # of a converted folder
    written_by: str | None  # version of ds4-mlx
    source: dict[str, Any] | None  # what a converted folder was made from


def inspect(path: str | Path) -> Report:
    """Looks at a model folder. Raises `UserError` when it is none, or not complete."""
    checkpoint = open_checkpoint(path, allow_part=True)
    config, own, formats = checkpoint.config, checkpoint.own, checkpoint.formats
    outputs = [output for item in checkpoint.items for output in outputs_of(item, formats.of(item.name))]
    classes = sizes_by_class(outputs)
    return Report(
        path=str(checkpoint.path),
        kind=checkpoint.kind,
        model=_model_name(config),
        layers=config.num_hidden_layers,
        ratios=dict(sorted(Counter(config.compress_ratios[: config.num_hidden_layers]).items())),
        hash_layers=config.num_hash_layers,
        hidden_size=config.hidden_size,
        experts=config.n_routed_experts,
        experts_per_token=config.num_experts_per_tok,
        vocabulary=config.vocab_size,
        context=config.max_position_embeddings,
        drafter=_drafter(checkpoint),
        prompt_profile=checkpoint.prompt_profile,
        tokenizer=next((name for name in _TOKENIZERS if (checkpoint.path / name).is_file()), None),
        shards=len({tensor.path for tensor in checkpoint.tensors.values()}),
        tensors=len(checkpoint.tensors),
        bytes_on_disk=checkpoint.nbytes,
        memory_needed=checkpoint.memory_bytes(),
        classes=classes,
        bits_per_weight=round(total(classes).bits_per_weight, 6),
        profile=checkpoint.profile,
        formats=formats_by_class((item.name for item in checkpoint.items), formats),
        only_layers=checkpoint.layers,
        identity=checkpoint.identity(),
        fingerprint=own.get("fingerprint"),
        written_by=own.get("ds4_mlx_version"),
        source=own.get("source"),
    )


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain values that `json.dumps` takes."""
    classes = {
        label: {**entry._asdict(), "bits_per_weight": round(entry.bits_per_weight, 6)}
        for label, entry in report.classes.items()
    }
    ratios = {str(ratio): count for ratio, count in report.ratios.items()}
    return {**vars(report), "classes": classes, "ratios": ratios}


def render(report: Report, console: Console) -> None:
    """Prints the report."""
    ratios = ", ".join(f"{count} {_RATIO_NAMES[ratio]}" for ratio, count in report.ratios.items())
    stored = "DeepSeek's released format" if report.kind == "official" else f"ds4-mlx, profile {report.profile}"
    rows = {
        "folder": report.path,
        "model": report.model,
        "stored as": stored,
        "layers": f"{report.layers} ({ratios}); the first {report.hash_layers} route by token id",
        "width": f"{report.hidden_size:,}",
        "experts": f"{report.experts}, {report.experts_per_token} per token and one shared",
        "vocabulary": f"{report.vocabulary:,}",
        "context": f"{report.context:,} tokens",
        "drafter": report.drafter or "none",
        "tokenizer": report.tokenizer or "none: the folder lacks tokenizer.json",
        "prompts": report.prompt_profile,
        "shards": f"{report.shards} ({report.tensors:,} tensors, {size(report.bytes_on_disk)})",
        "memory": f"{size(report.memory_needed)} for the weights, plus the cache of the context",
        "identity": report.identity[:16],
    }
    if isinstance(report.source, dict):
        rows["made from"] = f"{report.source.get('name')}, by ds4-mlx {report.written_by}"
        rows["fingerprint"] = str(report.fingerprint)[:16]
    if report.only_layers:
        first, last = report.only_layers
        rows["holds"] = f"only layers {first} to {last}: to be measured, not to run"
    table = Table.grid(padding=(0, 2))
    for label, value in rows.items():
        table.add_row(label, value)
    console.print(table, highlight=False)
    console.print(size_table(report.classes, report.formats))


def _model_name(config: ModelConfig) -> str:
    """A guess by sizes; the released config.json carries no name."""
    release = "DeepSeek-V4-Flash-0731 (or -DSpark)" if config.dspark else "DeepSeek-V4-Flash (April)"
    if (config.hidden_size, config.num_hidden_layers, config.n_routed_experts) == (4096, 43, 256):
        return release
    return f"a model of another size, built like {release}"


def _drafter(checkpoint: Checkpoint) -> str | None:
    if checkpoint.dspark_stages:
        return f"DSpark, {checkpoint.dspark_stages} stages (kept aside)"
    if checkpoint.config.num_nextn_predict_layers:
        return "MTP block"
    return None
