"""The plan of a conversion: what will be written, how large it is, and whether there is room for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ds4_convert.classes import ClassSize, size_table, sizes_by_class, total
from ds4_convert.profiles import Profile
from ds4_convert.shards import Shard
from ds4_convert.units import size
from ds4_mlx.checkpoint import Checkpoint
from ds4_mlx.errors import UserError

_LISTED = 400  # bytes that index, checksums and journal spend on a tensor, at most


@dataclass(frozen=True)
class Plan:
    """What a conversion will do. All sizes are bytes."""

    source: Checkpoint
    destination: Path
    profile: Profile
    shards: list[Shard]
    classes: dict[str, ClassSize]
    disk_needed: int  # for everything, finished or not
    disk_done: int  # of that, already there from an interrupted run
    disk_free: int
    memory_needed: int  # the loaded weights

    @property
    def bits_per_weight(self) -> float:
        """Over the whole model, scales included."""
        return total(self.classes).bits_per_weight

    @property
    def fits(self) -> bool:
        """Whether the destination's disk has room for what is left to write."""
        return self.disk_needed - self.disk_done <= self.disk_free

    def require_room(self) -> None:
        """Raises `UserError` when the disk is too small."""
        if not self.fits:
            raise UserError(
                f"The conversion needs {size(self.disk_needed - self.disk_done)} at {self.destination.parent}, but "
                f"only {size(self.disk_free)} are free there. Free some space or choose another destination."
            )

    def render(self, console: Console) -> None:
        """Prints the plan."""
        source = self.source
        console.print(f"{source.path} -> {self.destination} ({self.profile.name})", highlight=False, soft_wrap=True)
        console.print(size_table(self.classes))
        done = f", {size(self.disk_done)} of it already there" if self.disk_done else ""
        room = f"{size(self.disk_free)} free" + ("" if self.fits else ", not enough")
        lines = (
            f"source       {len(source.tensors):,} tensors, {size(source.nbytes)}",
            f"shards       {len(self.shards)}",
            f"disk needed  {size(self.disk_needed)}{done} ({room})",
            f"memory       {size(self.memory_needed)} for the weights, plus the cache of the context",
        )
        for line in lines:
            console.print(line, highlight=False, soft_wrap=True)


def make_plan(
    source: Checkpoint,
    destination: Path,
    profile: Profile,
    shards: list[Shard],
    *,
    small_files: int,
    disk_done: int,
    disk_free: int,
) -> Plan:
    """The plan for the `shards` of a source; `small_files` are the bytes that are copied beside them."""
    outputs = [o for shard in shards for o in shard.outputs]
    listed = len(outputs) * _LISTED + (source.path / "config.json").stat().st_size + 4096
    return Plan(
        source,
        destination,
        profile,
        shards,
        classes=sizes_by_class(outputs),
        disk_needed=sum(s.nbytes for s in shards) + listed + small_files,
        disk_done=disk_done,
        disk_free=disk_free,
        memory_needed=sum(o.nbytes for o in outputs if source.is_loaded(o.name)),
    )
