"""The conversion itself: plan, write shard after shard, record, and put the finished folder in place.

Everything is written to DESTINATION.partial and renamed at the end. Stopped at any moment, the same call goes on where
it was: shards that are finished stay, the one being written is begun again.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ds4_convert import files
from ds4_convert.auxiliary import MODEL_FILE, MODEL_FILE_TEXT
from ds4_convert.checksums import ALGORITHM, CHECKSUMS_NAME, Described, checksum_file, fingerprint
from ds4_convert.journal import Journal
from ds4_convert.memory import peak_memory
from ds4_convert.options import Options
from ds4_convert.parallel import in_threads
from ds4_convert.plan import Plan, make_plan
from ds4_convert.progress import Meter
from ds4_convert.quality import loss_lines, losses_json
from ds4_convert.recipe import Recipe
from ds4_convert.shards import Shard, ShardRecord, group_into_shards, is_whole, write_shard
from ds4_mlx.checkpoint import open_checkpoint
from ds4_mlx.checkpoint.folder import CONFIG_KEY, FORMAT_VERSION, INDEX_NAME, JOURNAL_NAME
from ds4_mlx.errors import UserError


@dataclass(frozen=True)
class Outcome:
    """What a conversion did. `fingerprint` is empty after a dry run, which writes nothing."""

    plan: Plan
    fingerprint: str
    shards_written: int
    shards_kept: int  # finished by an earlier, interrupted run
    seconds: float
    peak_memory: int  # bytes, of the process so far


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    profile: str | None = None,
    method: str | None = None,
    imatrix: str | Path | None = None,
    calibration: str | Path | None = None,
    layers: str | None = None,
    jobs: int = 1,
    dry_run: bool = False,
    console: Console | None = None,
) -> Outcome:
    """Converts `source`, DeepSeek's folder or a ds4 GGUF file, to our format in the folder `destination`.

    profile: 'exact' (the default for a folder) or 'q2'; a GGUF file brings its own. For 'q2', method is 'feedback' (the
    default with a calibration), 'imatrix' (the default with an imatrix, a file with the importance of input columns) or
    'plain'; calibration is a folder that `ds4-mlx calibrate` made. layers: such as '3-5', only these, to be measured.
    jobs: layers in work at once; the result is the same whatever their number.

    Prints the plan and the progress to `console` (stderr by default); `dry_run` stops after the plan. Raises
    `UserError` for a source, destination or option that cannot be used, before or during the work. After any error,
    `KeyboardInterrupt` included, the same call goes on where this one stopped.
    """
    start = time.monotonic()
    console = console or Console(stderr=True)
    try:
        source, destination = Path(source).expanduser(), Path(destination).expanduser().resolve()
    except (RuntimeError, OSError):
        raise UserError(f"{destination} leads nowhere (a loop of links). Choose another destination.") from None
    if jobs < 1:
        raise UserError(f"--jobs is {jobs}; expected at least 1.")
    recipe = _make_recipe(source, Options(profile, method, imatrix, calibration, layers))
    _check_destination(source, destination)
    partial = partial_folder(destination)
    identity = _identity(recipe)
    shards = group_into_shards(recipe.steps)
    with files.disk_errors_explained(destination):
        complete = _is_complete(partial, identity)
        journal = Journal(partial, identity) if complete else Journal.read(partial, identity)
    recorded = journal.shards
    kept = {s.name for s in shards if complete or (s.name in recorded and is_whole(s, recorded[s.name], partial))}
    plan = make_plan(
        recipe,
        destination,
        shards,
        jobs=jobs,
        disk_done=sum(s.nbytes for s in shards if s.name in kept),
        disk_free=files.free_bytes(destination.parent),
    )
    plan.render(console)
    if dry_run:
        return Outcome(plan, "", 0, len(kept), time.monotonic() - start, peak_memory())
    plan.require_room()
    with files.disk_errors_explained(destination):
        if not complete:
            partial.mkdir(exist_ok=True)
            with files.only_one_writer(partial):
                _write_shards(plan, journal, kept, console)
                _write_rest(plan, journal)
                journal.remove()
                files.sync_folder(partial)
        os.rename(partial, destination)
        files.sync_folder(destination.parent)
    own = open_checkpoint(destination, allow_part=True).own
    seconds = time.monotonic() - start
    return Outcome(plan, own["fingerprint"], len(shards) - len(kept), len(kept), seconds, peak_memory())


def _make_recipe(source: Path, options: Options) -> Recipe:
    if source.is_file():
        from ds4_convert.gguf.source import gguf_recipe

        return gguf_recipe(source, options)
    from ds4_convert.released import released_recipe

    return released_recipe(source, options)


def _identity(recipe: Recipe) -> dict[str, Any]:
    """What must be the same for an interrupted conversion to go on."""
    return {
        "format": FORMAT_VERSION,
        "ds4_mlx_version": importlib.metadata.version("ds4-mlx"),
        "profile": recipe.profile,
        "checkpoint_id": recipe.checkpoint_id,
        "layers": recipe.own.get("layers"),
        "imatrix": recipe.own.get("imatrix"),
        "calibration": recipe.own.get("calibration"),
        "method": recipe.own.get("method"),
        "formats": recipe.formats.table,
        "source": str(recipe.source.resolve()),
    }


def partial_folder(destination: Path) -> Path:
    """Where a conversion to `destination` lies while it is unfinished."""
    return destination.with_name(destination.name + ".partial")


def _check_destination(source: Path, destination: Path) -> None:
    if destination == source.resolve():
        raise UserError(f"Source and destination are the same folder ({source}). Choose another destination.")
    if not destination.parent.is_dir():
        raise UserError(f"There is no folder {destination.parent} to write {destination.name} into. Create it first.")
    try:
        taken = destination.is_file() or (destination.is_dir() and any(destination.iterdir()))
    except OSError as error:
        raise UserError(f"{destination} cannot be read: {error.strerror}.") from None
    if taken:
        raise UserError(f"{destination} exists already. Delete it or choose another destination.")


def _is_complete(partial: Path, identity: dict[str, Any]) -> bool:
    """Whether a run was stopped in the instant between finishing the folder and renaming it."""
    if (partial / JOURNAL_NAME).exists() or not (partial / "config.json").exists():
        return False
    try:
        found = open_checkpoint(partial, allow_part=True)
    except UserError:
        return False
    return all(found.own.get(key) == value for key, value in identity.items() if key != "source")


def _write_shards(plan: Plan, journal: Journal, kept: set[str], console: Console) -> None:
    """Writes the shards that are not finished yet, and records each."""
    for leftover in journal.folder.glob("*" + files.TMP):
        leftover.unlink()
    journal.shards = {name: record for name, record in journal.shards.items() if name in kept}
    journal.save()
    sizes = {s.name: sum(o.nbytes for o in s.outputs) for s in plan.shards}
    done = sum(sizes[name] for name in kept)
    with Meter(console, "Converting", total=sum(sizes.values()), files=len(sizes), done=done) as meter:

        def write(shard: Shard, check: Callable[[], None]) -> ShardRecord:
            def advance(nbytes: int) -> None:
                check()
                meter.advance(nbytes)

            return write_shard(shard, journal.folder, advance)

        def finished(shard: Shard) -> None:
            meter.finished(shard.name, already=shard.name in kept)
            for line in loss_lines(journal.shards[shard.name].losses):
                meter.note(line)

        for shard in plan.shards:
            if shard.name in kept:
                finished(shard)
        todo = [shard for shard in plan.shards if shard.name not in kept]
        with closing(in_threads(write, todo, plan.jobs)) as written:
            for shard, record in written:
                journal.shards[shard.name] = record
                journal.save()
                finished(shard)


def _write_rest(plan: Plan, journal: Journal) -> None:
    """Writes everything but the shards: index, config, tokenizer and the like, and the checksums of all."""
    folder = journal.folder
    checksums = {o.name: journal.shards[shard.name].checksums[o.name] for shard in plan.shards for o in shard.outputs}
    outputs = {o.name: o for shard in plan.shards for o in shard.outputs}
    described = {name: Described(o.dtype, o.shape, checksums[name]) for name, o in outputs.items()}
    contents = {
        INDEX_NAME: _json(
            {
                "metadata": {"total_size": sum(o.nbytes for o in outputs.values())},
                "weight_map": {o.name: shard.name for shard in plan.shards for o in shard.outputs},
            }
        ),
        "config.json": _json(_config(plan, journal, fingerprint(described))),
        MODEL_FILE: MODEL_FILE_TEXT,
    }
    contents |= plan.recipe.small_files
    for name, content in contents.items():
        _write(folder / name, content)
    entries = {name: checksum_file(folder / name) for name in sorted(contents)}
    _write(folder / CHECKSUMS_NAME, _json({"algorithm": ALGORITHM, "tensors": checksums, "files": entries}))


def _config(plan: Plan, journal: Journal, fingerprint: str) -> dict[str, Any]:
    """The source's config.json with our part added."""
    recipe, identity = plan.recipe, journal.identity
    losses = {item: loss for shard in plan.shards for item, loss in journal.shards[shard.name].losses.items()}
    own = {
        "format": FORMAT_VERSION,
        "profile": recipe.profile,
        "ds4_mlx_version": identity["ds4_mlx_version"],
        "mlx_version": importlib.metadata.version("mlx"),
        "checkpoint_id": recipe.checkpoint_id,
        "fingerprint": fingerprint,
        "formats": recipe.formats.table,
        "bits_per_weight": round(plan.bits_per_weight, 6),
        "source": {
            "name": recipe.source.resolve().name,
            "tensors": recipe.source_tensors,
            "bytes": recipe.source_bytes,
        },
        **recipe.own,
    }
    if losses:
        own["losses"] = losses_json(losses)
    return {**recipe.config_json, CONFIG_KEY: own, "model_file": MODEL_FILE}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    with files.written_aside(path) as file:
        file.write(content)
