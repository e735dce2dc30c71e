"""The conversion itself: plan, write shard after shard, record, and put the finished folder in place.

Everything is written to DESTINATION.partial and renamed at the end. Stopped at any moment, the same call goes on where
it was: shards that are finished stay, the one being written is begun again.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ds4_convert import files
from ds4_convert.auxiliary import MODEL_FILE, MODEL_FILE_TEXT, read_all_auxiliary
from ds4_convert.checksums import ALGORITHM, CHECKSUMS_NAME, Described, checksum_file, fingerprint
from ds4_convert.journal import Journal
from ds4_convert.plan import Plan, make_plan
from ds4_convert.profiles import get_profile
from ds4_convert.progress import Meter
from ds4_convert.shards import group_into_shards, is_whole, write_shard
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


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    profile: str = "exact",
    dry_run: bool = False,
    console: Console | None = None,
) -> Outcome:
    """Converts the released checkpoint in folder `source` to our format in folder `destination`.

    Prints the plan and the progress to `console` (stderr by default); `dry_run` stops after the plan. Needs less than
    200 MB of memory, whatever the model. Raises `UserError` for a source or destination that cannot be used, before or
    during the work. After any error, `KeyboardInterrupt` included, the same call goes on where this one stopped.
    """
    start = time.monotonic()
    console = console or Console(stderr=True)
    try:
        source, destination = Path(source).expanduser(), Path(destination).expanduser().resolve()
    except (RuntimeError, OSError):
        raise UserError(f"{destination} leads nowhere (a loop of links). Choose another destination.") from None
    chosen = get_profile(profile)
    checkpoint = open_checkpoint(source)
    if checkpoint.kind == "converted":
        raise UserError(f"{source} is already converted (profile {checkpoint.profile}); give a released checkpoint.")
    _check_destination(source, destination)
    auxiliary = read_all_auxiliary(source)
    partial = partial_folder(destination)
    identity = {
        "format": FORMAT_VERSION,
        "profile": profile,
        "checkpoint_id": checkpoint.identity(),
        "source": str(source.resolve()),
    }
    shards = group_into_shards(chosen.outputs(checkpoint))
    with files.disk_errors_explained(destination):
        complete = _is_complete(partial, identity)
        journal = Journal(partial, identity) if complete else Journal.read(partial, identity)
    recorded = journal.shards
    kept = {s.name for s in shards if complete or (s.name in recorded and is_whole(s, recorded[s.name], partial))}
    plan = make_plan(
        checkpoint,
        destination,
        chosen,
        shards,
        small_files=sum(map(len, auxiliary.values())),
        disk_done=sum(s.nbytes for s in shards if s.name in kept),
        disk_free=files.free_bytes(destination.parent),
    )
    plan.render(console)
    if dry_run:
        return Outcome(plan, "", 0, len(kept), time.monotonic() - start)
    plan.require_room()
    with files.disk_errors_explained(destination):
        if not complete:
            partial.mkdir(exist_ok=True)
            with files.only_one_writer(partial):
                _write_shards(plan, journal, kept, console)
                _write_rest(plan, journal, auxiliary)
                journal.remove()
                files.sync_folder(partial)
        os.rename(partial, destination)
        files.sync_folder(destination.parent)
    own = open_checkpoint(destination).own
    return Outcome(plan, own["fingerprint"], len(shards) - len(kept), len(kept), time.monotonic() - start)


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
        found = open_checkpoint(partial)
    except UserError:
        return False
    return all(found.own.get(key) == identity[key] for key in ("format", "profile", "checkpoint_id"))


def _write_shards(plan: Plan, journal: Journal, kept: set[str], console: Console) -> None:
    """Writes the shards that are not finished yet, and records each."""
    for leftover in journal.folder.glob("*" + files.TMP):
        leftover.unlink()
    journal.shards = {name: record for name, record in journal.shards.items() if name in kept}
    journal.save()
    sizes = {s.name: sum(o.nbytes for o in s.outputs) for s in plan.shards}
    done = sum(sizes[name] for name in kept)
    with Meter(console, "Converting", total=sum(sizes.values()), files=len(sizes), done=done) as meter:
        for shard in plan.shards:
            if shard.name not in kept:
                journal.shards[shard.name] = write_shard(shard, journal.folder, meter.advance)
                journal.save()
            meter.finished(shard.name, already=shard.name in kept)


def _write_rest(plan: Plan, journal: Journal, auxiliary: dict[str, bytes]) -> None:
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
        "config.json": _json(_config(plan, journal.identity["checkpoint_id"], fingerprint(described))),
        MODEL_FILE: MODEL_FILE_TEXT,
    }
    contents |= auxiliary
    for name, content in contents.items():
        _write(folder / name, content)
    entries = {name: checksum_file(folder / name) for name in sorted(contents)}
    _write(folder / CHECKSUMS_NAME, _json({"algorithm": ALGORITHM, "tensors": checksums, "files": entries}))


def _config(plan: Plan, checkpoint_id: str, fingerprint: str) -> dict[str, Any]:
    """The source's config.json with our part added."""
    source = plan.source
    own = {
        "format": FORMAT_VERSION,
        "profile": plan.profile.name,
        "ds4_mlx_version": importlib.metadata.version("ds4-mlx"),
        "checkpoint_id": checkpoint_id,
        "fingerprint": fingerprint,
        "formats": plan.profile.formats,
        "bits_per_weight": round(plan.bits_per_weight, 6),
        "source": {"name": source.path.resolve().name, "tensors": len(source.tensors), "bytes": source.nbytes},
    }
    return {**source.config_json, CONFIG_KEY: own, "model_file": MODEL_FILE}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    with files.written_aside(path) as file:
        file.write(content)
