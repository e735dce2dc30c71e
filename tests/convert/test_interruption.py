"""A conversion may end at any moment: it goes on without redoing what is finished, and nothing half-written is used."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from ds4_convert import convert
from ds4_convert.conversion import partial_folder
from ds4_convert.files import only_one_writer
from ds4_convert.progress import Meter
from ds4_convert.verify import verify
from ds4_mlx.checkpoint import open_checkpoint
from ds4_mlx.errors import UserError

from checkpoint.damage import copy_of_golden, edit_json
from support import DSPARK_CHECKPOINT, GOLDEN_CHECKPOINT

SHARDS = 9

# Runs a conversion and kills itself before step N of all writes, syncs, renames and removals; prints their number.
STEPWISE = """
import io, os, signal, sys
from pathlib import Path
from rich.console import Console
from ds4_convert import convert, progress

source, destination, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
done = 0

def stepwise(owner, name):
    original = getattr(owner, name)
    def step(*args, **kwargs):
        global done
        if done == last:
            os.kill(os.getpid(), signal.SIGKILL)
        done += 1
        return original(*args, **kwargs)
    setattr(owner, name, step)

for owner, name in ((os, "fsync"), (os, "replace"), (os, "rename"), (Path, "unlink"), (progress.Meter, "advance")):
    stepwise(owner, name)
convert(source, destination, console=Console(file=io.StringIO()))
print(done)
"""


def stepwise(destination: Path, last: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", STEPWISE, str(GOLDEN_CHECKPOINT), str(destination), str(last)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def interrupt(monkeypatch: pytest.MonkeyPatch, destination: Path, console: Console, *, after: int) -> None:
    """Ctrl-C while shard `after` + 1 is being written."""
    advance = Meter.advance

    def stop(meter: Meter, nbytes: int) -> None:
        if len(list(partial_folder(destination).glob("*.safetensors"))) == after:
            raise KeyboardInterrupt
        advance(meter, nbytes)

    with monkeypatch.context() as patch:
        patch.setattr(Meter, "advance", stop)
        with pytest.raises(KeyboardInterrupt):
            convert(GOLDEN_CHECKPOINT, destination, console=console)


def test_finished_shards_are_not_redone(
    tmp_path: Path, converted: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = tmp_path / "out"
    interrupt(monkeypatch, destination, quiet, after=4)
    partial = partial_folder(destination)
    assert not list(partial.glob("*.tmp"))
    before = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in partial.glob("*.safetensors")}
    assert len(before) == 4
    outcome = convert(GOLDEN_CHECKPOINT, destination, console=quiet)
    assert (outcome.shards_kept, outcome.shards_written) == (4, SHARDS - 4)
    after = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in destination.glob("*.safetensors")}
    assert {name: after[name] for name in before} == before
    assert contents(destination) == contents(converted)


def test_the_unfinished_folder_is_refused(tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, tmp_path / "out", quiet, after=2)
    assert not (tmp_path / "out").exists()
    for use in (open_checkpoint, verify):
        with pytest.raises(UserError, match="unfinished conversion"):
            use(tmp_path / "out.partial")


def test_the_plan_counts_what_is_there(tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = convert(GOLDEN_CHECKPOINT, tmp_path / "out", dry_run=True, console=quiet).plan
    interrupt(monkeypatch, tmp_path / "out", quiet, after=8)
    done = sum(p.stat().st_size for p in (tmp_path / "out.partial").glob("*.safetensors"))
    monkeypatch.setattr("ds4_convert.files.free_bytes", lambda folder: whole.disk_needed - done)
    plan = convert(GOLDEN_CHECKPOINT, tmp_path / "out", dry_run=True, console=quiet).plan
    assert plan.disk_done == done
    assert plan.fits
    assert convert(GOLDEN_CHECKPOINT, tmp_path / "out", console=quiet).shards_kept == 8


@pytest.mark.parametrize("damage", ["shorter", "gone", "other header"])
def test_a_recorded_shard_that_changed_is_written_again(
    damage: str, tmp_path: Path, converted: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, tmp_path / "out", quiet, after=3)
    shard = tmp_path / "out.partial" / f"model-00002-of-{SHARDS:05d}.safetensors"
    if damage == "shorter":
        os.truncate(shard, shard.stat().st_size - 1)
    elif damage == "gone":
        shard.unlink()
    else:
        shutil.copy(shard.with_name(shard.name.replace("-00002-", "-00003-")), shard)
    assert convert(GOLDEN_CHECKPOINT, tmp_path / "out", console=quiet).shards_kept == 2
    assert contents(tmp_path / "out") == contents(converted)


def test_killed_anywhere_it_ends_with_the_same_bytes(tmp_path: Path, converted: Path, quiet: Console) -> None:
    whole = stepwise(tmp_path / "whole", -1)
    steps = int(whole.stdout)
    assert contents(tmp_path / "whole") == contents(converted)
    dice = random.Random(2)
    shards, rest = range(2, steps - 30), range(steps - 30, steps - 4)  # the rest: index, config, tokenizer, checksums
    chosen = {0, 1, *dice.sample(shards, 4), *dice.sample(rest, 4), steps - 4, steps - 3, steps - 2}
    for last in sorted(chosen):
        destination = tmp_path / f"killed-{last}"
        assert stepwise(destination, last).returncode == -signal.SIGKILL, last
        assert not destination.exists(), last
        partial = partial_folder(destination)
        if not is_refused(partial):  # killed between the last write and the rename
            assert verify(partial, console=quiet).sound, last
            assert last >= steps - 3
        convert(GOLDEN_CHECKPOINT, destination, console=quiet)
        assert contents(destination) == contents(converted), last
        assert not partial.exists()
        shutil.rmtree(destination)


def is_refused(folder: Path) -> bool:
    try:
        open_checkpoint(folder)
    except UserError:
        return True
    return False


def test_killed_after_the_rename_the_folder_is_whole(tmp_path: Path, converted: Path) -> None:
    steps = int(stepwise(tmp_path / "whole", -1).stdout)
    assert stepwise(tmp_path / "out", steps - 1).returncode == -signal.SIGKILL
    assert contents(tmp_path / "out") == contents(converted)


def test_disk_full_in_the_middle_keeps_what_is_finished(
    tmp_path: Path, converted: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, calls = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"became full while writing .*What was finished is kept"):
            convert(GOLDEN_CHECKPOINT, tmp_path / "out", console=quiet)
    partial = tmp_path / "out.partial"
    assert not list(partial.glob("*.tmp"))
    assert is_refused(partial)
    assert convert(GOLDEN_CHECKPOINT, tmp_path / "out", console=quiet).shards_kept > 0
    assert contents(tmp_path / "out") == contents(converted)


def test_another_conversions_folder_is_left_alone(
    tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, tmp_path / "out", quiet, after=2)
    before = contents(tmp_path / "out.partial")
    with pytest.raises(UserError, match=r"unfinished conversion with another checkpoint id .*Delete"):
        convert(DSPARK_CHECKPOINT, tmp_path / "out", console=quiet)
    with pytest.raises(UserError, match=r"unfinished conversion with another source .*Delete"):
        convert(copy_of_golden(tmp_path), tmp_path / "out", console=quiet)
    edit_json(tmp_path / "out.partial" / "conversion.json", lambda j: j["conversion"].update(profile="q2"))
    with pytest.raises(UserError, match=r"another profile \('q2' instead of 'exact'\)"):
        convert(GOLDEN_CHECKPOINT, tmp_path / "out", console=quiet)
    assert before.keys() == contents(tmp_path / "out.partial").keys()


def test_a_damaged_journal_is_refused(tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, tmp_path / "out", quiet, after=1)
    (tmp_path / "out.partial" / "conversion.json").write_text('{"conversion": {}')
    with pytest.raises(UserError, match="is damaged, so the conversion cannot go on"):
        convert(GOLDEN_CHECKPOINT, tmp_path / "out", console=quiet)


def test_a_folder_of_something_else_is_not_written_into(tmp_path: Path, quiet: Console) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not an unfinished conversion"):
        convert(GOLDEN_CHECKPOINT, tmp_path / "out", console=quiet)
    assert (tmp_path / "out.partial" / "thesis.txt").read_text() == "mine"


def test_two_conversions_do_not_write_at_once(tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, tmp_path / "out", quiet, after=1)
    with only_one_writer(tmp_path / "out.partial"), pytest.raises(UserError, match="Another conversion is writing"):
        convert(GOLDEN_CHECKPOINT, tmp_path / "out", console=quiet)
    convert(GOLDEN_CHECKPOINT, tmp_path / "out", console=quiet)
